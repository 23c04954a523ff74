"""TensorBoard and MLflow beside the log: what a training logs, for those who watch it in a browser.

Their files hold times, so they lie in a folder of their own, `tracking/`, apart from what is a function of the seed.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from data.errors import ConfigError
from data.options import Options

logger = logging.getLogger(__name__)

TRACKING = "tracking"
_RUN = "training"


class Use(StrEnum):
    """Whether an optional tracker is used."""

    AUTO = "auto"
    """Where its package is installed."""
    ON = "on"
    """Always; without its package the training does not start."""
    OFF = "off"
    """Never."""


class TrackingOptions(Options):
    """Trackers of the training beside `log.jsonl` and `history.csv`, which are always written."""

    tensorboard: Use = Use.AUTO
    """TensorBoard event files; look at them with `tensorboard --logdir WORKSPACE`."""
    mlflow: Use = Use.AUTO
    """MLflow runs, in a store of files in each unit's folder, never on a server: Graft uses no network."""


class Tracker(Protocol):
    """Something that keeps numbers by name and step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keeps the numbers of a step."""

    def close(self) -> None:
        """Writes what is left."""


class TensorBoardTracker:
    """Writes TensorBoard event files.

    Args:
        folder: where they go; emptied.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer: Any = SummaryWriter(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keeps the numbers of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


class MLflowTracker:
    """Keeps one MLflow run in a store of files; `mlflow ui --backend-store-uri FOLDER` shows it.

    Args:
        folder: of the store; earlier runs in it are marked as deleted.

    Raises:
        ImportError: mlflow is not installed.
    """

    def __init__(self, folder: Path) -> None:
        # Read when mlflow is imported and when the store is opened: nothing is sent anywhere, and the store may be
        # files (a database needs packages that mlflow-skinny comes without).
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=folder.absolute().as_uri())
        # The store is emptied through mlflow itself: it keeps the stores that a process has opened, and fails on one
        # whose folder was removed under it.
        known = self._client.get_experiment_by_name(_RUN)
        experiment = known.experiment_id if known else self._client.create_experiment(_RUN)
        for earlier in self._client.search_runs([experiment]):
            self._client.delete_run(earlier.info.run_id)
        self._run: str = self._client.create_run(experiment).info.run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keeps the numbers of a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._run)


_TRACKERS: dict[str, type[TensorBoardTracker] | type[MLflowTracker]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MLflowTracker,
}


def open_trackers(options: TrackingOptions, folder: Path, name: str = "") -> list[Tracker]:
    """Opens the trackers that the options ask for, empty: a training that goes on is played to them again.

    Args:
        options: which.
        folder: of the unit; theirs is `tracking/` in it.
        name: of the training, where a unit has several.

    Raises:
        ConfigError: a tracker is on and its package is not installed.
    """
    opened: list[Tracker] = []
    for package, tracker in _TRACKERS.items():
        use: Use = getattr(options, package)
        if use is Use.OFF:
            continue
        own = folder / TRACKING / package / name
        try:
            opened.append(tracker(own))
        except ImportError as error:
            if use is Use.ON:
                raise ConfigError(
                    f"`tracking.{package}: on`, but {package} cannot be imported ({error})",
                    expected=f"{package} installed, or `auto` or `off`",
                    fix="run `pip install '.[tracking]'` in the folder of Graft's clone",
                ) from error
            logger.debug("%s is not installed; the training is not tracked with it", package)
    return opened

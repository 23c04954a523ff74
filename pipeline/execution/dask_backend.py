"""Units on the workers of a dask cluster, through its client: joblib's own backend for dask hangs on lost workers."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ConfigError, GraftError
from data.parallel import folder_of_process, go_to
from pipeline.execution.backend import Work
from pipeline.execution.backend_options import DaskOptions
from pipeline.execution.cluster.node_facts import NodeFacts
from pipeline.execution.unit import Outcome, Unit, is_done
from pipeline.execution.worker import run_unit
from pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

_KNOWN = ".known-to-dask"
_KILLED = (
    "its worker was killed repeatedly; expected it to finish (did the machine run out of memory?); to fix it, give the "
    "workers more memory, or use smaller patches"
)


class DaskError(GraftError):
    """The dask cluster cannot run units."""


@dataclass(frozen=True)
class DaskBackend:
    """Runs units on workers that somebody started.

    A worker that dies takes the units that it holds with it, those that did nothing wrong among them. The lost ones
    are then run one by one, and the one that kills its worker alone has failed.

    Attributes:
        options: of the cluster.
    """

    options: DaskOptions

    def still_works(self, stage: str, workspace: Workspace) -> bool:
        """Never: the scheduler forgets the units of a client that is gone."""
        return False

    def run(self, work: Work) -> Iterator[Outcome]:
        """Runs units and yields how each ended.

        Raises:
            ConfigError: the package distributed is not installed.
            DaskError: the scheduler or its workers are not to be reached.
            NodeError: a worker does not see the workspace, or has another Graft.
        """
        if not work.units:
            return
        with self._client() as client:
            self._require_alike(client, work.workspace)
            lost: list[Unit] = []
            for unit, outcome in self._submitted(client, work, work.units):
                if outcome is None:
                    lost.append(unit)
                else:
                    yield outcome
            for unit in lost:
                yield from self._alone(client, work, unit)

    def _alone(self, client: Client, work: Work, unit: Unit) -> Iterator[Outcome]:
        # The scheduler itself tries several workers.
        [(_, outcome)] = self._submitted(client, work, [unit])
        yield outcome or Outcome(unit.key, "failed", message=_KILLED)

    def _submitted(self, client: Client, work: Work, units: Sequence[Unit]) -> Iterator[tuple[Unit, Outcome | None]]:
        """Yields each unit with its outcome, or with `None` if its worker died."""
        from distributed import KilledWorker, as_completed

        here, token = folder_of_process(), secrets.token_hex(4)
        futures = {
            client.submit(
                _run_there,
                here,
                work.call(unit),
                key=f"{work.stage}-{number}-{token}",
                priority=-number,
                retries=0,
                resources=self.options.resources or None,
                pure=False,
            ): unit
            for number, unit in enumerate(units)
        }
        for future in as_completed(list(futures), raise_errors=False):
            unit = futures[future]
            if future.status == "finished":
                yield unit, future.result()
            elif is_done(unit, work.workspace):
                yield unit, Outcome(unit.key, "done")
            elif future.status == "error" and not isinstance(error := future.exception(), KilledWorker):
                yield unit, Outcome(unit.key, "failed", message=f"{type(error).__name__}: {error}")
            else:
                logger.warning("%s: the worker of %s was lost", work.stage, unit.key)
                yield unit, None
            future.release()

    @contextmanager
    def _client(self) -> Iterator[Client]:
        try:
            from distributed import Client
        except ImportError as error:
            raise ConfigError(
                "`execution.backend: dask`, but the package distributed is not installed",
                expected="Graft with its extra `cluster`",
                fix="run `pip install '.[cluster]'` in the folder of Graft's clone",
            ) from error
        named: dict[str, Any] = (
            {"address": self.options.scheduler}
            if self.options.scheduler
            else {"scheduler_file": self.options.scheduler_file}
        )
        try:
            client = Client(**named, timeout=30)
        except (OSError, ValueError) as error:
            address = self.options.scheduler or self.options.scheduler_file
            raise DaskError(
                f"no dask scheduler answers at {address} ({error})",
                expected="a running `dask scheduler`",
                fix="start it, or correct `execution.dask`",
            ) from error
        with client:
            try:
                client.wait_for_workers(1, timeout=self.options.wait_seconds)
            except TimeoutError as error:
                raise DaskError(
                    f"the dask scheduler has had no worker for {self.options.wait_seconds:g} s",
                    expected="at least one `dask worker`",
                    fix="start some, or raise `execution.dask.wait_seconds`",
                ) from error
            yield client

    def _require_alike(self, client: Client, workspace: Workspace) -> None:
        known = workspace.root / _KNOWN
        known.touch()
        try:
            mine = NodeFacts.here(known)
            found = client.run(_facts_there, folder_of_process(), known)
            for facts in found.values():
                mine.require_same(facts, workspace.root)
        finally:
            known.unlink(missing_ok=True)


def _facts_there(folder: str | None, known: Path) -> NodeFacts:
    go_to(folder)
    return NodeFacts.here(known)


def _run_there(folder: str | None, call: tuple[Unit, Path, Path, int]) -> Outcome:
    go_to(folder)
    return run_unit(*call)

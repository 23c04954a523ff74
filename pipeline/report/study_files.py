"""What the report reads: the files of a workspace, each of which may not be there yet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter, ValidationError

from data.errors import ConfigError, WorkspaceError
from data.natural_order import natural
from data.stored_record import AGAIN, record_if_there
from models.priors.factory import PriorOptions
from pipeline.arms.arm_record import PREDICTIONS, TRAININGS, UNIT, ArmRecord, read_arm
from pipeline.arms.choices import ArmOptions
from pipeline.arms.presets import PRESETS
from pipeline.arms.rivals import rivals
from pipeline.evaluation.calibration_tables import CALIBRATION, CalibrationRow, read_calibration_csv
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.evaluated_models import TableSettings, read_evaluated
from pipeline.evaluation.leading_arm import Lead, LeadingArm, leading_arms
from pipeline.evaluation.options import EvaluationOptions
from pipeline.evaluation.study_results import CASES, COMPARISONS, LEADING_ARMS, SUMMARY
from pipeline.evaluation.tables import StudyRows, SummaryRow, read_cases_csv, read_summary_csv
from pipeline.execution.provenance_record import Provenance
from pipeline.storage.cached_case import ARRAYS
from pipeline.storage.file_names import CONFIG, HISTORY, PLAN, PLAN_UNIT, PROVENANCE, RESULTS
from pipeline.storage.plan_record import PlanRecord
from pipeline.storage.stage_names import Stage
from pipeline.storage.yaml_file import read_yaml

ModelT = TypeVar("ModelT", bound=BaseModel)
History = dict[str, NDArray[np.float64]]


def folders(parent: Path) -> list[Path]:
    """Returns the sub-folders in natural order, hidden and temporary ones left out; none without the parent."""
    if not parent.is_dir():
        return []
    return sorted((p for p in parent.iterdir() if p.is_dir() and p.name[0] != "."), key=lambda p: natural(p.name))


def read_configuration(path: Path) -> dict[str, Any]:
    """Reads the resolved configuration; empty where it is missing.

    Raises:
        WorkspaceError: the file is damaged or holds something else.
    """
    try:
        value = read_yaml(path) if path.is_file() else None
    except ConfigError as error:
        raise _damaged(path, error) from error
    if value is not None and not isinstance(value, dict):
        raise _damaged(path, TypeError(f"it holds a {type(value).__name__}, not a mapping"))
    return value or {}


def read_history(path: Path) -> History:
    """Reads a `history.csv` into columns; an empty field is NaN, a missing file is no columns at all.

    Raises:
        WorkspaceError: a value is not a number.
    """
    if not path.is_file():
        return {}
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        records = list(reader)
        return {
            name: np.array([float(record[name]) if record[name] else math.nan for record in records])
            for name in reader.fieldnames or []
        }
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WorkspaceError:
    return WorkspaceError(f"{path}: cannot be read ({error})", expected="a whole file", fix=AGAIN)


@dataclass(frozen=True)
class InferredUnit:
    """One trained arm: `infer/ARM/nNN/repeat-R`.

    Attributes:
        root: the workspace.
        record: its `unit.json`.
    """

    root: Path
    record: ArmRecord

    @property
    def arm(self) -> str:
        """Its name."""
        return self.record.arm

    @property
    def n(self) -> int:
        """Number of target patients it learned from."""
        return self.record.n

    @property
    def repeat(self) -> int:
        """Which repeat."""
        return self.record.repeat

    def predictions(self) -> dict[str, Path]:
        """Case → file, for the cases whose prediction was kept."""
        folders = [self.root / PREDICTIONS / key for key in self.record.predictions]
        return {p.stem: p for folder in folders for p in sorted(folder.glob("*.safetensors"))}

    def history(self) -> History:
        """The history of its first member; no columns at all where it has no model or the training was deleted."""
        return read_history(self.root / TRAININGS / "/".join(self.record.trainings[:1]) / HISTORY)


@dataclass
class StudyFiles:
    """The small files of a workspace, read once; pictures and arrays are read where they are shown.

    Attributes:
        root: the workspace.
        comparisons: every arm against the best rival, by Dice.
        leading: the leading arm of every size against the others, by Dice.
    """

    root: Path
    config: dict[str, Any] = field(init=False)
    provenance: Provenance | None = field(init=False)
    plan: PlanRecord | None = field(init=False)
    study: StudyRows | None = field(init=False)
    summary: list[SummaryRow] = field(init=False)
    comparisons: list[Comparison] = field(init=False)
    leading: list[LeadingArm] = field(init=False)
    calibration: StudyRows[CalibrationRow] | None = field(init=False)
    units: list[InferredUnit] = field(init=False)

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise WorkspaceError(
                f"{self.root}: there is no such workspace", expected="the folder of a study", fix="run the study first"
            )
        self.config = read_configuration(self.root / CONFIG)
        self.provenance = record_if_there(self.root / PROVENANCE, Provenance)
        self.plan = record_if_there(self.root / Stage.CHECK / PLAN_UNIT / PLAN, PlanRecord)
        results = self.root / RESULTS
        cases, summary = results / CASES, results / SUMMARY
        rows = read_cases_csv(cases) if cases.is_file() else []
        self.study = StudyRows(rows) if rows else None
        self.summary = read_summary_csv(summary) if summary.is_file() else []
        compared, leads = results / COMPARISONS, results / LEADING_ARMS
        compared_by_any = read_rows(compared, Comparison) if compared.is_file() else []
        self.comparisons = [row for row in compared_by_any if row.metric == "dice"]
        self.leading = leading_arms(read_rows(leads, Lead)) if leads.is_file() else []
        calibration = results / CALIBRATION
        judged = read_calibration_csv(calibration) if calibration.is_file() else []
        self.calibration = StudyRows(judged) if judged else None
        paths = sorted(self.root.glob(f"{Stage.INFER}/*/n*/repeat-*/{UNIT}"))
        units = [InferredUnit(self.root, read_arm(path.parent)) for path in paths]
        named = {*self._configured(), *self._tabled()}
        # Arms that were taken out of the configuration leave their folders behind.
        self.units = [unit for unit in units if unit.arm in named or not named]

    def setting(self, *keys: str, default: Any = None) -> Any:
        """Returns what the configuration has under `a.b…`, as it is written; the default where a key is missing.

        Rooms above this one own the model of the whole configuration; `options` reads the parts that lie below.
        """
        value: Any = self.config
        for key in keys:
            if not isinstance(value, Mapping) or key not in value:
                return default
            value = value[key]
        return value

    @property
    def seed(self) -> int:
        """Seed of the study."""
        recorded = self.provenance.seed if self.provenance else None
        return int(self.setting("seed", default=recorded or 0))

    @property
    def name(self) -> str:
        """Name of the study, or of its folder."""
        return str(self.setting("name") or self.root.name)

    @property
    def table_settings(self) -> TableSettings:
        """What the tables follow from; where an earlier version did not write it down, what is configured."""
        recorded = read_evaluated(self.root / RESULTS)
        if recorded is not None and recorded.settings is not None:
            return recorded.settings
        options = self.options(EvaluationOptions, "evaluation") or EvaluationOptions()
        compared_with = rivals(self.arm_options() or PRESETS, options.rivals)
        return TableSettings(resamples=options.resamples, rivals=compared_with, seed=self.seed)

    @property
    def title(self) -> str:
        """What the study calls itself."""
        return str(self.setting("title") or self.name)

    def options(self, model: type[ModelT], *keys: str) -> ModelT | None:
        """Reads a part of the configuration, with its defaults; None where it is missing or of another version."""
        try:
            return model.model_validate(self.setting(*keys))
        except ValidationError:
            return None

    def arm_options(self) -> dict[str, ArmOptions]:
        """Arm → its choices, in the order of the configuration; empty where it is missing or of another version."""
        named = self.setting("target_training", "arms")
        names = list(named) if isinstance(named, Mapping) else []
        arms = {str(name): self.options(ArmOptions, "target_training", "arms", name) for name in names}
        known = {name: arm for name, arm in arms.items() if arm is not None}
        return known if len(known) == len(arms) else {}

    def densities(self) -> dict[str, PriorOptions]:
        """Density → its settings; empty where the configuration is missing or of another version."""
        adapter: TypeAdapter[dict[str, PriorOptions]] = TypeAdapter(dict[str, PriorOptions])
        try:
            named = self.setting("priors", "densities", default={})
            # `null` removes a default density.
            return adapter.validate_python({name: own for name, own in named.items() if own is not None})
        except (AttributeError, ValidationError):
            return {}

    def target_dataset(self) -> str | None:
        """Name of the target's dataset, if the configuration tells."""
        return self.setting("target", "dataset")

    def class_values(self, dataset: str) -> dict[str, list[int]]:
        """Class name → values in the label maps of a dataset, from the plan that `check` wrote; empty without one."""
        return {} if self.plan is None else self.plan.classes.get(dataset, {})

    def arms(self) -> list[str]:
        """All arms, in the order of the configuration, then of the tables, then of the folders."""
        tabled, trained = self._tabled(), [u.arm for u in self.units]
        known = {*tabled, *trained}
        return list(dict.fromkeys([*(a for a in self._configured() if a in known), *tabled, *trained]))

    def _configured(self) -> list[str]:
        return [str(arm) for arm in self.setting("target_training", "arms", default=())]

    def _tabled(self) -> list[str]:
        return [*(r.arm for r in self.summary), *(self.study.arms if self.study else ()),
                *(c.arm for c in self.comparisons)]  # fmt: skip

    def predicted_unit(self, arm: str, n: int) -> InferredUnit | None:
        """The first repeat of an arm at a size whose predictions were kept; None where there is none."""
        return next((u for u in self.units if (u.arm, u.n) == (arm, n) and u.predictions()), None)

    def preprocessed(self, case: str) -> Path | None:
        """The folder of a preprocessed target case, or None where it is missing."""
        names = [d.name for d in folders(self.root / Stage.PREPROCESS)]
        target = self.target_dataset()
        for name in [target] if target in names else names:
            folder = self.root / Stage.PREPROCESS / str(name) / case
            if (folder / ARRAYS).is_file():
                return folder
        return None

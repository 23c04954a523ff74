"""What the report reads: the files of a workspace, each of which may not be there yet."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import ConfigError, WorkspaceError
from data.natural_order import natural
from data.stored_record import AGAIN, record_if_there
from models.priors.factory import PriorOptions
from pipeline.arms.arm_record import PREDICTIONS, TRAININGS, UNIT, ArmRecord, read_arm
from pipeline.arms.choices import ArmOptions
from pipeline.arms.presets import PRESETS
from pipeline.arms.rivals import rivals
from pipeline.config.reading import parse_config
from pipeline.config.study import StudyConfig
from pipeline.evaluation.calibration_tables import CALIBRATION, CalibrationRow
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.csv_rows import rows_if_there
from pipeline.evaluation.evaluated_models import TableSettings, read_evaluated
from pipeline.evaluation.leading_arm import Lead, LeadingArm, leading_arms
from pipeline.evaluation.options import EvaluationOptions
from pipeline.evaluation.study_results import CASES, COMPARISONS, LEADING_ARMS, SUMMARY
from pipeline.evaluation.tables import CaseRow, StudyRows, SummaryRow
from pipeline.execution.provenance_record import Provenance
from pipeline.packs.pack_record import PACK, PackRecord
from pipeline.prediction.reading import ReadingOptions
from pipeline.storage.cached_case import ARRAYS
from pipeline.storage.file_names import CONFIG, HISTORY, PLAN, PLAN_UNIT, PROVENANCE, RESULTS
from pipeline.storage.plan_record import PlanRecord
from pipeline.storage.stage_names import Stage
from pipeline.storage.yaml_file import read_yaml

History = dict[str, NDArray[np.float64]]


def folders(parent: Path) -> list[Path]:
    """Returns the sub-folders in natural order, hidden and temporary ones left out; none without the parent."""
    if not parent.is_dir():
        return []
    return sorted((p for p in parent.iterdir() if p.is_dir() and p.name[0] != "."), key=lambda p: natural(p.name))


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
class KeptPrediction:
    """The prediction of a case by one arm.

    Attributes:
        path: the file.
        reading: how the arm reads it; in cross-validation that of the case's fold.
    """

    path: Path
    reading: ReadingOptions


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

    def predictions(self) -> dict[str, KeptPrediction]:
        """Case → prediction, for the cases whose prediction was kept."""
        return {
            path.stem: KeptPrediction(path, reading)
            for key, reading in self.record.read_predictions()
            for path in sorted((self.root / PREDICTIONS / key).glob("*.safetensors"))
        }

    def training_folders(self) -> list[Path]:
        """The folder of the training of each member of its model; it may have been deleted."""
        return [self.root / TRAININGS / key for key in self.record.trainings]

    def history(self) -> History:
        """The history of its first member; no columns at all where it has no model or the training was deleted."""
        return next((read_history(folder / HISTORY) for folder in self.training_folders()), {})


@dataclass
class StudyFiles:
    """The small files of a workspace, read once; pictures and arrays are read where they are shown.

    Attributes:
        root: the workspace.
        config: the resolved configuration; `None` where it is missing or of another version.
        pack: what the source pack holds, where one takes the place of a source dataset.
        comparisons: every arm against the best rival, by Dice.
        leading: the leading arm of every size against the others, by Dice.
    """

    root: Path
    config: StudyConfig | None = field(init=False)
    provenance: Provenance | None = field(init=False)
    plan: PlanRecord | None = field(init=False)
    pack: PackRecord | None = field(init=False)
    study: StudyRows | None = field(init=False)
    summary: list[SummaryRow] = field(init=False)
    comparisons: list[Comparison] = field(init=False)
    leading: list[LeadingArm] = field(init=False)
    calibration: StudyRows[CalibrationRow] | None = field(init=False)
    units: list[InferredUnit] = field(init=False)
    _fault: str = field(init=False, default="")

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise WorkspaceError(
                f"{self.root}: there is no such workspace", expected="the folder of a study", fix="run the study first"
            )
        self.config = self._read_configuration()
        self.provenance = record_if_there(self.root / PROVENANCE, Provenance)
        checked = self.root / Stage.CHECK / PLAN_UNIT
        self.plan = record_if_there(checked / PLAN, PlanRecord)
        self.pack = record_if_there(checked / PACK, PackRecord)
        results = self.root / RESULTS
        rows, judged = rows_if_there(results / CASES, CaseRow), rows_if_there(results / CALIBRATION, CalibrationRow)
        self.study = StudyRows(rows) if rows else None
        self.calibration = StudyRows(judged) if judged else None
        self.summary = rows_if_there(results / SUMMARY, SummaryRow)
        self.comparisons = [row for row in rows_if_there(results / COMPARISONS, Comparison) if row.metric == "dice"]
        self.leading = leading_arms(rows_if_there(results / LEADING_ARMS, Lead))
        paths = sorted(self.root.glob(f"{Stage.INFER}/*/n*/repeat-*/{UNIT}"))
        units = [InferredUnit(self.root, read_arm(path.parent)) for path in paths]
        named = {*self.arm_options(), *self._tabled()}
        # Arms that were taken out of the configuration leave their folders behind.
        self.units = [unit for unit in units if unit.arm in named or not named]

    def _read_configuration(self) -> StudyConfig | None:
        path = self.root / CONFIG
        try:
            raw = read_yaml(path) if path.is_file() else None
        except ConfigError as error:
            raise _damaged(path, error) from error
        try:
            return None if raw is None else parse_config(raw, Path(CONFIG), resolved=True)
        except ConfigError as error:
            self._fault = error.found
            return None

    @property
    def no_config(self) -> str:
        """Why there is no configuration."""
        if not (self.root / CONFIG).is_file():
            return f"{CONFIG} is missing: every command writes it, so the settings of this study are not known."
        return f"{self._fault}: another version of Graft wrote it, so the settings of this study are not known."

    @property
    def seed(self) -> int:
        """Seed of the study."""
        if self.config is not None:
            return self.config.seed
        return (self.provenance.seed if self.provenance else None) or 0

    @property
    def name(self) -> str:
        """Name of the study, or of its folder."""
        return self.config.name if self.config else self.root.name

    @property
    def title(self) -> str:
        """What the study calls itself."""
        return (self.config.title if self.config else "") or self.name

    @property
    def table_settings(self) -> TableSettings:
        """What the tables follow from; where an earlier version did not write it down, what is configured."""
        recorded = read_evaluated(self.root / RESULTS)
        if recorded is not None and recorded.settings is not None:
            return recorded.settings
        options = self.config.evaluation if self.config else EvaluationOptions()
        compared_with = rivals(self.arm_options() or PRESETS, options.rivals)
        return TableSettings(
            resamples=options.resamples, rivals=compared_with, seed=self.seed, folds=self._planned_folds
        )

    @property
    def _planned_folds(self) -> int | None:
        target = self.config.target if self.config else None
        pool = self.patients.get("pool", 0)
        return target.number_of_folds(pool) if target is not None and target.cross_validated and pool else None

    @property
    def cross_validation(self) -> str | None:
        """The design in words, e.g. `5-fold cross-validation`; `None` for a study with test patients."""
        folds = self.table_settings.folds
        if folds is None:
            return None
        return f"{'leave-one-out' if folds == self.patients.get('pool') else f'{folds}-fold'} cross-validation"

    @property
    def patients(self) -> dict[str, int]:
        """Role (`source`, `pool`, `test`) → number of patients, from the plan of `check`; empty without one."""
        if self.plan is None:
            return {}
        of_pack = {} if self.pack is None else {"source": self.pack.source.patients}
        return {role: len(patients) for role, patients in self.plan.split.items()} | of_pack

    def arm_options(self) -> dict[str, ArmOptions]:
        """Arm → its choices, in the order of the configuration; empty without one."""
        return self.config.target_training.arms if self.config else {}

    def densities(self) -> dict[str, PriorOptions]:
        """Density → its settings; empty without a configuration."""
        return self.config.priors.densities if self.config else {}

    def class_values(self, dataset: str) -> dict[str, list[int]]:
        """Class name → values in the label maps of a dataset, from the plan that `check` wrote; empty without one."""
        return {} if self.plan is None else self.plan.classes.get(dataset, {})

    def ignored_values(self, dataset: str) -> list[int]:
        """Values of voxels without annotation in the label maps of a dataset."""
        return [] if self.plan is None else self.plan.ignored.get(dataset, [])

    def arms(self) -> list[str]:
        """All arms, in the order of the configuration, then of the tables, then of the folders."""
        known = dict.fromkeys([*self._tabled(), *(u.arm for u in self.units)])
        return list(dict.fromkeys([*(arm for arm in self.arm_options() if arm in known), *known]))

    def first_units(self) -> dict[str, InferredUnit]:
        """Arm → its first unit that was trained; where none was, its first source network as it is."""
        own = {arm: [unit for unit in self.units if unit.arm == arm] for arm in self.arms()}
        return {arm: max(units, key=lambda unit: unit.record.steps > 0) for arm, units in own.items() if units}

    def _tabled(self) -> list[str]:
        return [*(r.arm for r in self.summary), *(self.study.arms if self.study else ()),
                *(c.arm for c in self.comparisons)]  # fmt: skip

    def predicted_unit(self, arm: str, n: int) -> InferredUnit | None:
        """The first repeat of an arm at a size whose predictions were kept; None where there is none."""
        return next((u for u in self.units if (u.arm, u.n) == (arm, n) and u.predictions()), None)

    def preprocessed(self, case: str) -> Path | None:
        """The folder of a preprocessed target case, or None where it is missing."""
        names = [d.name for d in folders(self.root / Stage.PREPROCESS)]
        target = self.config.target.dataset if self.config else ""
        for name in [target] if target in names else names:
            folder = self.root / Stage.PREPROCESS / name / case
            if (folder / ARRAYS).is_file():
                return folder
        return None

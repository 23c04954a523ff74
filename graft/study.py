"""Studies: `Study(config).run().results()`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data.case import Case
from data.errors import ConfigError, WorkspaceError
from data.volume import Volume
from graft.model import Model, load_model
from graft.table import Table
from pipeline.config.reading import as_yaml, parse_config, read_config
from pipeline.config.study import StudyConfig
from pipeline.deployment.model_folder import read_description
from pipeline.evaluation.calibration_tables import (
    CALIBRATION,
    CALIBRATION_SUMMARY,
    RELIABILITY,
    CalibrationRow,
    ReliabilityRow,
)
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.empty_mask_counts import EmptyMaskCount
from pipeline.evaluation.label_audit import LABEL_AUDIT, AuditRow
from pipeline.evaluation.label_efficiency import LabelEfficiency
from pipeline.evaluation.leading_arm import Lead
from pipeline.evaluation.study_results import (
    CASES,
    COMPARISONS,
    EMPTY_MASKS,
    LABEL_EFFICIENCY,
    LEADING_ARMS,
    SUMMARY,
)
from pipeline.evaluation.tables import CaseRow, SummaryRow
from pipeline.stages.infer import STAGE as INFER
from pipeline.stages.resources import Resources
from pipeline.stages.sequence import run_stages
from pipeline.stages.study_plan import UNLABELLED, read_plan
from pipeline.stages.target_plan import arm_key
from pipeline.stages.unlabelled_scans import planned_datasets
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace

RowT = TypeVar("RowT")


@dataclass(frozen=True)
class Results:
    """The result tables of a study, read when they are first asked for.

    Attributes:
        folder: where they lie, as CSV files.
    """

    folder: Path

    @cached_property
    def cases(self) -> Table[CaseRow]:
        """Metrics of every trained arm, test case and structure."""
        return self._read(CASES, CaseRow)

    @cached_property
    def summary(self) -> Table[SummaryRow]:
        """Mean and interval of every metric for every arm and number of target patients."""
        return self._read(SUMMARY, SummaryRow)

    @cached_property
    def comparisons(self) -> Table[Comparison]:
        """Every arm against the best rival that takes nothing from the prior, paired over patients."""
        return self._read(COMPARISONS, Comparison)

    @cached_property
    def leading_arms(self) -> Table[Lead]:
        """The arm with the highest Dice for every number of target patients against each other arm."""
        return self._read(LEADING_ARMS, Lead)

    @cached_property
    def label_efficiency(self) -> Table[LabelEfficiency]:
        """How many patients training from scratch would need for the same Dice."""
        return self._read(LABEL_EFFICIENCY, LabelEfficiency)

    @cached_property
    def label_audit(self) -> Table[AuditRow]:
        """Annotations against predictions of models that never saw them, the most surprising first."""
        return self._read(LABEL_AUDIT, AuditRow)

    @cached_property
    def empty_masks(self) -> Table[EmptyMaskCount]:
        """How often the policy for empty masks decided."""
        return self._read(EMPTY_MASKS, EmptyMaskCount)

    @cached_property
    def calibration(self) -> Table[CalibrationRow]:
        """Calibration of every trained arm and test case; empty where the study leaves it out."""
        return self._read(CALIBRATION, CalibrationRow, optional=True)

    @cached_property
    def calibration_summary(self) -> Table[SummaryRow]:
        """Mean and interval of every measure of calibration; empty where the study leaves it out."""
        return self._read(CALIBRATION_SUMMARY, SummaryRow, optional=True)

    @cached_property
    def reliability(self) -> Table[ReliabilityRow]:
        """Points of the reliability curves; empty where the study leaves calibration out."""
        return self._read(RELIABILITY, ReliabilityRow, optional=True)

    def _read(self, name: str, row_type: type[RowT], optional: bool = False) -> Table[RowT]:
        path = self.folder / name
        if optional and not path.is_file():
            return Table(row_type, [])
        return Table(row_type, read_rows(path, row_type))


class Study:
    """A study: what the commands `graft check` to `graft report` work on.

    Args:
        config: a YAML file, its content as a mapping, or a validated configuration.
        overrides: `a.b=value` with the value in YAML; they win over the configuration.
        workspace: folder of the results; it wins over the configuration's.

    Raises:
        ConfigError: the file is missing, a key is unknown, or a value is not allowed.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | StudyConfig,
        *,
        overrides: Iterable[str] = (),
        workspace: str | os.PathLike[str] | None = None,
    ) -> None:
        folder = None if workspace is None else Path(workspace)
        changes = tuple(overrides)
        if isinstance(config, StudyConfig):
            config = config.model_dump(mode="json")
        if isinstance(config, Mapping):
            self._config = parse_config(dict(config), Path("the configuration"), changes, folder)
        else:
            self._config = read_config(Path(config), changes, folder)

    def __repr__(self) -> str:
        return f"Study {self._config.name} in {self.workspace}"

    @property
    def config(self) -> StudyConfig:
        """The configuration with every default filled in; `as_yaml` writes it out."""
        return self._config

    @property
    def workspace(self) -> Path:
        """The folder of the study."""
        return self._config.workspace_folder

    @property
    def report(self) -> Path:
        """The page that the last stage writes."""
        return self.workspace / "report" / "index.html"

    def as_yaml(self) -> str:
        """Returns the configuration with every default written out; it can be read again."""
        return as_yaml(self._config)

    def run(
        self,
        stages: Sequence[str] | None = None,
        *,
        jobs: int | None = None,
        device: str = "auto",
        strict: bool = False,
    ) -> Study:
        """Runs stages; what is finished is not done again.

        Args:
            stages: names in their order, such as `["check", "preprocess"]`; all by default.
            jobs: units of work at a time; by default one for each core.
            device: `auto`, `cpu` or `cuda`.
            strict: whether a source that differs from the target in modality or spacing is refused.

        Returns:
            the study itself.

        Raises:
            GraftError: a stage cannot be finished; what is done is kept.
        """
        known = [stage.value for stage in Stage]
        chosen = known if stages is None else [stages] if isinstance(stages, str) else list(stages)
        if unknown := [name for name in chosen if name not in known]:
            raise ConfigError(
                f"the stage {unknown[0]!r} is unknown", expected=f"some of {', '.join(known)}", fix="name these"
            )
        if chosen:
            run_stages([Stage(name) for name in known if name in chosen], self._config, Resources(jobs, device, strict))
        return self

    def results(self) -> Results:
        """Returns the result tables.

        Raises:
            WorkspaceError: the study was not evaluated.
        """
        folder = self.workspace / "results"
        if not (folder / SUMMARY).is_file():
            raise WorkspaceError(
                f"{folder}: holds no results",
                expected=f"the tables of a finished study, {SUMMARY} among them",
                fix="call `run()` first, or `graft run CONFIG`",
            )
        return Results(folder)

    def cases(self, role: str = "test") -> list[Case]:
        """Returns the raw scans of a role, which `Model.predict` and `preprocess` take as they are.

        Args:
            role: `source`, `pool` (from whose patients the arms learn), `test` or `unlabelled`.

        Raises:
            ConfigError: there is no such role.
            WorkspaceError: the stage `check`, which draws the roles, was not run.
            DataError: a dataset is not where the configuration says.
        """
        if role not in (roles := ("source", "pool", "test", UNLABELLED)):
            expected = f"{', '.join(roles[:-1])} or {roles[-1]}"
            raise ConfigError(f"the role {role!r} is unknown", expected=expected, fix="name one of these")
        workspace = Workspace(self.workspace)
        plan = read_plan(self._config, workspace)
        dataset = planned_datasets(plan)[plan.dataset_of(role)]
        wanted = {name for names in plan.patients(role).values() for name in names}
        return [case for case in dataset.cases if case.name in wanted]

    def references(self, case: Case) -> dict[str, Volume]:
        """Returns class → mask of a case of the target as it was annotated, boolean, on the grid of its label.

        Raises:
            WorkspaceError: the stage `check` was not run.
            DataError: the case has no label, or it cannot be read.
        """
        plan = read_plan(self._config, Workspace(self.workspace))
        label = case.read_label()
        classes = plan.classes[self._config.target.dataset]
        return {name: label.with_array(np.isin(label.array, list(values))) for name, values in classes.items()}

    def load_model(self, arm: str, n: int, repeat: int = 0, *, device: str = "auto", allow_code: bool = False) -> Model:
        """Reads the model that an arm trained.

        Args:
            arm: its name in the configuration.
            n: number of target patients from whom it learned.
            repeat: which repeat.
            device: `auto`, `cpu` or `cuda`.
            allow_code: whether a network that is code outside Graft may be run, even if it is not the configuration's.

        Raises:
            ModelError: there is no such model.
        """
        folder = Workspace(self.workspace).unit_folder(INFER, arm_key(arm, n, repeat))
        # Whoever writes a configuration decides whose code is run.
        own = read_description(folder)[0].network == self._config.network_of(arm)
        return load_model(folder, device=device, allow_code=allow_code or own)

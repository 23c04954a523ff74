"""The plan of a study: its source, pool and test patients. Written by `check`, read by every later stage.

Later stages need only the workspace, so it can be moved to a machine that has neither the raw scans nor the packages
that read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.errors import ConfigError
from data.splits import Choice, Split, draw_split
from data.stored_record import read_record
from models.heads import Heads
from models.networks.factory import NetworkOptions
from pipeline.arms.target_network import TargetNetwork
from pipeline.config.study import StudyConfig
from pipeline.execution.unit import require_done
from pipeline.packs.pack_record import PACK, PackRecord
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.file_names import PLAN, PLAN_UNIT
from pipeline.storage.plan_record import PlanRecord
from pipeline.storage.workspace import Workspace

STAGE, KEY = "check", PLAN_UNIT
UNLABELLED = "unlabelled"
"""The role of scans whose labels nobody has, or nobody reads."""


@dataclass(frozen=True)
class StudyPlan:
    """The split of a study, with channels and classes.

    Attributes:
        split: patients and cases of each role (`source`, `pool`, `test`).
        classes: dataset → class name → values in its label maps.
        channels: dataset → channel names in the order of the network's input.
        config: of the study.
        workspace: of the study.
        pack: what the source pack holds, where one takes the place of a source dataset.
        ignored: dataset → values in its label maps of voxels without annotation, where there are any.
        unlabelled: patient → cases of the target without annotation, apart from those of the split.
    """

    split: Split
    classes: Mapping[str, Mapping[str, Sequence[int]]]
    channels: Mapping[str, Sequence[str]]
    config: StudyConfig
    workspace: Workspace
    pack: PackRecord | None = None
    ignored: Mapping[str, Sequence[int]] = field(default_factory=dict)
    unlabelled: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def dataset_of(self, role: str) -> str:
        """Name of the dataset of `source`, `pool`, `test` or `unlabelled`.

        Raises:
            ConfigError: the source is a pack, or there is none.
        """
        name = self.config.source_dataset if role == "source" else self.config.target.dataset
        if name is None:
            pack = self.config.source_pack
            raise ConfigError(
                "the study has no source"
                if pack is None
                else f"the source of the study is the pack {pack}, which holds no scans",
                expected="pool or test",
                fix="name one of these, or a study whose source is a dataset",
            )
        return name

    @property
    def source_channels(self) -> tuple[str, ...]:
        """Channel names of the source networks, in order."""
        return self.pack.channels if self.pack is not None else tuple(self.channels[self.dataset_of("source")])

    @property
    def source_classes(self) -> tuple[str, ...]:
        """Class names of the source networks, in order, background left out."""
        return self.pack.classes if self.pack is not None else tuple(self.classes[self.dataset_of("source")])

    @property
    def source_heads(self) -> Heads:
        """What the output channels of the source networks stand for."""
        return self.pack.heads if self.pack is not None else Heads.of(self.classes[self.dataset_of("source")])

    @property
    def source_outputs(self) -> int:
        """Number of output channels of the source networks."""
        return self.source_heads.outputs(len(self.source_classes))

    def target_network(self, options: NetworkOptions) -> TargetNetwork:
        """A network for the channels and classes of the target."""
        dataset = self.config.target.dataset
        heads = Heads.of(self.classes[dataset])
        return TargetNetwork(options, len(self.channels[dataset]), heads.outputs(len(self.classes[dataset])), heads)

    def labels(self, dataset: str) -> dict[str, Any]:
        """What the label maps of a dataset mean, for recipes; exclusive classes without ignored voxels say no more."""
        classes, ignored = self.classes[dataset], list(self.ignored.get(dataset, ()))
        overlapping = Heads.of(classes) is Heads.OVERLAPPING
        return {
            "classes": classes,
            **({"ignored": ignored} if ignored else {}),
            **({"heads": Heads.OVERLAPPING.value} if overlapping else {}),
        }

    def patients(self, role: str) -> Mapping[str, Sequence[str]]:
        """Patient → cases of `source`, `pool`, `test` or `unlabelled`."""
        split = self.split
        return {
            "source": split.source_cases,
            "pool": split.pool_cases,
            "test": split.test_cases,
            UNLABELLED: self.unlabelled,
        }[role]

    @property
    def folds(self) -> int | None:
        """Number of folds of a cross-validation; `None` for a study with test patients."""
        target = self.config.target
        return target.number_of_folds(len(self.split.pool)) if target.cross_validated else None

    def cached(self, role: str, patient: str) -> list[CachedCase]:
        """The preprocessed cases of one patient."""
        dataset = self.dataset_of(role)
        return [
            CachedCase(
                case,
                patient,
                self.workspace.unit_folder("preprocess", f"{dataset}/{case}"),
                self.classes[dataset],
                self.ignored.get(dataset, ()),
            )
            for case in self.patients(role)[patient]
        ]

    def digests(self, role: str, patients: Sequence[str]) -> dict[str, str]:
        """Case → digest of its preprocessing, for the recipes of units that use it.

        Raises:
            WorkspaceError: a case is not preprocessed.
        """
        return {
            case.name: require_done(self.workspace, "preprocess", f"{self.dataset_of(role)}/{case.name}")["digest"]
            for patient in patients
            for case in self.cached(role, patient)
        }

    def used_cases(self) -> dict[str, list[str]]:
        """Dataset → names of all cases that the study uses, sorted."""
        used: dict[str, set[str]] = {}
        for role in ("source", "pool", "test", UNLABELLED):
            for cases in self.patients(role).values():
                used.setdefault(self.dataset_of(role), set()).update(cases)
        return {dataset: sorted(cases) for dataset, cases in used.items()}


def make_split(config: StudyConfig, datasets: Mapping[str, Dataset]) -> Split:
    """Draws the patients of source and target, unless the study lists their cases.

    Raises:
        DataError: too few patients, unknown cases, or a patient on both sides.
    """
    own, target = config.target, datasets[config.target.dataset]
    # A pack holds no scans: the target is drawn beside no source patients, as in a study without a source.
    source = target if config.source_dataset is None else datasets[config.source_dataset]
    pool: Choice | None
    test: Choice
    if own.pool_cases is not None:
        pool, test = own.pool_cases, own.test_cases or ()
    else:
        pool, test = None if own.patients is not None else own.pool or 0, own.test or 0
    learned: Choice = ()
    if config.source is not None and config.source.pack is None:
        learned = (config.source.patients or 0) if config.source.cases is None else config.source.cases
    split = draw_split(source, target, source_choice=learned, pool=pool, test=test, seed=config.seed)
    # Cross-validation tests the patients of the pool themselves.
    return replace(split, test_cases=split.pool_cases) if own.cross_validated else split


def plan_folder(workspace: Workspace) -> Path:
    """The folder of the plan."""
    return workspace.unit_folder(STAGE, KEY)


def read_plan(config: StudyConfig, workspace: Workspace) -> StudyPlan:
    """Reads the plan.

    Raises:
        WorkspaceError: `check` has not been run.
    """
    require_done(workspace, STAGE, KEY)
    plan = read_record(plan_folder(workspace) / PLAN, PlanRecord)
    pack = None if config.source_pack is None else read_record(plan_folder(workspace) / PACK, PackRecord)
    split = Split.from_json(plan.split)
    return StudyPlan(split, plan.classes, plan.channels, config, workspace, pack, plan.ignored, plan.unlabelled)

"""What a command would do: the units of each kind that are to do, for how long, and why. Nothing is run or written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.errors import GraftError
from pipeline.arms.arm_record import PREDICTIONS, PSEUDO_LABELS, TRAININGS
from pipeline.config.study import StudyConfig
from pipeline.config.unit_kinds import KINDS_OF
from pipeline.execution.durations import seconds_per_size
from pipeline.execution.unit import Unit, is_done
from pipeline.stages.needed_stages import needless_stages
from pipeline.stages.resources import Resources
from pipeline.stages.round_cost import RoundCost, round_costs
from pipeline.stages.stale_results import COMPARED, compared, sentences, stage_module
from pipeline.stages.training_probe import TrainingProbe
from pipeline.storage.file_names import IMAGE_MODELS, TRUNKS
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace

_OF_NETWORKS = (TRUNKS, Stage.TRAIN_SOURCE.value, IMAGE_MODELS, TRAININGS, PSEUDO_LABELS, PREDICTIONS)
"""Kinds whose units compute on the GPU, if there is one."""


@dataclass(frozen=True)
class KindForecast:
    """Units of one kind.

    Attributes:
        kind: their folder in the workspace.
        units: how many there are.
        to_do: how many of them are to do.
        seconds: work of those, on all threads together, or on a GPU; `None` if nothing is known of it.
        probed: whether that was timed on this machine, because none of the kind was ever done.
        on_gpu: whether a GPU does it.
        reasons: sentences about results that are there and are done again.
    """

    kind: str
    units: int
    to_do: int
    seconds: float | None
    probed: bool = False
    on_gpu: bool = False
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageForecast:
    """A stage: its kinds, or why nothing can be said of it yet, or why the study does not need it.

    What a round of self-training costs, and which arms have no model of n = 0, is known before the units are.
    """

    stage: Stage
    kinds: tuple[KindForecast, ...] = ()
    unknown: str = ""
    needless: str = ""
    rounds: tuple[RoundCost, ...] = ()
    without_model: Mapping[str, str] = field(default_factory=dict)


def forecast(
    stages: Sequence[Stage], config: StudyConfig, resources: Resources, probe: TrainingProbe | None = None
) -> Iterator[StageForecast]:
    """Yields what is to do in each stage whose units can be compared with the configuration, in their order.

    Units of later stages depend on results of earlier ones: what is to do there is what can be told from those that are
    there now.

    Args:
        stages: to look at.
        config: of the study.
        resources: of the command.
        probe: estimates trainings of kinds of which none was ever done.
    """
    with tempfile.TemporaryDirectory() as empty:
        # A workspace that does not exist is not made.
        there = config.workspace_folder.is_dir()
        workspace = Workspace(config.workspace_folder if there else Path(empty))
        needless = needless_stages(config)
        for stage in stages:
            if stage not in COMPARED:
                continue
            if stage in needless:
                yield StageForecast(stage, needless=needless[stage])
                continue
            found = StageForecast(stage)
            try:
                found = _known_before(found, config, workspace)
                yield replace(found, kinds=_kinds(stage, config, workspace, resources, probe))
            except GraftError as error:
                yield replace(found, unknown=error.found)


def _known_before(found: StageForecast, config: StudyConfig, workspace: Workspace) -> StageForecast:
    """What is known of a stage before its units are."""
    if found.stage is not Stage.INFER:
        return found
    without = config.target_training.without_model_at_zero()
    return replace(found, rounds=tuple(round_costs(config, workspace)), without_model=without)


def _kinds(
    stage: Stage, config: StudyConfig, workspace: Workspace, resources: Resources, probe: TrainingProbe | None
) -> tuple[KindForecast, ...]:
    module = stage_module(stage)
    # The units of `infer` leave out trainings that nothing needs any more.
    units: list[Unit] = getattr(module, "units_to_run", module.units)(config, workspace, resources)
    found = []
    for kind in dict.fromkeys((*KINDS_OF[stage], *(unit.stage for unit in units))):
        own = [unit for unit in units if unit.stage == kind]
        if own:
            on_gpu = kind in _OF_NETWORKS and resources.training(config)[1] == "cuda"
            threads = 1 if on_gpu else config.execution.threads
            found.append(_kind(stage, kind, own, threads, on_gpu, workspace, probe))
    return tuple(found)


def _kind(
    stage: Stage,
    kind: str,
    units: Sequence[Unit],
    threads: int,
    on_gpu: bool,
    workspace: Workspace,
    probe: TrainingProbe | None,
) -> KindForecast:
    to_do = [unit for unit in units if not is_done(unit, workspace)]
    rate = seconds_per_size(units, workspace) if to_do else 0.0
    seconds = probe.seconds(to_do) if rate is None and probe else None
    probed = seconds is not None
    if rate is not None:
        seconds = rate * sum(unit.size for unit in to_do)
    stale = [found for unit in to_do for found in compared(stage, unit, workspace) if not found.missing]
    work = None if seconds is None else seconds * threads
    return KindForecast(kind, len(units), len(to_do), work, probed, on_gpu, tuple(sentences(stale)))

"""Grid, patch, network and schedule together: the most ambitious study that fits into memory and time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.errors import ConfigError
from data.plain_number import plain_duration
from models.networks.residual_unet import ResidualUNetOptions
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.planning.concessions import Ambition, ambitions
from pipeline.planning.evaluation_design import EvaluationDesign
from pipeline.planning.fingerprint import Fingerprint
from pipeline.planning.patch import LARGEST, PatchPlan, plan_patch
from pipeline.planning.schedule import GOOD_STEPS, USEFUL_STEPS, Work, budget_that_fits, count_work
from pipeline.planning.spacing import Spacing, coarser
from pipeline.planning.speed import Speed
from pipeline.planning.study_folds import study_folds
from pipeline.training.available_memory import available_memory
from pipeline.training.computing import fastest_precision
from pipeline.training.memory_estimate import estimate_training_memory, fitting_patches, in_words, require_memory
from pipeline.training.patches import PatchOptions

Meter = Callable[[ResidualUNetOptions, PatchOptions, tuple[int, ...]], Speed]
"""Network, patches and voxels of a scan → the speed on this machine."""


@dataclass(frozen=True)
class Machine:
    """What trains.

    Attributes:
        device: `cpu` or `cuda`.
        at_a_time: trainings side by side.
        threads: of each.
        meter: times a network.
    """

    device: str
    at_a_time: int
    threads: int
    meter: Meter


@dataclass(frozen=True)
class Sizing:
    """What fits.

    Attributes:
        ambition: how much of the study.
        spacing: mm of the grid.
        patch: size of the patches and strides of the network.
        patches: as the study has them.
        memory: what a training takes, in words; what had to be given up for it.
        network: which network.
        design: how the study is judged.
        work: what is carried out.
        speed: on this machine.
        steps: of each training.
    """

    ambition: Ambition
    spacing: Spacing
    patch: PatchPlan
    patches: PatchOptions
    memory: str
    network: ResidualUNetOptions
    design: EvaluationDesign
    work: Work
    speed: Speed
    steps: int


def size_study(
    budget: float,
    spacing: Spacing,
    found: Fingerprint,
    design: EvaluationDesign,
    channels: int,
    classes: int,
    cases_per_patient: float,
    preparation: float,
    machine: Machine,
) -> Sizing:
    """Finds the most ambitious study that fits.

    It is the first whose trainings all have a good number of steps. Where none has on the grid of the data, it is the
    one of the most steps there; the grid is coarsened only where those would be too few to be useful.

    The speed is timed for each width of the network, and taken as proportional to the voxels.

    Args:
        budget: seconds.
        spacing: the finest grid that the data have.
        found: sizes of scans and structures.
        design: how the study is judged.
        channels: of the images.
        classes: background included.
        cases_per_patient: scans of each patient.
        preparation: seconds that preprocessing takes in all.
        machine: what trains.

    Raises:
        ConfigError: not even the least study fits into the budget.
        TrainingError: not even one small patch fits into the memory.
    """
    available = available_memory(machine.device)
    timed: dict[int, tuple[float, float, Speed]] = {}
    tried: list[Sizing] = []
    for ambition in ambitions(design.with_fewer_folds() != design):
        if ambition.coarser > 1 and (best := max(tried, key=lambda sizing: sizing.steps)).steps >= USEFUL_STEPS:
            return best
        grid = coarser(spacing, ambition.coarser) if ambition.coarser > 1 else spacing
        patch = plan_patch(grid, found.extent, found.structure, LARGEST[machine.device])
        network = patch.network(ambition.halvings)
        patches, memory = _fitting(network, channels, classes, patch, available, machine)
        scan = _scan(found.extent, grid)
        voxels = float(patches.batch * math.prod(patches.size)), float(math.prod(scan))
        if ambition.halvings not in timed:
            timed[ambition.halvings] = (*voxels, machine.meter(network, patches, scan))
        step_voxels, scan_voxels, measured = timed[ambition.halvings]
        speed = measured.for_voxels(voxels[0] / step_voxels, voxels[1] / scan_voxels)
        judged = design.with_fewer_folds() if ambition.few_folds else design
        options = TargetTrainingOptions.model_validate({"arms": ambition.arms})
        folds = study_folds(judged, options.inner_folds)
        work = count_work(options.arms, folds, ambition.members, cases_per_patient, preparation, machine.at_a_time)
        steps = work.steps(budget, speed)
        tried.append(Sizing(ambition, grid, patch, patches, memory, network, judged, work, speed, steps))
        if steps >= (GOOD_STEPS if ambition.coarser == 1 else USEFUL_STEPS):
            return tried[-1]
    least = tried[-1]
    enough = budget_that_fits(least.work, least.speed)
    raise ConfigError(
        f"--budget {plain_duration(budget)}: is too short for {least.work.networks} source and {least.work.trainings} "
        f"target trainings of {USEFUL_STEPS} steps, although {', '.join(least.ambition.given_up)}",
        expected=f"at least {enough}",
        fix=f"give `--budget {enough}` or more",
    )


def _scan(extent: NDArray[np.float64], grid: Spacing) -> tuple[int, ...]:
    return tuple(np.maximum(1, np.rint(extent / np.asarray(grid))).astype(int).tolist())


def _fitting(
    network: ResidualUNetOptions, channels: int, classes: int, patch: PatchPlan, available: int, machine: Machine
) -> tuple[PatchOptions, str]:
    """The planned patches, or smaller ones where the memory is small, and what they take."""
    planned = PatchOptions(size=patch.size, batch=patch.batch, foreground_share=patch.foreground_share)
    precision = fastest_precision(machine.device)
    estimate = estimate_training_memory(network, channels, classes, planned, precision=precision, device=machine.device)
    share = available // machine.at_a_time
    fitting = fitting_patches(estimate, share)
    if fitting is None:
        require_memory(estimate, available, machine.at_a_time)
        raise ValueError("patches that do not fit are refused")
    if fitting == planned:
        return planned, f"a training takes about {in_words(estimate.total)} of memory"
    wanted = "×".join(map(str, planned.size))
    smaller = f"{planned.batch} patches of {wanted} voxels would take {in_words(estimate.total)} of memory"
    return fitting, f"{smaller}, and {in_words(share)} are free for each training"

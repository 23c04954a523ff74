"""Plans a study from its scans."""

from __future__ import annotations

from functools import partial

from data.modality import Modality
from models.heads import Heads
from models.networks.factory import NetworkOptions
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.config.study import ExecutionOptions
from pipeline.planning.concessions import SCRATCH_ARMS, TRANSFER_ARMS, Ambition
from pipeline.planning.draft import Draft
from pipeline.planning.evaluation_design import evaluation_design
from pipeline.planning.fingerprint import fingerprint, looked_at
from pipeline.planning.grid_dice import best_dice
from pipeline.planning.pack_basis import grid_of_pack, outside_window, planned_chain
from pipeline.planning.preparation import preparation_seconds
from pipeline.planning.request import PlanRequest
from pipeline.planning.scans import read_scans
from pipeline.planning.schedule import read_budget
from pipeline.planning.sizing import Machine, Meter, Wish, size_study
from pipeline.planning.spacing import planned_spacing
from pipeline.planning.speed import Speed, assumed_speed, measure_speed
from pipeline.planning.study_folds import study_folds
from pipeline.planning.study_values import PlannedStudy, fill_in, tell
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.stages.resources import Resources
from pipeline.training.patches import PatchOptions
from preprocessing.intensity import IntensityOptions


def draft_study(request: PlanRequest, resources: Resources) -> Draft:
    """Reads target and source, and plans the study.

    Raises:
        GraftError: a dataset is not usable, the scans do not tell what they are, or the budget is too small.
    """
    budget, draft, chosen = read_budget(request.budget), Draft(), request.arm_options()
    target, source, target_patients = read_scans(request, resources, draft.warnings)
    cases = looked_at(target.annotated)
    found = fingerprint(cases, target.channels[0], target.structures, target.modality)
    design = evaluation_design(target.patients, request.target, target_patients)
    spacing, why = planned_spacing(found.spacings, found.extent)
    why += f" ({len(cases)} of them were read)"
    if source.pack is not None:
        spacing, why, lost = grid_of_pack(source.pack, spacing, why, cases, target.structures)
        draft.warnings += [lost] if lost is not None else []
    chain = planned_chain(source.pack, target.modality)
    arms = tuple(chosen) or (SCRATCH_ARMS if source.role is None else TRANSFER_ARMS)
    if not design.tested:
        # Where nothing is measured, there is nothing to compare.
        arms = tuple(chosen) or arms[-1:]
        draft.warnings.append(design.why)
    draft.pack = source.pack
    threads = ExecutionOptions().threads
    at_a_time, device = resources.trainings_at_a_time(threads)
    outputs = Heads.of(target.structures).outputs(len(target.structures))
    # Without a clock nothing is timed.
    preparation = 0.0
    if request.steps_per_second is None:
        own = preparation_seconds(cases[0], target.channels, chain, spacing)
        preparation = source.preparation(spacing) + len(target.annotated) * design.patients / target.patients * own
    meter = _meter(request, len(target.channels), outputs, device, threads)
    sizing = size_study(
        budget,
        spacing,
        found,
        design,
        len(target.channels),
        outputs,
        len(target.annotated) / target.patients,
        preparation,
        Machine(device, at_a_time, threads, meter),
        Wish(Ambition(arms), bool(chosen), source.trains, request.tune, source.pack),
    )
    if request.tune and not study_folds(sizing.design, TargetTrainingOptions().inner_folds).tuned:
        draft.warnings.append("--tune: there are too few patients to tune on, so arms have the rates of their presets")
    reachable = best_dice(cases, target.structures, sizing.spacing)
    window = None
    if target.modality is Modality.CT and source.pack is None:
        window = _window(found.foreground_range)
    elif target.modality is Modality.CT and (cut := outside_window(chain, found.foreground_range)):
        draft.warnings.append(cut)
    planned = PlannedStudy(request, target, source, sizing, why, reachable, chain, window)
    fill_in(draft, planned)
    tell(draft, planned, budget)
    return draft


def _meter(request: PlanRequest, channels: int, classes: int, device: str, threads: int) -> Meter:
    if request.steps_per_second is not None:
        steps = request.steps_per_second

        def assume(network: NetworkOptions, patches: PatchOptions, scan: tuple[int, ...]) -> Speed:
            return assumed_speed(steps, patches, scan)

        return assume
    timed = partial(measure_speed, window=SlidingWindowOptions(), device=device, threads=threads)
    return lambda network, patches, scan: timed(network, channels, classes, patches, scan)


def _window(foreground: tuple[float, float]) -> tuple[dict[str, float], str] | None:
    """A window of Hounsfield units that holds the structures, where the default one does not."""
    usual = IntensityOptions()
    low, high = foreground
    if low >= usual.window_low and high <= usual.window_high:
        return None
    wider = {
        "window_low": min(low // 10 * 10, usual.window_low),
        "window_high": max(-(-high // 10) * 10, usual.window_high),
    }
    return wider, f"the structures have {low:.0f} to {high:.0f} HU, more than the usual window of soft tissue shows"

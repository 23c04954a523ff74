"""A study planned from its scans: values, why each was chosen, and what is to be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from data.case import Case
from data.dataset import Dataset
from data.errors import ConfigError
from data.layouts.detection import read_dataset
from data.modality import Modality
from data.names import name_fault
from data.plain_number import plain_duration
from data.splits import labelled_patients, same_root
from models.networks.residual_unet import ResidualUNetOptions
from pipeline.config.study import ExecutionOptions
from pipeline.planning.checked_dataset import annotated_cases, drawn_values, require_sound
from pipeline.planning.evaluation_design import evaluation_design
from pipeline.planning.fingerprint import Structures, fingerprint, looked_at
from pipeline.planning.grid_dice import GridDice, best_dice
from pipeline.planning.preparation import preparation_seconds
from pipeline.planning.request import PlanRequest
from pipeline.planning.scan_kind import modality_of
from pipeline.planning.schedule import CYCLES, read_budget
from pipeline.planning.sizing import Machine, Meter, Sizing, size_study
from pipeline.planning.source import PlannedSource, dataset_entry, source_of_dataset
from pipeline.planning.spacing import planned_spacing
from pipeline.planning.speed import Speed, assumed_speed, measure_speed
from pipeline.planning.structures import chosen_channels, drawn_structures, named_structures
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.stages.resources import Resources
from pipeline.training.patches import PatchOptions
from preprocessing.intensity import IntensityOptions

_WARM_UP_SHARE = 5
"""A source network warms up over one of so many steps of its first cycle, but no longer than by default."""
_LONGEST_WARM_UP = 50


@dataclass
class Draft:
    """A planned study.

    Attributes:
        values: the study, as its YAML has it.
        reasons: dotted key → why.
        heading: lines above it.
        told: lines for the terminal.
        warnings: what should not go unread.
    """

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    heading: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, key: str, value: Any, why: str = "") -> None:
        """Sets a key of the study, `a.b` inside `a`, and says why."""
        node = self.values
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
        if why:
            self.reasons[key] = why


@dataclass(frozen=True)
class _Target:
    """The target as it was read."""

    dataset: Dataset
    channels: list[str]
    structures: Structures
    modality: Modality
    how: str
    annotated: list[Case]
    patients: int


def draft_study(request: PlanRequest, resources: Resources) -> Draft:
    """Reads target and source, and plans the study.

    Raises:
        GraftError: a dataset is not usable, the scans do not tell what they are, or the budget is too small.
    """
    budget, draft = read_budget(request.budget), Draft()
    target, source, target_patients = _read(request, resources, draft)
    cases = looked_at(target.annotated)
    found = fingerprint(cases, target.channels[0], target.structures, target.modality)
    design = evaluation_design(target.patients, request.target, target_patients)
    spacing, why = planned_spacing(found.spacings, found.extent)
    threads = ExecutionOptions().threads
    at_a_time, device = resources.trainings_at_a_time(threads)
    classes = len(target.structures) + 1
    # Without a clock nothing is timed.
    preparation = 0.0
    if request.steps_per_second is None:
        own = preparation_seconds(cases[0], target.channels, target.modality, spacing)
        preparation = source.preparation(spacing) + len(target.annotated) * design.patients / target.patients * own
    meter = _meter(request, len(target.channels), classes, device, threads)
    sizing = size_study(
        budget,
        spacing,
        found,
        design,
        len(target.channels),
        classes,
        len(target.annotated) / target.patients,
        preparation,
        Machine(device, at_a_time, threads, meter),
    )
    reachable = best_dice(cases, target.structures, sizing.spacing)
    window = _window(found.foreground_range) if target.modality is Modality.CT else None
    _write(draft, request, target, source, sizing, f"{why} ({len(cases)} of them were read)", reachable, window)
    _tell(draft, request, target, sizing, reachable, budget)
    return draft


def _read(request: PlanRequest, resources: Resources, draft: Draft) -> tuple[_Target, PlannedSource, int | None]:
    """Reads and checks both datasets; also returns how many target patients are used, where not all are."""
    target, other = read_dataset(request.target), read_dataset(request.source)
    channels, source_channels = chosen_channels(request.channels, target, other)
    modality, how = modality_of(target, channels, request.modality, "--modality")
    given = request.source_modality or (None if modality is Modality.CT else modality)
    source_modality, _ = modality_of(other, source_channels, given, "--source-modality")
    annotated = annotated_cases(target)
    patients, wanted, one_folder = len(labelled_patients(target)), request.patients, same_root(target, other)
    # Before anything is read: one annotated patient, or none, needs no check of the scans.
    evaluation_design(patients, request.target, wanted)
    if one_folder and wanted is None:
        wanted = max(patients // 2, 2)
    structures, of_source = _structures(request, target, other, annotated, one_folder)
    values = {value for own in structures.values() for value in own}
    jobs = resources.jobs or resources.trainings_at_a_time(1)[0]
    if one_folder:
        values |= {value for own in of_source.values() for value in own}
    found = require_sound(target, channels, values, modality, jobs, annotated)
    if not one_folder:
        own = {value for each in of_source.values() for value in each}
        found += require_sound(other, source_channels, own, source_modality, jobs)
    draft.warnings += [f"{f'{f.case}: ' if f.case else ''}{f.found} ({f.fix})" for f in found]
    source = source_of_dataset(
        str(request.source), other, of_source, source_channels, source_modality, (wanted or 0) if one_folder else 0
    )
    return _Target(target, channels, structures, modality, how, annotated, patients), source, wanted


def _structures(
    request: PlanRequest, target: Dataset, source: Dataset, annotated: list[Case], one_folder: bool
) -> tuple[Structures, Structures]:
    if one_folder and request.foreground is None:
        raise ConfigError(
            f"{request.target}: is target and source at once, and nothing says which structures are the target",
            expected=f"--foreground with some of {', '.join(name for v, name in target.label_names.items() if v)}",
            fix="add `--foreground`; the other structures are the source",
        )
    drawn = drawn_values(annotated)
    own = (
        named_structures(request.foreground, target)
        if request.foreground is not None
        else drawn_structures(target, drawn)
    )
    if request.source_foreground is not None:
        return own, named_structures(request.source_foreground, source, "--source-foreground")
    if one_folder:
        return own, drawn_structures(source, drawn, without=own)
    return own, drawn_structures(source, drawn_values(annotated_cases(source)))


def _meter(request: PlanRequest, channels: int, classes: int, device: str, threads: int) -> Meter:
    if request.steps_per_second is not None:
        steps = request.steps_per_second

        def assume(network: ResidualUNetOptions, patches: PatchOptions, scan: tuple[int, ...]) -> Speed:
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


def _write(
    draft: Draft,
    request: PlanRequest,
    target: _Target,
    source: PlannedSource,
    sizing: Sizing,
    why_spacing: str,
    reachable: Mapping[str, GridDice],
    window: tuple[dict[str, float], str] | None,
) -> None:
    draft.add("name", _name(request))
    draft.add("title", f"{', '.join(source.dataset['foreground'])} → {', '.join(target.structures)}")
    draft.add("seed", 0)
    draft.add("datasets.source", source.dataset)
    path = str(request.target)
    entry = dataset_entry(path, target.structures, target.channels, target.modality)
    draft.add("datasets.target", entry, f"Modality {target.modality.value}: {target.how}.")
    draft.add("source", {"dataset": "source", **source.role}, f"{source.why[0].upper()}{source.why[1:]}.")
    design = sizing.design
    draft.add("target", {"dataset": "target", **design.as_options()}, f"{design.why[0].upper()}{design.why[1:]}.")
    ambition = sizing.ambition
    coarser = ""
    if ambition.coarser > 1:
        coarser = f" Coarsened, because finer did not fit into the budget: {ambition.given_up[-1]}."
    best = "; ".join(f"{name} {dice.median:.3f} (worst {dice.worst:.3f})" for name, dice in reachable.items())
    spacing_why = (
        f"Spacing in mm: {why_spacing}.{coarser} Best Dice that this grid allows, labels there and back: {best}."
    )
    draft.add("preprocessing.resampling", {"spacing": list(sizing.spacing)}, spacing_why)
    if window is not None:
        draft.add("preprocessing.intensity", window[0], f"{window[1][0].upper()}{window[1][1:]}.")
    network = sizing.network.model_dump(mode="json", include={"name", "channels", "encoder_blocks", "strides"})
    strides = (
        "Every level halves all three axes."
        if sizing.network.strides is None
        else ("Thick slices are not halved until the voxels are nearly cubes.")
    )
    depth = (
        f"{len(sizing.network.channels)} levels, with 4 voxels or more at the coarsest along each axis that is halved."
    )
    draft.add("network", network, f"{depth} {strides}")
    shown = (
        "A patch shows the whole scan, and with it every structure."
        if sizing.patch.whole
        else ("A patch shows the structures and what surrounds them; half of the patches are centred on a structure.")
    )
    patches = sizing.patches.model_dump(mode="json")
    draft.add("patches", patches, f"{shown} {sizing.memory[0].upper()}{sizing.memory[1:]}.")
    draft.add(
        "augmentation",
        {"flip_axes": []},
        "Axes that may be mirrored are for you to say: [0] where left and right mean the same.",
    )
    steps = sizing.steps
    warm_up = min(steps // _WARM_UP_SHARE, _LONGEST_WARM_UP)
    training = {"networks": ambition.members, "cycles": CYCLES, "steps_per_cycle": steps, "warm_up": warm_up}
    draft.add("source_training", training, "One source network for each member of the largest arm.")
    draft.add("target_training.arms", ambition.arms, "Training from scratch, plain fine-tuning, and the default arm.")
    if design.folds is None:
        whom = "All patients of the pool; smaller sizes beside it would draw a learning curve."
        draft.add("target_training.sizes", [design.pool], whom)
    draft.add("target_training.repeats", 1)
    arithmetic = ". ".join(f"{line[0].upper()}{line[1:]}" for line in sizing.work.arithmetic(steps, sizing.speed))
    draft.add("target_training.steps", steps, f"{arithmetic}.")
    draft.add("computing", {"precision": "auto"}, "What the processor or GPU computes fastest with.")
    draft.heading += [f"Planned by `graft init` for a budget of {request.budget}. All of it may be changed."]
    draft.heading += [f"Given up for the budget: {'; '.join(ambition.given_up)}."] if ambition.given_up else []


def _tell(
    draft: Draft,
    request: PlanRequest,
    target: _Target,
    sizing: Sizing,
    reachable: Mapping[str, GridDice],
    budget: float,
) -> None:
    """Lines for the terminal: what was read, what was planned, and what it costs."""
    design, size = sizing.design, " × ".join(map(str, sizing.patches.size))
    draft.told += [
        f"target: {target.patients} annotated patients, {len(target.dataset.cases)} cases; {target.modality.value}, "
        f"{target.how}; {', '.join(target.structures)}",
        f"evaluation: {design.why}",
        f"grid: {' × '.join(f'{side:g}' for side in sizing.spacing)} mm; patches of {size} voxels, "
        f"{sizing.patches.batch} in a step; channels {', '.join(map(str, sizing.network.channels))}",
    ]
    draft.told += [
        f"best Dice that this grid allows: {name} {dice.median:.3f} (median), {dice.worst:.3f} (worst)"
        for name, dice in reachable.items()
    ]
    draft.told += sizing.work.arithmetic(sizing.steps, sizing.speed)
    draft.told += [
        f"given up for the budget of {plain_duration(budget)}: {words}" for words in sizing.ambition.given_up
    ]
    draft.warnings += [
        f"the grid allows a Dice of {dice.median:.3f} at most for {name}: raise the budget, or set a finer spacing"
        if sizing.ambition.coarser > 1
        else f"the grid allows a Dice of {dice.median:.3f} at most for {name}: it is finer than some scans are"
        for name, dice in reachable.items()
        if dice.too_coarse
    ]


def _name(request: PlanRequest) -> str:
    if request.name is not None:
        if fault := name_fault(request.name):
            raise ConfigError(f"--name {request.name[:60]!r} {fault}", expected="a file name", fix="choose another")
        return request.name
    own = request.target.resolve().name.removesuffix(".csv")
    return "study" if name_fault(own) else own

"""The values of a planned study, the reasons for them, and the lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from data.errors import ConfigError
from data.names import name_fault
from data.plain_number import plain_duration
from models.networks.residual_unet import ResidualUNetOptions
from pipeline.arms.target_training_options import TargetTrainingOptions, Tuning
from pipeline.planning.draft import Draft
from pipeline.planning.evaluation_design import EvaluationDesign
from pipeline.planning.grid_dice import GridDice
from pipeline.planning.pack_basis import chain_changes
from pipeline.planning.request import PlanRequest
from pipeline.planning.scans import PlannedTarget
from pipeline.planning.schedule import CYCLES
from pipeline.planning.sizing import Sizing
from pipeline.planning.source import PlannedSource, dataset_entry
from pipeline.stages.target_cells import FEWEST_TO_FIT
from preprocessing.chain import PreprocessingOptions

_WARM_UP_SHARE = 5
"""A source network warms up over one of so many steps of its first cycle, but no longer than by default."""
_LONGEST_WARM_UP = 50


@dataclass(frozen=True)
class PlannedStudy:
    """What was planned, and what it was planned from.

    Attributes:
        request: what was asked for.
        target: the target.
        source: the source.
        sizing: grid, patch, network and schedule.
        why_spacing: why the grid has this spacing.
        reachable: class → best Dice on the grid.
        chain: of the target, but for its grid.
        window: of a CT, and why, where it is not the default.
    """

    request: PlanRequest
    target: PlannedTarget
    source: PlannedSource
    sizing: Sizing
    why_spacing: str
    reachable: Mapping[str, GridDice]
    chain: PreprocessingOptions
    window: tuple[dict[str, float], str] | None


def fill_in(draft: Draft, plan: PlannedStudy) -> None:
    """Fills in the study."""
    source, sizing = plan.source, plan.sizing
    draft.add("name", _name(plan.request))
    draft.add("title", " → ".join(", ".join(own) for own in (source.structures, plan.target.structures) if own))
    draft.add("seed", 0)
    _add_roles(draft, plan)
    _add_preprocessing(draft, plan)
    if source.pack is None:
        _add_network(draft, sizing)
    _add_patches(draft, sizing, of_pack=source.pack is not None)
    if source.trains:
        warm_up = min(sizing.steps // _WARM_UP_SHARE, _LONGEST_WARM_UP)
        training = {"networks": sizing.work.networks, "cycles": CYCLES, "steps_per_cycle": sizing.steps}
        why = "One source network for each member of the largest arm."
        draft.add("source_training", training | {"warm_up": warm_up}, why)
    _add_target_training(draft, plan.request, sizing)
    draft.add("computing", {"precision": "auto"}, "What the processor or GPU computes fastest with.")
    draft.heading += [f"Planned by Graft for a budget of {plan.request.budget}. All of it may be changed."]
    given_up = sizing.ambition.given_up
    draft.heading += [f"Given up for the budget: {'; '.join(given_up)}."] if given_up else []


def _add_roles(draft: Draft, plan: PlannedStudy) -> None:
    """The datasets, and which patients of them learn and are tested."""
    target, source, design = plan.target, plan.source, plan.sizing.design
    if source.dataset is not None:
        draft.add("datasets.source", source.dataset)
    path = str(plan.request.target)
    entry = dataset_entry(path, target.structures, target.channels, target.modality, target.ignored)
    draft.add("datasets.target", entry, f"Modality {target.modality.value}: {target.how}.")
    if source.role is not None:
        draft.add("source", source.role, _sentence(source.why))
    draft.add("target", {"dataset": "target", **design.as_options()}, _sentence(design.why))


def _add_preprocessing(draft: Draft, plan: PlannedStudy) -> None:
    ambition, spacing = plan.sizing.ambition, plan.sizing.spacing
    coarser = ""
    if ambition.coarser > 1:
        coarser = f" Coarsened, because finer did not fit into the budget: {ambition.given_up[-1]}."
    best = "; ".join(f"{name} {dice.median:.3f} (worst {dice.worst:.3f})" for name, dice in plan.reachable.items())
    why = f"Spacing in mm: {plan.why_spacing}.{coarser} Best Dice that this grid allows, labels there and back: {best}."
    draft.add("preprocessing.resampling", {"spacing": list(spacing)}, why)
    if plan.window is not None:
        draft.add("preprocessing.intensity", plan.window[0], _sentence(plan.window[1]))
    for step, options in chain_changes(plan.chain, plan.target.modality).items():
        draft.add(f"preprocessing.{step}", options, "As the source pack's networks know it.")


def _add_patches(draft: Draft, sizing: Sizing, *, of_pack: bool) -> None:
    shown = (
        "A patch shows the whole scan, and with it every structure."
        if sizing.whole
        else ("A patch shows the structures and what surrounds them; half of the patches are centred on a structure.")
    )
    shown += " Its size is that of the source pack's." if of_pack else ""
    draft.add("patches", sizing.patches.model_dump(mode="json"), f"{shown} {_sentence(sizing.memory)}")
    draft.add(
        "augmentation",
        {"flip_axes": []},
        "Axes that may be mirrored are for you to say: [0] where left and right mean the same.",
    )


def _add_target_training(draft: Draft, request: PlanRequest, sizing: Sizing) -> None:
    design, ambition, steps = sizing.design, sizing.ambition, sizing.steps
    fitted = ambition.read_alike and design.patients >= FEWEST_TO_FIT
    alike = " Each fits how its probabilities are read, so that arms are compared fairly." * fitted
    draft.add("target_training.arms", ambition.changes, f"{_why_arms(request, design)}{alike}")
    if design.folds is None:
        whom = "All patients of the pool; smaller sizes beside it would draw a learning curve."
        draft.add("target_training.sizes", [design.pool], whom)
    draft.add("target_training.repeats", 1)
    if request.tune:
        draft.add("target_training.tune", Tuning.INNER_FOLDS.value, _why_tuned())
    arithmetic = " ".join(map(_sentence, sizing.work.arithmetic(steps, sizing.speed)))
    draft.add("target_training.steps", steps, arithmetic)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _add_network(draft: Draft, sizing: Sizing) -> None:
    options = sizing.network
    if not isinstance(options, ResidualUNetOptions):
        raise TypeError("a plan chooses no other network")
    network = options.model_dump(mode="json", include={"name", "channels", "encoder_blocks", "strides"})
    strides = (
        "Every level halves all three axes."
        if options.strides is None
        else ("Thick slices are not halved until the voxels are nearly cubes.")
    )
    depth = f"{len(options.channels)} levels, with 4 voxels or more at the coarsest along each axis that is halved."
    draft.add("network", network, f"{depth} {strides}")


def tell(draft: Draft, plan: PlannedStudy, budget: float) -> None:
    """Lines for the terminal: what was read, what was planned, and what it costs."""
    target, source, sizing, reachable = plan.target, plan.source, plan.sizing, plan.reachable
    design, size = sizing.design, " × ".join(map(str, sizing.patches.size))
    draft.told += [
        f"target: {target.patients} annotated patients, {len(target.dataset.cases)} cases; {target.modality.value}, "
        f"{target.how}; {', '.join(target.structures)}",
        f"source: {source.why}",
        f"evaluation: {design.why}",
        f"grid: {' × '.join(f'{side:g}' for side in sizing.spacing)} mm; patches of {size} voxels, "
        f"{sizing.patches.batch} in a step; {_network_words(sizing, source)}",
    ]
    draft.told += [
        f"best Dice that this grid allows: {name} {dice.median:.3f} (median), {dice.worst:.3f} (worst)"
        for name, dice in reachable.items()
    ]
    draft.told += sizing.work.arithmetic(sizing.steps, sizing.speed)
    draft.told += [
        f"given up for the budget of {plain_duration(budget)}: {words}" for words in sizing.ambition.given_up
    ]
    too_coarse = (name for name, dice in reachable.items() if dice.too_coarse)
    fix = "raise the budget" if sizing.ambition.coarser > 1 else "use a larger structure or finer scans"
    draft.warnings += [
        f"the grid allows a Dice of {reachable[name].median:.3f} at most for {name} ({fix}, or set a finer spacing)"
        for name in too_coarse
    ]


def _network_words(sizing: Sizing, source: PlannedSource) -> str:
    if source.pack is not None:
        return "the network of the source pack"
    return f"channels {', '.join(map(str, getattr(sizing.network, 'channels', ())))}"


def _why_tuned() -> str:
    rates = ", ".join(f"{rate:g}" for rate in TargetTrainingOptions().tuned_rates)
    return f"As --tune says: the first member of each arm is trained at the peak rates {rates} on every inner fold."


def _why_arms(request: PlanRequest, design: EvaluationDesign) -> str:
    if request.arms is not None:
        return "As --arms says."
    if not design.tested:
        return "One arm: where nobody is tested, there is nothing to compare."
    if request.source is None:
        return "Training from scratch: without a source there is nothing else to compare."
    return "Training from scratch, plain fine-tuning, and the default arm."


def _name(request: PlanRequest) -> str:
    if request.name is not None:
        if fault := name_fault(request.name):
            raise ConfigError(f"--name {request.name[:60]!r} {fault}", expected="a file name", fix="choose another")
        return request.name
    own = request.target.resolve().name.removesuffix(".csv")
    return "study" if name_fault(own) else own

"""Arms that take the source's word for the structures of the target need a source of the same task.

Where an arm has no annotated patient of the target, the last layer of its network is the source's, so source and target
must have the same classes in the same order, and the same channels.
"""

from __future__ import annotations

from data.errors import DataError
from pipeline.stages.study_plan import StudyPlan


def require_same_task(plan: StudyPlan) -> None:
    """Refuses a source of another task, where an arm depends on its classes.

    Raises:
        DataError: classes, what they stand for, or channels differ; names an arm that depends on them.
    """
    who = _who_depends_on_it(plan)
    if who is None or plan.config.source is None:
        return
    target = plan.config.target.dataset
    heads = plan.target_network(plan.config.network).heads
    own, other = tuple(plan.classes[target]), plan.source_classes
    if own != other:
        key = "`foreground` of both datasets, with the same names in the same order"
        raise _refusal(who, "classes", other, own, key)
    if plan.source_heads is not heads:
        kinds = (f"{plan.source_heads.value} ones",), (f"{heads.value} ones",)
        raise _refusal(who, "classes", *kinds, "`foreground` of both datasets")
    channels = tuple(plan.channels[target])
    if plan.source_channels != channels:
        raise _refusal(who, "channels", plan.source_channels, channels, "`channels` of both datasets")


def _who_depends_on_it(plan: StudyPlan) -> str | None:
    training = plan.config.target_training
    if 0 not in (training.sizes or ()):
        return None
    skipped = training.without_model_at_zero()
    return f"arm {next(name for name in training.arms if name not in skipped)!r} with n = 0"


def _refusal(who: str, what: str, source: tuple[str, ...], target: tuple[str, ...], key: str) -> DataError:
    return DataError(
        f"{who} needs a source of the target's task: the source has the {what} {', '.join(source)}, and the target "
        f"{', '.join(target)}",
        expected=f"the same {what} on both sides",
        fix=f"correct {key}, name another source, or leave out what needs it (0 in `target_training.sizes`)",
    )

"""Which arms have a model without any annotated target patient (n = 0): one rule for plans, checks and the report.

An arm that would start from source networks and learn a point estimate without a prior is, at n = 0, these networks as
they are: "source only". Any other arm takes from annotated patients what nothing else can give.
"""

from __future__ import annotations

from models.posteriors.swag import SWAGOptions
from pipeline.arms.choices import NO_PRIOR, ArmOptions, Initialisation

_HEADLESS = {
    Initialisation.RANDOM: "its network starts at random",
    Initialisation.PRIOR: "its network starts from draws of a prior",
    Initialisation.SELF_SUPERVISED: "the last layer of its network starts at random",
}


def why_annotation_is_needed(arm: ArmOptions) -> str | None:
    """Says why an arm has no model without annotated target patients; None where it has one."""
    if arm.init in _HEADLESS:
        return _HEADLESS[arm.init]
    if arm.prior != NO_PRIOR:
        return f"its prior {arm.prior} is weighed against annotated scans"
    if isinstance(arm.posterior, SWAGOptions):
        return "it collects the iterates of a training on annotated scans"
    if arm.rounds:
        return "annotated scans tell its self-training which volumes are plausible"
    return None


def is_source_alone(arm: ArmOptions, n: int) -> bool:
    """Whether an arm's model of n annotated target patients is made of source networks that learn nothing more."""
    return n == 0 and not arm.needs_unlabelled


def of_source_alone(arm: ArmOptions) -> ArmOptions:
    """What the model of such an arm depends on: all options of its training have their default."""
    return ArmOptions(init=arm.init, trainable=arm.trainable)

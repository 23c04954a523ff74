"""The name of the objective that a training minimises: an ELBO, a tempered objective, or a plain loss."""

from __future__ import annotations

from models.objectives import Likelihood
from models.posteriors.swag import SWAGOptions
from pipeline.arms.choices import NO_PRIOR, ArmOptions
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.without_annotation import is_source_alone
from pipeline.training.patches import PatchOptions


def objective_name(arm: ArmOptions, n: int, options: TargetTrainingOptions, patches: PatchOptions) -> str:
    """Names the objective; only cross-entropy on unbiased patches at T = 1 gives the negative ELBO per voxel."""
    if is_source_alone(arm, n):
        return "none (source networks as they are)"
    collected = ", Gaussian of its iterates" if isinstance(arm.posterior, SWAGOptions) else ""
    if arm.prior == NO_PRIOR or arm.posterior_temperature == 0:
        return f"{options.likelihood.value} (no prior term){collected}"
    reasons = []
    if options.likelihood is not Likelihood.CROSS_ENTROPY:
        reasons.append(f"data term {options.likelihood.value}")
    if patches.foreground_share > 0:
        reasons.append(f"{patches.foreground_share:.0%} of patches centred on foreground")
    if arm.posterior_temperature != 1:
        reasons.append(f"T = {arm.posterior_temperature:g}")
    kind = "posterior" if arm.is_variational else "maximum a posteriori"
    if reasons:
        return f"tempered {kind} ({', '.join(reasons)}){collected}"
    return "negative ELBO per voxel" if arm.is_variational else f"maximum a posteriori{collected}"

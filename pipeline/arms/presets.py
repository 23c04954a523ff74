"""Named arms: combinations of choices known from the literature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.image_models.objectives import Denoising
from models.posteriors.mean_field import MeanFieldOptions
from models.posteriors.mixture import MixtureOptions
from models.posteriors.swag import SWAGOptions
from pipeline.arms.choices import L2_SP, NO_PRIOR, ArmOptions, Initialisation, LayerScale, Spared, Trainable
from pipeline.arms.preset_densities import (
    DISPLACEMENT,
    GAUSSIAN_BRANCHES,
    GAUSSIAN_FULL,
    GAUSSIAN_SOURCE,
    ISOTROPIC,
    REUSE_OR_REDRAW,
    VAE,
    VAE_CONDITIONAL,
)
from pipeline.arms.unlabelled_use import SelfTrainingOptions, Weighting

# Rates from a development task (docs/results/hippocampus.md), on which `random`, `fine_tune`, `fine_tune_l2sp`, `dwp`,
# `dwp_source`, `gaussian_source` and `swag` tried the same four; the other arms take the rate of the most similar one.
# For `random`, `dwp_source` and `gaussian_source`, twice these rates won there by .002 to .003 Dice. The first two
# failed with them on whole brains (docs/results/oasis.md).
_FROM_SCRATCH: dict[str, Any] = {"peak_rate": 3e-3, "warm_up": 0.05}
# With the warm-up that Wald et al. 2025 found necessary.
_FROM_SOURCE: dict[str, Any] = {"init": Initialisation.SOURCE, "peak_rate": 4e-3, "warm_up": 0.1}
_FROM_BRANCHES: dict[str, Any] = {**_FROM_SOURCE, "init": Initialisation.BRANCHES}
FITTED_READING: dict[str, Any] = {"fit_reading": True, "fit_mask": True, "voxel_correlation": 0.1}
"""How calibrated arms read. A temperature that was fitted on one task did not fit another one (docs/results/oasis.md),
so they fit their own. One or two patients are too few for a fit: the temperature stays 1."""

REFERENCE_ARM = "random"
"""Training from scratch: its learning curve measures the label efficiency of the other arms."""

DEFAULT_ARM = "multi_swag_calibrated"
"""The arm to use by default, chosen on the development task (docs/results/hippocampus.md)."""

PRESETS: dict[str, ArmOptions] = {
    # UNet-RI of Kuzina et al. 2019.
    REFERENCE_ARM: ArmOptions(**_FROM_SCRATCH),
    # UNet-PR.
    "fine_tune": ArmOptions(**_FROM_SOURCE),
    # L2-SP of Li, Grandvalet, Davoine 2018. At T = 1 and 10⁵ training voxels, the standard deviations are close to the
    # weights that the paper found best, 0.1 for the source's weights and 0.01 for new ones; this was too strict on the
    # development task, where T = 0.01 won.
    "fine_tune_l2sp": ArmOptions(prior=L2_SP, **_FROM_SOURCE),
    # UNet-PRf.
    "fine_tune_ends": ArmOptions(trainable=Trainable.ENDS, **_FROM_SOURCE),
    # A network that learned what scans look like, from all at hand and without a label.
    "self_supervised": ArmOptions(
        **_FROM_SOURCE | {"init": Initialisation.SELF_SUPERVISED, "image_model": Denoising().kind}
    ),
    "frozen_encoder": ArmOptions(trainable=Trainable.DECODER, **_FROM_SOURCE),
    # UNet-DWP as published: random means, a filter VAE, a factorised normal posterior.
    "dwp": ArmOptions(prior=VAE, posterior=MeanFieldOptions(), **_FROM_SCRATCH),
    # Atanov et al. 2019 start the means from the VAE.
    "dwp_prior": ArmOptions(init=Initialisation.PRIOR, prior=VAE, posterior=MeanFieldOptions(), **_FROM_SCRATCH),
    "dwp_source": ArmOptions(prior=VAE, posterior=MeanFieldOptions(), **_FROM_SOURCE),
    # A VAE conditioned on the layer of a filter.
    "dwp_conditional": ArmOptions(prior=VAE_CONDITIONAL, posterior=MeanFieldOptions(), **_FROM_SOURCE),
    # The control that explains most of the original paper's gain: a plain network that starts from prior draws.
    "prior_init": ArmOptions(init=Initialisation.PRIOR, prior=VAE, posterior_temperature=0.0, **_FROM_SCRATCH),
    # Point estimate under the learned prior.
    "map_prior": ArmOptions(prior=VAE, **_FROM_SCRATCH),
    # Variational inference under the simplest priors: the VAE differs in the structure that they lack.
    "gaussian": ArmOptions(prior=ISOTROPIC, posterior=MeanFieldOptions(), **_FROM_SCRATCH),
    "gaussian_full": ArmOptions(prior=GAUSSIAN_FULL, posterior=MeanFieldOptions(), **_FROM_SCRATCH),
    # MOPED (Krishnan et al. 2020): prior and posterior are centred on the source's filters.
    "gaussian_source": ArmOptions(prior=GAUSSIAN_SOURCE, posterior=MeanFieldOptions(), **_FROM_SOURCE),
    "reuse_or_redraw": ArmOptions(prior=REUSE_OR_REDRAW, posterior=MeanFieldOptions(), **_FROM_SOURCE),
    # Sources that share a trunk: the mean of its branches as start (Wortsman et al. 2022), and as the centre of a prior
    # whose covariance at each position is that of the branches.
    "fine_tune_branches": ArmOptions(**_FROM_BRANCHES),
    "gaussian_branches": ArmOptions(prior=GAUSSIAN_BRANCHES, posterior=MeanFieldOptions(), **_FROM_BRANCHES),
    # Hierarchical: the source says in which directions the filters of a layer differ, the target how much.
    "hierarchical": ArmOptions(
        prior=GAUSSIAN_BRANCHES,
        posterior=MeanFieldOptions(),
        layer_scale=LayerScale.LEARNED,
        spared=Spared.LAST_BLOCK,
        **_FROM_BRANCHES,
    ),
    # What training adds to a filter, and not the filter: with or without a trunk.
    "displacement": ArmOptions(prior=DISPLACEMENT, posterior=MeanFieldOptions(), **_FROM_SOURCE),
    # MPVI: each component starts from its own source network.
    "mixture": ArmOptions(prior=VAE, posterior=MixtureOptions(), **_FROM_SOURCE),
    # Izmailov et al. 2018: SWAG without its spread, so its rival.
    "swa": ArmOptions(posterior=SWAGOptions(scale=0), **_FROM_SOURCE),
    # Maddox et al. 2019, around a fine-tuned network.
    "swag": ArmOptions(posterior=SWAGOptions(), **_FROM_SOURCE),
    "swag_calibrated": ArmOptions(posterior=SWAGOptions(), **FITTED_READING, **_FROM_SOURCE),
    # Wilson and Izmailov 2020: SWAG around each of several members, each from its own source network.
    "multi_swag": ArmOptions(posterior=SWAGOptions(), members=3, **_FROM_SOURCE),
    DEFAULT_ARM: ArmOptions(posterior=SWAGOptions(), members=3, **FITTED_READING, **_FROM_SOURCE),
    # The default arm as its own teacher on scans without annotation.
    "self_training": ArmOptions(
        posterior=SWAGOptions(), members=3, unlabelled=SelfTrainingOptions(), **FITTED_READING, **_FROM_SOURCE
    ),
    # A plain teacher with the same scans: the rival.
    "fine_tune_self_training": ArmOptions(
        unlabelled=SelfTrainingOptions(weighting=Weighting.NONE, average_from=1.0), **_FROM_SOURCE
    ),
    # Fine-tuned bootstrap networks, averaged: the rival to beat in calibration.
    "ensemble": ArmOptions(members=3, **_FROM_SOURCE),
}


def resolve_arm(name: str, changes: dict[str, Any] | None) -> dict[str, Any]:
    """Returns all options of an arm: its preset (named like the arm, or by the key `preset`) with the changes.

    Raises:
        ValueError: there is no such preset.
    """
    changes = dict(changes or {})
    preset = changes.pop("preset", name if name in PRESETS else None)
    if preset is None:
        if not changes:
            raise ValueError(f"there is no preset {name!r}; known presets: {', '.join(PRESETS)}")
        return changes
    if preset not in PRESETS:
        raise ValueError(f"arm {name!r}: there is no preset {preset!r}; known presets: {', '.join(PRESETS)}")
    return {**PRESETS[preset].model_dump(mode="json"), **changes}


def named_priors(arms: Any) -> list[str]:
    """Priors of raw arms: a list of presets, or a mapping of names to changes or to complete options."""
    return [str(value or NO_PRIOR) for value in _values(arms, "prior")]


def named_image_models(arms: Any) -> list[str]:
    """Image models of raw arms, as `named_priors`; of those that start from one."""
    return [str(value) for value in _values(arms, "image_model") if value is not None]


def _values(arms: Any, option: str) -> list[Any]:
    """The value of an option of raw arms; None for an arm that neither gives it nor has a preset."""
    if not isinstance(arms, list | tuple | Mapping):
        return []
    values = []
    for name in arms:
        changes = arms[name] if isinstance(arms, Mapping) else None
        if isinstance(changes, ArmOptions):
            values.append(getattr(changes, option))
            continue
        given = changes if isinstance(changes, Mapping) else {}
        preset = PRESETS.get(str(given.get("preset", name)))
        values.append(given.get(option, getattr(preset, option, None)))
    return values

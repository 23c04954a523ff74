"""Named arms: points of the choices that the literature knows."""

from __future__ import annotations

from typing import Any

from models.posteriors.mean_field import MeanFieldOptions
from pipeline.arms.choices import ArmOptions, Initialisation, Trainable

VAE = "vae"
GAUSSIAN_FULL = "gaussian_full"

PRESETS: dict[str, ArmOptions] = {
    # UNet-RI of Kuzina et al. 2019.
    "random": ArmOptions(peak_rate=3e-3, warm_up=0.05),
    # UNet-PR, with the warm-up that Wald et al. 2025 found necessary.
    "fine_tune": ArmOptions(init=Initialisation.SOURCE, peak_rate=2e-3, warm_up=0.1),
    # UNet-PRf.
    "fine_tune_ends": ArmOptions(init=Initialisation.SOURCE, trainable=Trainable.ENDS, peak_rate=2e-3, warm_up=0.1),
    # UNet-DWP as published: random means, a filter VAE, a factorised normal posterior.
    "dwp": ArmOptions(prior=VAE, posterior=MeanFieldOptions(), peak_rate=3e-3, warm_up=0.05),
    # Atanov et al. 2019 start the means from the VAE.
    "dwp_prior": ArmOptions(
        init=Initialisation.PRIOR, prior=VAE, posterior=MeanFieldOptions(), peak_rate=3e-3, warm_up=0.05
    ),
    "dwp_source": ArmOptions(
        init=Initialisation.SOURCE, prior=VAE, posterior=MeanFieldOptions(), peak_rate=2e-3, warm_up=0.1
    ),
    # The control that explains most of the original paper's gain: a plain network that starts from prior draws.
    "prior_init": ArmOptions(init=Initialisation.PRIOR, prior=VAE, temperature=0.0, peak_rate=3e-3, warm_up=0.05),
    # Point estimate under the learned prior.
    "map_prior": ArmOptions(prior=VAE, peak_rate=3e-3, warm_up=0.05),
    "gaussian_full": ArmOptions(prior=GAUSSIAN_FULL, posterior=MeanFieldOptions(), peak_rate=3e-3, warm_up=0.05),
    # Fine-tuned bootstrap networks, averaged: the rival to beat in calibration.
    "ensemble": ArmOptions(init=Initialisation.SOURCE, members=3, peak_rate=2e-3, warm_up=0.1),
}


def resolve_arm(name: str, changes: dict[str, Any] | None) -> dict[str, Any]:
    """Returns all options of an arm: its preset (its own name, or the key `preset`) with the changes.

    Raises:
        ValueError: there is no such preset.
    """
    changes = dict(changes or {})
    preset = changes.pop("preset", name if name in PRESETS else None)
    if preset is None:
        if not changes:
            raise ValueError(f"there is no preset {name!r}; known are {', '.join(PRESETS)}")
        return changes
    if preset not in PRESETS:
        raise ValueError(f"arm {name!r}: there is no preset {preset!r}; known are {', '.join(PRESETS)}")
    return {**PRESETS[preset].model_dump(mode="json"), **changes}

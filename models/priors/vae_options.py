"""Options of the filter VAE: β-VAE, conditional, convolutional and boosted VAEs are settings of one."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data.options import Options
from models.priors.boosted_prior import BoostingObjective
from models.priors.latent_prior import LatentPriorKind
from models.priors.standardisation import Covariance, Scaling
from models.priors.vae_networks import Architecture


class Condition(StrEnum):
    """What encoder and decoder get besides the filter and the latent."""

    NONE = "none"
    """Nothing: filters of a group are exchangeable, as published."""
    LAYER = "layer"
    """The layer of the filter, as a learned vector."""


AUTO_LATENT: Literal["auto"] = "auto"
"""As many latent dimensions as the intrinsic dimension of the filters."""


class FilterVAEOptions(Options):
    """Settings of a filter VAE. β-VAE, conditional and convolutional VAE are settings of it."""

    kind: Literal["vae"] = "vae"
    latent: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=6,
        description="Dimensions of the latent z; auto: the intrinsic dimension of the filters that it is fitted to.",
    )
    beta: float = Field(default=1.0, gt=0, description="Weight of the KL term in the fit (β-VAE); 1 is the ELBO.")
    architecture: Architecture = Field(default=Architecture.MLP, description="Encoder and decoder.")
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(128, 128), min_length=1, description="Widths of the hidden layers (channels, if convolutional)."
    )
    condition: Condition = Field(default=Condition.NONE, description="What else the networks are conditioned on.")
    embedding: int = Field(default=8, ge=1, description="Length of the vector that stands for a layer.")
    scaling: Scaling = Field(default=Scaling.NONE, description="What filters are divided by before they are pooled.")
    standardise: Covariance | None = Field(
        default=None,
        description="Covariance that is removed before the networks see a filter; none: full for the MLP, isotropic "
        "for the convolutional networks, whose neighbours must stay neighbours.",
    )
    start_at_gaussian: bool | None = Field(
        default=None,
        description="Start with a decoder that ignores z: the density before the first step is the Gaussian that "
        "standardisation removes, and training can only add to it; none: for the MLP, whose Gaussian is a full one.",
    )
    norm_input: bool = Field(
        default=True,
        description="Give the encoder a filter as direction and log norm; norms spread over orders of magnitude.",
    )
    validation_share: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="Share of the positions that are not trained on; the state that scores best on them is kept.",
    )
    latent_prior: LatentPriorKind = Field(default=LatentPriorKind.STANDARD, description="Density of the latent.")
    components: int = Field(
        default=8, ge=1, description="Components that a boosted or mixture prior gets for each source set."
    )
    component_steps: int = Field(default=100, ge=1, description="Optimiser steps for the pseudo-input of a component.")
    boost_objective: BoostingObjective = Field(
        default=BoostingObjective.EXACT, description="What the pseudo-input of a new component minimises."
    )
    boost_weight: float = Field(default=1.0, gt=0, description="λ of BooVAE's first-order objective.")
    boost_subset: int = Field(default=500, ge=2, description="Filters that stand for the source set in boosting.")
    memory_weight: float = Field(
        default=1.0, ge=0, description="Weight of keeping what was learned from earlier source sets in an update."
    )
    epochs: int = Field(default=100, ge=1, description="Passes over the bank, unless max_steps ends the fit before.")
    max_steps: int = Field(default=3000, ge=1, description="Largest number of optimiser steps.")
    batch: int = Field(default=512, ge=2, description="Filters per step.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Peak rate of Adam; cosine to zero.")
    fit_samples: int = Field(default=1, ge=1, description="Latent draws per filter in the fit; more tighten the bound.")

    @model_validator(mode="after")
    def _beta_needs_closed_form(self) -> Self:
        if self.beta != 1.0 and self.fit_samples > 1:
            raise ValueError("beta other than 1 is defined for fit_samples: 1 only")
        return self

    @property
    def covariance_removed(self) -> Covariance:
        """The form of the standardisation after defaults."""
        if self.standardise is not None:
            return self.standardise
        return Covariance.FULL if self.architecture is Architecture.MLP else Covariance.ISOTROPIC

    @property
    def starts_at_gaussian(self) -> bool:
        """Whether the decoder ignores z at the start, after defaults."""
        return self.architecture is Architecture.MLP if self.start_at_gaussian is None else self.start_at_gaussian

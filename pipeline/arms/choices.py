"""The choices that make an arm."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from models.posteriors.mean_field import MeanFieldOptions
from models.posteriors.point import PointOptions
from pipeline.config.options import Options

NO_PRIOR = "none"


class Initialisation(StrEnum):
    """Where the weights, or the means of the posterior, start."""

    RANDOM = "random"
    """The network's own random initialisation."""
    PRIOR = "prior"
    """Filters drawn from the fitted prior; everything else at random."""
    SOURCE = "source"
    """The last snapshot of a source network."""


class Trainable(StrEnum):
    """Which parameters are learned on the target."""

    ALL = "all"
    """Every parameter."""
    ENDS = "ends"
    """The first and the last blocks (UNet-PRf of the published comparison)."""
    DECODER = "decoder"
    """The decoder and the head."""


PosteriorOptions = Annotated[PointOptions | MeanFieldOptions, Field(discriminator="kind")]
"""Posteriors that an arm can learn by gradient steps alone."""


class ArmOptions(Options):
    """One way of learning the target."""

    init: Initialisation = Initialisation.RANDOM
    """Start of the weights or of the posterior means."""
    trainable: Trainable = Trainable.ALL
    """What is learned."""
    prior: str = NO_PRIOR
    """`none`, or the name of a density of the study's `priors.densities`."""
    posterior: PosteriorOptions = Field(default_factory=PointOptions)
    """Distribution over the filters: `point` or `mean_field`, or a mapping with `kind` and its settings."""
    members: int = Field(default=1, ge=1)
    """Independent trainings whose predictions are averaged; member m starts from source network m."""
    peak_rate: float = Field(default=2e-3, gt=0)
    """Learning rate after the warm-up."""
    warm_up: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the rate rises to the peak."""
    temperature: float = Field(default=1e-2, ge=0)
    """T: weight of the prior terms; 1 is the negative ELBO, less is a tempered posterior."""
    prior_samples: int = Field(default=1, ge=1)
    """K: samples of the bound on log p(w), for priors that have no exact density."""
    filter_share: float = Field(default=0.1, gt=0, le=1)
    """Share of the filters whose prior term is computed at each step, a random unbiased subset."""
    log_variance_rate: float = Field(default=10.0, gt=0)
    """Learning rate of the posterior's log-variances, as a multiple of `peak_rate`."""
    encoder_rate: float = Field(default=0.3, gt=0)
    """Learning rate of the prior's variational parameters (the encoder of a VAE), as a multiple of `peak_rate`."""
    draws: int = Field(default=8, ge=1)
    """Draws from the posterior, each one pass over a test volume."""

    @field_validator("posterior", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _coherent(self) -> ArmOptions:
        if self.init is Initialisation.PRIOR and self.prior == NO_PRIOR:
            raise ValueError("an arm that starts from the prior needs one: set `prior`")
        if self.is_bayesian and self.prior == NO_PRIOR:
            raise ValueError("a posterior other than `point` needs a prior: set `prior`")
        return self

    @property
    def is_bayesian(self) -> bool:
        """Whether predictions average over draws from a learned distribution."""
        return not isinstance(self.posterior, PointOptions)

    @property
    def needs_source(self) -> bool:
        """Whether it starts from a source network."""
        return self.init is Initialisation.SOURCE

    @property
    def needs_prior(self) -> bool:
        """Whether it uses a fitted density."""
        return self.prior != NO_PRIOR

"""`fit.json` and `scores.json` of a group: facts of the fits of its densities, and how well they fit unseen filters."""

from __future__ import annotations

from pydantic import Field

from data.stored_record import StoredRecord
from pipeline.evaluation.statistics import CLEAR_ERRORS

NETWORKS = "networks"
"""What the standard error of several networks is over."""


class Estimate(StoredRecord):
    """A mean with its standard error, in nats per filter."""

    mean: float
    """Mean over the networks of their means."""
    standard_error: float | None = None
    """`None` if it cannot be computed from a single value."""

    @property
    def clear(self) -> bool:
        """Whether it is above zero by more than two standard errors."""
        return self.standard_error is not None and self.mean > CLEAR_ERRORS * self.standard_error


class Fit(StoredRecord):
    """Facts of the fit of a density for the arms."""

    parameters: int = 0
    """Free parameters."""
    fitted_filters: int = 0
    """Filters that it was fitted to."""
    given_filters: int = 0
    """Filters that were available for the fit."""
    steps: int = 0
    """Optimiser steps."""
    source_sets: int = 1
    """Source sets that it was fitted to."""
    latent: int | None = None
    """Dimensions of its latent where the filters said how many (`latent: auto`)."""


class FitRecord(Fit):
    """The content of `fit.json`."""

    bound: bool
    """Whether the density only gives a lower bound."""
    network: int | None
    """The source network on whose filters it is centred, if any."""


class DensityRecord(Estimate, Fit):
    """The score of one density: its log density of held-out filters."""

    bound: bool
    """Whether it is a lower bound."""
    standard_error_over: str = NETWORKS
    """`networks`, or the filters of a single network."""
    difference_to_gaussian_full: Estimate | None = None
    """Paired, to the full-covariance Gaussian."""
    difference_to_best: Estimate | None = None
    """Paired, to the density with the highest mean."""
    network_means: dict[str, float] = Field(default_factory=dict)
    """Network → mean."""
    samples: int = 1
    """Samples behind a lower bound."""
    scored: int = 0
    """Filters scored."""

    @property
    def over_networks(self) -> bool:
        """Whether the error is over networks, and not over the filters of a single one."""
        return self.standard_error_over == NETWORKS


class AutoChoice(StoredRecord):
    """The choice of `auto`, and its reasons."""

    density: str
    """Its name."""
    best: str = ""
    """The one with the highest mean."""
    good_enough: tuple[str, ...] = ()
    """Densities that are as good, from simple to complex."""
    by_parameters: dict[str, int] = Field(default_factory=dict)
    """Density → free parameters."""
    rule: str = ""
    """The rule in words."""


class ScoresRecord(StoredRecord):
    """The scores of all densities of one group."""

    group: str
    """Its name."""
    fitted_on: int
    """Filters fitted to."""
    held_out: int
    """Filters scored."""
    held_out_networks: str
    """The held-out networks, in words."""
    held_out_by: str = ""
    """How they were chosen."""
    held_out_of: int = 0
    """Filters that the scored ones were drawn from."""
    folds: tuple[tuple[int, ...], ...] = ()
    """Networks of each fold."""
    norm_threshold: float = 0.0
    """Filters with this norm or less are not fitted to."""
    filters: int = 0
    """Filters of the group."""
    kept: int = 0
    """Filters above the threshold."""
    share_kept: float = 1.0
    """Their share."""
    refitted_on_all: bool = False
    """Whether the densities of the arms are fitted to all networks."""
    largest_fit: int | None = None
    """Largest number of filters for a fit."""
    largest_score: int | None = None
    """Largest number of filters for a score."""
    densities: dict[str, DensityRecord]
    """Density → score."""
    auto: AutoChoice | None = None
    """The choice of `auto`; `None` if nothing was scored."""
    not_scored: dict[str, str] = Field(default_factory=dict)
    """Density → why it has no score."""

    @property
    def best(self) -> str | None:
        """The density with the highest mean."""
        return max(self.densities, key=lambda name: self.densities[name].mean, default=None)

    @property
    def choice(self) -> str | None:
        """The density that `auto` takes."""
        return self.auto.density if self.auto else None

    def difference_of(self, density: str) -> Estimate | None:
        """The paired difference of a density to the full-covariance Gaussian; `None` where there is none."""
        return self.densities[density].difference_to_gaussian_full if density in self.densities else None

    def without_difference_of(self, density: str | None) -> ScoresRecord:
        """The same scores; this density, of which a difference would say nothing, has none."""
        if density not in self.densities:
            return self
        own = self.densities[density].model_copy(update={"difference_to_gaussian_full": None})
        return self.model_copy(update={"densities": {**self.densities, density: own}})

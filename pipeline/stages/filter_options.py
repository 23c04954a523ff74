"""Options of the filter banks and of the densities fitted to them."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, field_validator

from models.filters import FilterGrouping
from models.priors.factory import PriorOptions
from models.priors.filter_vae import FilterVAEOptions
from models.priors.gaussian import GaussianOptions
from models.priors.standardisation import Covariance
from pipeline.config.options import Options


class FilterOptions(Options):
    """Which filters are collected, and how layers are grouped."""

    grouping: FilterGrouping = FilterGrouping.CONSECUTIVE
    """Which layers share a prior."""
    norm_threshold: float = Field(default=0.01, ge=0)
    """Filters with this L2 norm or less are left out of the fit; 0 keeps all."""


def _densities() -> dict[str, PriorOptions]:
    return {
        "isotropic": GaussianOptions(covariance=Covariance.ISOTROPIC),
        "gaussian_full": GaussianOptions(covariance=Covariance.FULL),
        "vae": FilterVAEOptions(),
    }


class PriorFitOptions(Options):
    """Which densities are fitted to each group, and what they are tested on."""

    densities: dict[str, PriorOptions] = Field(default_factory=_densities, min_length=1)
    """Name → density; an arm's `prior` is one of the names. What is given adds to the default ones or changes single
    settings of them; `null` removes one."""
    held_out_networks: int = Field(default=1, ge=1)
    """Networks whose filters are only scored; with one network alone, a random tenth of its filters is."""
    score_samples: int = Field(default=32, ge=1)
    """K of the bound for densities that have no exact value."""
    refit: bool = True
    """After scoring, fit again on the filters of all networks for the arms to use."""
    largest_fit: int = Field(default=150_000, ge=1000)
    """Filters that a fit uses at most; a random subset where there are more, and the scores say so."""
    largest_score: int = Field(default=20_000, ge=100)
    """Filters that a score uses at most."""

    @field_validator("densities", mode="before")
    @classmethod
    def _add_to_defaults(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        densities: dict[str, Any] = {name: d.model_dump(mode="json") for name, d in _densities().items()}
        for name, density in value.items():
            if (
                isinstance(density, dict)
                and name in densities
                and density.get("kind", "") in {"", densities[name]["kind"]}
            ):
                densities[name] |= density
            elif density is None:
                densities.pop(name, None)
            else:
                densities[name] = density
        return densities

    @field_serializer("densities", mode="wrap")
    def _tell_removed(self, value: dict[str, PriorOptions], serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Left out, a default density would be back when the resolved configuration is read.
        return serialise(value) | {name: None for name in _densities() if name not in value}

"""Options of the filter banks and of the densities fitted to them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, field_validator, model_validator

from data.name_fields import Apart, Name
from data.options import Options
from models.filters import FilterGrouping
from models.priors.factory import PriorOptions, centred_on_network
from models.priors.gaussian_options import GaussianOptions
from models.priors.standardisation import Covariance, Scaling
from models.priors.vae_options import FilterVAEOptions

AUTO = "auto"
"""Value of an arm's `prior`: in every group of layers the simplest density that is as good as the best."""


class HeldOut(StrEnum):
    """Which networks the densities are scored on; never the ones that they were fitted to for it."""

    LAST = "last"
    """The last `held_out_networks`: one fit for each density."""
    CROSS = "cross"
    """All, by cross-validation: networks are divided into `folds`, and each fold is scored by a fit to the others."""


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

    densities: Annotated[dict[Name, PriorOptions], Apart] = Field(default_factory=_densities, min_length=1)
    """Name → density; an arm's `prior` is one of the names. What is given adds to the default ones or changes single
    settings of them; `null` removes one."""
    scaling: Scaling = Scaling.NONE
    """By what filters are divided before those of several layers are pooled; for densities that do not say it
    themselves. Densities stay densities of the raw filters."""
    update_from: Path | None = None
    """Workspace of an earlier study with another source set: densities with `latent_prior: boosted` (BooVAE) are not
    fitted again but updated from those of that study, without its filters."""
    held_out: HeldOut = HeldOut.LAST
    """Which networks the densities are scored on."""
    held_out_networks: int = Field(default=1, ge=1)
    """Networks whose filters are only scored (`held_out: last`); four or more give a standard error worth the name.
    With one network alone, a random tenth of its filters is scored."""
    folds: int = Field(default=4, ge=2)
    """Parts that the networks are divided into for `held_out: cross`; as many as networks leave one out at a time."""
    score_samples: int = Field(default=32, ge=1)
    """K of the bound for densities that have no exact value."""
    refit: bool = True
    """After scoring, fit again on the filters of all networks for the arms to use."""
    largest_fit: int = Field(default=150_000, ge=1000)
    """Filters that a fit uses at most; a random subset where there are more, and the scores say so."""
    largest_score: int = Field(default=20_000, ge=100)
    """Filters that a score uses at most."""

    @property
    def scorable(self) -> dict[str, PriorOptions]:
        """Densities that can be scored on other networks: not those centred on one network's positions."""
        return {name: density for name, density in self.densities.items() if not centred_on_network(density)}

    def refits(self, several: bool) -> bool:
        """Whether the arms get a fit to all networks; after a cross-validation no other could serve them.

        Args:
            several: whether there are several source networks.
        """
        return several and (self.refit or self.held_out is HeldOut.CROSS)

    @model_validator(mode="before")
    @classmethod
    def _pass_scaling_on(cls, raw: Any) -> Any:
        """Writes the shared scaling into every density that can have one and does not say its own."""
        if not isinstance(raw, dict) or raw.get("scaling", Scaling.NONE) == Scaling.NONE:
            return raw
        densities = raw.get("densities") or {}
        if not isinstance(densities, dict):
            return raw
        names = {name: densities.get(name, {}) for name in [*_densities(), *densities]}
        return {**raw, "densities": {name: _with_scaling(density, raw["scaling"]) for name, density in names.items()}}

    @field_validator("densities")
    @classmethod
    def _free_names(cls, value: dict[str, PriorOptions]) -> dict[str, PriorOptions]:
        if AUTO in value:
            raise ValueError(f"a density cannot be named {AUTO!r}: arms use that name to choose among all of them")
        return value

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


def _with_scaling(density: Any, scaling: Any) -> Any:
    if not isinstance(density, dict) or density.get("centre", "pooled") != "pooled":
        return density
    if density.get("kind") == "reuse_or_redraw":
        shape = density.get("shape")
        return {**density, "shape": _with_scaling(shape, scaling)} if isinstance(shape, dict) else density
    return {"scaling": scaling, **density}

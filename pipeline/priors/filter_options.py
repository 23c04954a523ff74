"""Options of the filter banks and of the densities fitted to them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, field_validator, model_validator

from data.name_fields import Apart, Name
from data.options import Options
from models.filters import FilterGrouping
from models.priors.factory import PriorOptions, centred_on_network, exchangeable
from models.priors.gaussian_options import GaussianOptions
from models.priors.spike_and_slab import NORM_THRESHOLD
from models.priors.standardisation import Covariance, Scaling
from models.priors.vae_options import FilterVAEOptions

AUTO = "auto"
"""Value of an arm's `prior`: in every group of layers, the simplest density that is as good as the best."""


class HeldOut(StrEnum):
    """Networks on which densities are scored; never those that they were fitted to."""

    LAST = "last"
    """The last `held_out_networks`: one fit for each density."""
    CROSS = "cross"
    """All, by cross-validation: networks are divided into `folds`, and a fit to the others scores each fold."""


class FilterOptions(Options):
    """How layers are grouped, and which filters are fitted to."""

    grouping: FilterGrouping = FilterGrouping.CONSECUTIVE
    """Which layers share a prior."""
    norm_threshold: float = Field(default=NORM_THRESHOLD, ge=0)
    """Filters with this L2 norm or less are left out of the fit, except in a density of the kind `spike_and_slab` and
    around positions; 0 keeps all."""
    most_start: float = Field(default=0.3, ge=0, le=1)
    """Largest share of the energy of a group's filters that may still be their random start; above it, `fit-priors` and
    the report say that there is little to learn."""


def _densities() -> dict[str, PriorOptions]:
    return {
        "isotropic": GaussianOptions(covariance=Covariance.ISOTROPIC),
        "gaussian_full": GaussianOptions(covariance=Covariance.FULL),
        "vae": FilterVAEOptions(),
    }


class PriorFitOptions(Options):
    """Densities that are fitted to each group, and how they are scored."""

    densities: Annotated[dict[Name, PriorOptions], Apart] = Field(default_factory=_densities, min_length=1)
    """Name → density; an arm's `prior` is one of the names. Entries add to the defaults or change single settings of
    them; `null` removes a default."""
    scaling: Scaling = Scaling.NONE
    """By what filters are divided before those of several layers are pooled; for densities without their own setting.
    Densities remain densities of the raw filters."""
    update_from: Path | None = None
    """Workspace of an earlier study with another source set: densities with `latent_prior: boosted` (BooVAE) are
    updated from those of that study, without its filters, instead of being fitted from scratch."""
    held_out: HeldOut = HeldOut.LAST
    """Networks on which densities are scored."""
    held_out_networks: int = Field(default=1, ge=1)
    """Networks whose filters are only scored (`held_out: last`); a useful standard error needs at least four. With a
    single network, a random tenth of its filters is scored."""
    folds: int = Field(default=4, ge=2)
    """Number of folds for `held_out: cross`; one fold for each network leaves one out at a time."""
    score_samples: int = Field(default=32, ge=1)
    """K of the bound for densities without an exact value."""
    refit: bool = True
    """After scoring, fit the densities for the arms to the filters of all networks."""
    largest_fit: int = Field(default=150_000, ge=1000)
    """Largest number of filters for a fit; of more, a random subset is taken, which the scores report. A density around
    positions is fitted to all."""
    largest_score: int = Field(default=20_000, ge=100)
    """Largest number of filters for a score."""

    @property
    def scorable(self) -> dict[str, PriorOptions]:
        """Densities that can be scored on other networks: not those centred on one network's positions."""
        return {name: density for name, density in self.densities.items() if not centred_on_network(density)}

    @property
    def choosable(self) -> tuple[str, ...]:
        """Densities that `auto` chooses among: any arm can use them, whatever it starts from."""
        return tuple(name for name, density in self.densities.items() if exchangeable(density))

    def refits(self, several: bool) -> bool:
        """Whether arms get a fit to all networks (always after a cross-validation), given `several` networks."""
        return several and (self.refit or self.held_out is HeldOut.CROSS)

    @model_validator(mode="before")
    @classmethod
    def _pass_scaling_on(cls, raw: Any) -> Any:
        """Writes the shared scaling into every density that can have one and does not set its own."""
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
            known = densities.get(name)
            if known is not None and isinstance(density, dict) and density.get("kind", known["kind"]) == known["kind"]:
                known |= density
            elif density is None:
                densities.pop(name, None)
            else:
                densities[name] = density
        return densities

    @field_serializer("densities", mode="wrap")
    def _tell_removed(self, value: dict[str, PriorOptions], serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Without them, a removed default density would return when the resolved configuration is read.
        return serialise(value) | {name: None for name in _densities() if name not in value}


def _with_scaling(density: Any, scaling: Any) -> Any:
    if not isinstance(density, dict) or density.get("centre", "pooled") != "pooled":
        return density
    if part := {"reuse_or_redraw": "shape", "spike_and_slab": "slab", "displacement": "change"}.get(
        str(density.get("kind"))
    ):
        return {**density, part: _with_scaling(density[part], scaling)} if part in density else density
    return {"scaling": scaling, **density}

"""Builds a posterior from its options and its starting filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from models.filters import FilterLayer
from models.posteriors.mean_field import MeanField, MeanFieldOptions
from models.posteriors.mixture import Mixture, MixtureOptions
from models.posteriors.point import Point, PointOptions
from models.posteriors.posterior import Posterior
from models.posteriors.swag import SWAG, SWAGOptions

PosteriorOptions = Annotated[
    PointOptions | MeanFieldOptions | MixtureOptions | SWAGOptions, Field(discriminator="kind")
]


def build_posterior(
    options: PosteriorOptions, starts: Tensor | Sequence[Tensor], layers: Sequence[FilterLayer]
) -> Posterior:
    """Builds a posterior around starting filters.

    Raises:
        ModelError: if the number of starts is not that of the mixture's components.
    """
    if isinstance(options, MixtureOptions):
        return Mixture.from_options(options, [starts] if isinstance(starts, Tensor) else starts, layers)
    start = starts if isinstance(starts, Tensor) else starts[0]
    if isinstance(options, PointOptions):
        return Point(start)
    if isinstance(options, MeanFieldOptions):
        return MeanField.from_options(options, start, layers)
    return SWAG(len(start), options.rank, options.scale, start.shape[1]).to(device=start.device, dtype=start.dtype)

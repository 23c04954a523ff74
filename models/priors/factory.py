"""Builds a filter prior from its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from models.filters import KERNEL_VOXELS
from models.priors.filter_vae import FilterVAE, FilterVAEOptions
from models.priors.gaussian import Centre, Gaussian, GaussianOptions
from models.priors.gaussian_mixture import GaussianMixture, GaussianMixtureOptions
from models.priors.prior import FilterPrior
from models.priors.reuse_or_redraw import ReuseOrRedraw, ReuseOrRedrawOptions

PriorOptions = Annotated[
    GaussianOptions | GaussianMixtureOptions | FilterVAEOptions | ReuseOrRedrawOptions, Field(discriminator="kind")
]


def build_prior(options: PriorOptions, kernel_voxels: int = KERNEL_VOXELS) -> FilterPrior:
    """Builds a prior that is not fitted yet.

    Args:
        options: which density, and its settings.
        kernel_voxels: numbers per filter.
    """
    if isinstance(options, GaussianOptions):
        return Gaussian(options, kernel_voxels)
    if isinstance(options, GaussianMixtureOptions):
        return GaussianMixture(options, kernel_voxels)
    if isinstance(options, FilterVAEOptions):
        return FilterVAE(options, kernel_voxels)
    return ReuseOrRedraw(options, kernel_voxels)


def load_prior(options: PriorOptions, state: Mapping[str, Tensor], kernel_voxels: int = KERNEL_VOXELS) -> FilterPrior:
    """Rebuilds a fitted prior from its options and its `state_dict`.

    Raises:
        ModelError: if the state does not belong to these options.
    """
    prior = build_prior(options, kernel_voxels)
    prior.take_state(state)
    return prior


def centred_on_network(options: PriorOptions) -> bool:
    """Whether a prior is centred on the filters of one source network, position by position.

    Channels of different networks are permuted, so such a prior says nothing of another network's filters.
    """
    if isinstance(options, GaussianOptions):
        return options.centre is Centre.SOURCE_POSITION
    return isinstance(options, ReuseOrRedrawOptions)

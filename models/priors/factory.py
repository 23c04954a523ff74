"""Builds a filter prior from its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from models.filter_bank import FilterBank
from models.filters import KERNEL_VOXELS
from models.priors.displacement import Displacement, DisplacementOptions
from models.priors.gaussian_mixture import GaussianMixtureOptions
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.prior import FilterPrior, FitReport, Progress
from models.priors.reuse_or_redraw import ReuseOrRedraw, ReuseOrRedrawOptions, build_shape
from models.priors.spike_and_slab import SpikeAndSlabOptions
from models.priors.vae_options import FilterVAEOptions

PriorOptions = Annotated[
    GaussianOptions
    | GaussianMixtureOptions
    | FilterVAEOptions
    | SpikeAndSlabOptions
    | ReuseOrRedrawOptions
    | DisplacementOptions,
    Field(discriminator="kind"),
]


def build_prior(options: PriorOptions, kernel_voxels: int = KERNEL_VOXELS) -> FilterPrior:
    """Builds a prior that is not fitted yet."""
    if isinstance(options, ReuseOrRedrawOptions):
        return ReuseOrRedraw(options, kernel_voxels)
    if isinstance(options, DisplacementOptions):
        return Displacement(options, kernel_voxels)
    return build_shape(options, kernel_voxels)


def load_prior(options: PriorOptions, state: Mapping[str, Tensor]) -> FilterPrior:
    """Rebuilds a fitted prior, with the kernel size of its bank, from its options and its `state_dict`.

    Raises:
        ModelError: if the state does not belong to these options.
    """
    prior = build_prior(options)
    prior.take_state(state)
    return prior


def fit_prior(
    options: PriorOptions,
    pooled: FilterBank,
    of_network: FilterBank | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> tuple[FilterPrior, FitReport]:
    """Builds a prior and fits it.

    Args:
        options: which density, and its settings.
        pooled: filters of the group, perhaps a random sample of them.
        of_network: all filters of the one source network that a position prior is centred on; from `pooled` if None.
        generator: source of all randomness.
        progress: called during the fit.

    Raises:
        ModelError: if a bank cannot be fitted to.
    """
    prior = build_prior(options, pooled.kernel_voxels)
    if of_network is not None and isinstance(prior, ReuseOrRedraw):
        return prior, prior.fit_parts(of_network, pooled, generator, progress)
    bank = of_network if of_network is not None and centred_on_network(options) else pooled
    return prior, prior.fit(bank, generator, progress)


def fits_dead_filters(options: PriorOptions) -> bool:
    """Whether a density is fitted to all filters, and divides the dead from the living itself."""
    if isinstance(options, ReuseOrRedrawOptions):
        return fits_dead_filters(options.shape)
    if isinstance(options, DisplacementOptions):
        return fits_dead_filters(options.change)
    return isinstance(options, SpikeAndSlabOptions) or of_branches(options)


def with_norm_threshold(options: PriorOptions, threshold: float) -> PriorOptions:
    """Returns the options with the norm up to which filters are dead, where they leave it to the study."""
    if isinstance(options, ReuseOrRedrawOptions) and isinstance(options.shape, SpikeAndSlabOptions):
        return options.model_copy(update={"shape": with_norm_threshold(options.shape, threshold)})
    if isinstance(options, DisplacementOptions):
        return options.model_copy(update={"change": with_norm_threshold(options.change, threshold)})
    if isinstance(options, SpikeAndSlabOptions) and options.norm_threshold is None:
        return options.model_copy(update={"norm_threshold": threshold})
    return options


def network_of(options: PriorOptions) -> int | None:
    """Returns the source network that a prior is centred on, if its options name one."""
    if isinstance(options, ReuseOrRedrawOptions):
        return options.position.network
    return options.network if isinstance(options, GaussianOptions) else None


def centred_on_network(options: PriorOptions) -> bool:
    """Whether a prior is centred on the filters of one source network, position by position.

    Channels of different networks are permuted, so such a prior says nothing about another network's filters.
    """
    if isinstance(options, GaussianOptions):
        return options.centre is Centre.SOURCE_POSITION
    return isinstance(options, ReuseOrRedrawOptions)


def of_branches(options: PriorOptions) -> bool:
    """Whether a prior is centred on the mean of networks that branch from one trunk, position by position."""
    return isinstance(options, GaussianOptions) and options.centre is Centre.BRANCHES


def of_changes(options: PriorOptions) -> bool:
    """Whether a prior is one of changes, so that it needs the filters that a network starts from."""
    return isinstance(options, DisplacementOptions)


def needs_starts(options: PriorOptions) -> bool:
    """Whether a prior is fitted to a bank with the filters that its networks started from."""
    return of_branches(options) or of_changes(options)


def exchangeable(options: PriorOptions) -> bool:
    """Whether a prior says the same of a filter wherever it sits among those of its layer."""
    return not (centred_on_network(options) or needs_starts(options))


def can_scale_layers(options: PriorOptions) -> bool:
    """Whether a prior can have a learned scale for each layer."""
    return isinstance(options.change if isinstance(options, DisplacementOptions) else options, GaussianOptions)

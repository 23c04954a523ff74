"""Variational inference over the convolution filters of any network, in a training loop of your own.

    prior = graft.priors.fit(source_network)
    model = graft.posteriors.bayesian(network, prior)
    for images, labels in batches:
        loss = loss_function(model(images), labels) + model.kl() / voxels_of_the_training_set
        ...

Every call of the model in training mode draws the filters once; `kl()` is that of the last draw, so that both terms of
the objective use the same weights. In evaluation mode the model predicts with the posterior's mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from data.errors import ConfigError
from data.option_faults import fault_at
from graft.priors import FittedPrior
from models.bayesian_network import BayesianNetwork, WeightDraw
from models.filters import filter_layers, get_filters
from models.objectives import FilterGroups, kl_term
from models.posteriors.factory import build_posterior
from models.posteriors.mean_field import MeanFieldOptions
from models.priors.prior import FilterPrior

__all__ = ["BayesianModule", "bayesian"]


class BayesianModule(nn.Module):
    """A network whose 3×3×3 filters are random, with their prior; `bayesian` makes it.

    Args:
        network: network and posterior.
        prior: of the filters; its densities become a part of the module, and their parts that are learned on the target
            (the encoder of a VAE) are among `parameters()`.
        seed: of the draws.
    """

    def __init__(self, network: BayesianNetwork, prior: FittedPrior, seed: int) -> None:
        super().__init__()
        self.bayesian = network
        groups = prior.groups_of(network.network)
        # Copies, because parts of them may be learned; a list, because names of groups may hold dots.
        self.densities = nn.ModuleList(deepcopy(prior.densities[group]) for group in groups)
        self._names = tuple(groups)
        self._groups = FilterGroups.of(groups, network.layers)
        self._generator = torch.Generator().manual_seed(seed)
        self._draw: WeightDraw | None = None
        for density in self.densities:
            cast(FilterPrior, density).freeze_for_target()

    def forward(self, images: Tensor) -> Any:
        """Computes what the network computes: with a new draw of the filters in training, else with their mean."""
        self._draw = self._drawn() if self.training else self.bayesian.centre()
        return self.bayesian(images, *self._draw)

    def kl(self, samples: int = 1, share: float = 1.0) -> Tensor:
        """Estimates KL(posterior ‖ prior) over all filters, a scalar in nats, differentiable.

        From a Gaussian it is exact; from any other density it is estimated from the last draw.

        Divide it by the number of voxels of the training volumes to add it to a mean loss per voxel.

        Args:
            samples: latent draws of densities that are bounds (VAE).
            share: of the filters, a random subset whose prior is computed, scaled up without bias.
        """
        draw = self._draw if self._draw is not None and self.training else self._drawn()
        if self._groups.rows[self._names[0]].device != draw.filters.device:
            self._groups = self._groups.to(draw.filters.device)
        priors = {name: cast(FilterPrior, density) for name, density in zip(self._names, self.densities, strict=True)}
        return kl_term(
            self.bayesian.posterior,
            priors,
            self._groups,
            draw.filters,
            samples=samples,
            share=share,
            generator=self._generator,
        ).kl

    @torch.no_grad()
    def draws(self, images: Tensor, number: int) -> Iterator[Any]:
        """Yields the network's output for each of `number` draws of its filters, one at a time."""
        for draw in self.bayesian.draws(number, self._generator):
            yield self.bayesian.with_weights(draw)(images)

    def _drawn(self) -> WeightDraw:
        return next(self.bayesian.draws(1, self._generator))


def bayesian(
    network: nn.Module,
    prior: FittedPrior,
    posterior: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> BayesianModule:
    """Puts a mean-field posterior around the present filters of a network, and a prior beside it.

    All other weights stay ordinary parameters of the network.

    Args:
        network: any torch module; its filters are frozen, for the posterior takes their place.
        prior: of `graft.priors.fit`.
        posterior: settings of the posterior, as under `posterior` of an arm: `initial_log_variance`,
            `relative_to_layer`.
        seed: of the draws.

    Raises:
        ConfigError: a setting is unknown.
        ModelError: a layer of the network has no density in the prior.
    """
    try:
        options = MeanFieldOptions.model_validate(dict(posterior or {}))
    except ValidationError as error:
        raise ConfigError(f"posterior: {fault_at(error)}", fix="see docs/reference/config.md") from error
    layers = filter_layers(network)
    # Refuse an unsuitable prior before anything of the network is changed.
    prior.groups_of(network)
    start = get_filters(network.state_dict(), layers)
    made = BayesianNetwork(network, build_posterior(options, start, layers), layers)
    return BayesianModule(made, prior, seed).to(start.device)

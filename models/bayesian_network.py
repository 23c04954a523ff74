"""A segmentation network whose 3×3×3 filters come from a posterior.

The network is called through `torch.func.functional_call` with the filters of one draw; there are no Bayesian layer
classes and no second convolution. Everything that is not a filter stays an ordinary parameter of the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from data.errors import ModelError
from models.filters import FilterLayer, get_filters, set_filters
from models.posteriors.posterior import Posterior


class BayesianNetwork(nn.Module):
    """Network and posterior together: one module, one state dict, one set of parameters to optimise.

    The network's own filter weights are placeholders and are frozen; `bake` writes a draw or the mean into them.

    Args:
        network: maps `[N, C, X, Y, Z]` to logits.
        posterior: over the filters of `layers`.
        layers: the layers whose filters the posterior covers, in its order.

    Raises:
        ModelError: if the posterior has another number of filters than the layers.
    """

    def __init__(self, network: nn.Module, posterior: Posterior, layers: Sequence[FilterLayer]) -> None:
        super().__init__()
        expected = sum(layer.count for layer in layers)
        if posterior.count != expected:
            raise ModelError(
                f"a posterior over {posterior.count} filters for a network with {expected}",
                mend="build the posterior from the filters of this network",
            )
        self.network = network
        self.posterior = posterior
        self.layers = tuple(layers)
        names = {layer.parameter for layer in layers}
        for name, parameter in network.named_parameters():
            if name in names:
                parameter.requires_grad_(False)

    def forward(self, images: Tensor, filters: Tensor | None = None) -> Tensor | list[Tensor]:
        """Computes logits with the given filters.

        Args:
            images: `[N, C, X, Y, Z]`.
            filters: `[F, 27]`, one draw; the posterior's mean if left out.

        Returns:
            What the network returns: logits `[N, K+1, X, Y, Z]`.
        """
        chosen = self.posterior.mean() if filters is None else filters
        # With tie_weights a module that is registered under two names would keep the drawn weights after the call.
        # Buffers go along so that running statistics (BatchNorm) are updated in place on the module's own.
        tensors = {**dict(self.network.named_buffers()), **set_filters(chosen, self.layers)}
        logits: Tensor | list[Tensor] = functional_call(self.network, tensors, (images,), tie_weights=False)
        return logits

    def point_parameters(self) -> list[nn.Parameter]:
        """Returns the trainable parameters of the network that are not filters: head, norms, 1×1×1 convolutions."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def bake(self, filters: Tensor | None = None) -> nn.Module:
        """Writes filters `[F, 27]` (the posterior's mean if left out) into the network and returns it."""
        chosen = self.posterior.mean() if filters is None else filters
        self.network.load_state_dict(set_filters(chosen, self.layers), strict=False)
        return self.network

    def own_filters(self) -> Tensor:
        """Returns the filters that the network itself holds at the moment, `[F, 27]`."""
        return get_filters(dict(self.network.named_parameters()), self.layers).detach()

"""A segmentation network whose 3×3×3 filters come from a posterior.

The network is called through `torch.func.functional_call` with the weights of one draw; there are no Bayesian layer
classes and no second convolution. All other weights stay ordinary parameters of the network, unless they have a
posterior too (`OtherWeights`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from data.errors import ModelError
from models.filters import FilterLayer, set_filters
from models.local_reparameterisation import local_reparameterised_forward
from models.other_weights import OtherWeights
from models.posteriors.mixture import Mixture
from models.posteriors.posterior import Posterior


class WeightDraw(NamedTuple):
    """One draw of a network's weights.

    Attributes:
        filters: `[F, 27]`.
        others: `[P, 1]`, the other weights where they are drawn too.
        component: of a mixture, the component that the draw comes from; 0 for other posteriors.
    """

    filters: Tensor
    others: Tensor | None = None
    component: int = 0


class BayesianNetwork(nn.Module):
    """Network and posterior together: one module, one state dict, one set of parameters to optimise.

    The network's own filter weights are placeholders and are frozen.

    Args:
        network: maps `[N, C, X, Y, Z]` to logits.
        posterior: over the filters of `layers`.
        layers: the layers whose filters the posterior covers, in its order.
        others: posteriors over the other weights, if any; otherwise these are parameters of the network.

    Raises:
        ModelError: if the posterior has another number of filters than the layers.
    """

    def __init__(
        self,
        network: nn.Module,
        posterior: Posterior,
        layers: Sequence[FilterLayer],
        others: OtherWeights | None = None,
    ) -> None:
        super().__init__()
        expected = sum(layer.count for layer in layers)
        if posterior.count != expected:
            raise ModelError(
                f"a posterior over {posterior.count} filters for a network with {expected}",
                fix="build the posterior from the filters of this network",
            )
        self.network = network
        self.posterior = posterior
        self.layers = tuple(layers)
        self.others = others
        names = {layer.parameter for layer in layers} | (others.names if others is not None else set())
        for name, parameter in network.named_parameters():
            if name in names:
                parameter.requires_grad_(False)

    def draws(self, number: int, generator: torch.Generator | None = None) -> Iterator[WeightDraw]:
        """Draws weights, one draw in memory at a time; those of a mixture are stratified over its components."""
        streams: dict[int, Iterator[tuple[int, Tensor]]] = {}
        for component, filters in self.posterior.draw_each(number, generator):
            if self.others is None:
                yield WeightDraw(filters, None, component)
                continue
            if component not in streams:
                streams[component] = self.others.posterior(component).draw_each(number, generator)
            yield WeightDraw(filters, next(streams[component])[1], component)

    def centre(self) -> WeightDraw:
        """Returns the mean of the posterior; for a mixture, of its heaviest component (or of the one in training).

        The mean over components that are different networks would not be a network that works.
        """
        component = 0
        filters = self.posterior.mean()
        if isinstance(self.posterior, Mixture):
            active = self.posterior.active
            component = int(self.posterior.log_weights.argmax()) if active is None else active
            filters = self.posterior.component(component).mean()
        return WeightDraw(filters, None if self.others is None else self.others.posterior(component).mean(), component)

    def tensors(self, draw: WeightDraw) -> dict[str, Tensor]:
        """Returns the drawn weights in the shapes of the network's parameters, by name."""
        weights = set_filters(draw.filters, self.layers)
        if self.others is not None and draw.others is not None:
            weights |= self.others.tensors(draw.others, draw.component)
        return weights

    def forward(
        self, images: Tensor, filters: Tensor | None = None, others: Tensor | None = None, component: int = 0
    ) -> Tensor | list[Tensor]:
        """Computes logits with the given weights: `model(images, *draw)`.

        Args:
            images: `[N, C, X, Y, Z]`.
            filters: `[F, 27]`, one draw; the posterior's centre if left out.
            others: `[P, 1]`, of the same draw, where the other weights have a posterior.
            component: of the same draw.

        Returns:
            What the network returns: logits `[N, K+1, X, Y, Z]`.
        """
        draw = self.centre() if filters is None else WeightDraw(filters, others, component)
        # With tie_weights a module that is registered under two names would keep the drawn weights after the call.
        # Buffers go along so that running statistics (BatchNorm) are updated in place on the module's own.
        tensors = {**dict(self.network.named_buffers()), **self.tensors(draw)}
        logits: Tensor | list[Tensor] = functional_call(self.network, tensors, (images,), tie_weights=False)
        return logits

    def with_weights(self, draw: WeightDraw) -> Callable[[Tensor], Tensor]:
        """Returns the network with the weights of a draw, for the many windows of a pass over a volume.

        The weights are brought into their shapes once, not at every window.
        """
        # Weights of transposed convolutions are stored transposed; every call would copy them.
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors(draw).items()}
        everything = {**dict(self.network.named_buffers()), **tensors}

        def forward(images: Tensor) -> Tensor:
            logits: Tensor | list[Tensor] = functional_call(self.network, everything, (images,), tie_weights=False)
            # With deep supervision there is one map for each resolution, the finest first.
            return logits if isinstance(logits, Tensor) else logits[0]

        return forward

    def local_forward(
        self, images: Tensor, draw: WeightDraw, generator: torch.Generator | None = None
    ) -> Tensor | list[Tensor]:
        """Computes logits with activations drawn in place of filters (local reparameterisation).

        Raises:
            ModelError: if the posterior is neither mean-field nor a mixture.
        """
        posterior = self.posterior
        if isinstance(posterior, Mixture):
            posterior = posterior.component(draw.component)
        others = {} if self.others is None or draw.others is None else self.others.tensors(draw.others, draw.component)
        return local_reparameterised_forward(self.network, posterior, self.layers, images, generator, others)

    def point_parameters(self) -> list[nn.Parameter]:
        """Returns the trainable parameters of the network without a posterior: by default all but the filters."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

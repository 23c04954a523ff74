"""Networks whose passes are random, as arms of Graft: Monte-Carlo dropout, and the layers of bayesian-torch.

`network: {factory: "stochastic_networks:dropout", options: {…}}` in a study that is run with this folder in PYTHONPATH.
A training step is one random pass. A prediction averages the probabilities of several, each of which draws anew for
every window and every batch of windows, as these methods do.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from models.networks.factory import NetworkOptions, build_network


class _Penalty(torch.autograd.Function):
    """Adds a penalty to whatever loss is computed from logits: its gradient joins the backward pass."""

    @staticmethod
    def forward(context: Any, logits: Tensor, penalty: Tensor) -> Tensor:
        context.shape, context.dtype = penalty.shape, penalty.dtype
        return logits.view_as(logits)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, torch.ones(context.shape, dtype=context.dtype, device=gradient.device)


class SampledNetwork(nn.Module):
    """A network with random passes.

    Args:
        network: maps images to logits; what is random in it stays so in predictions.
        draws: passes of a prediction.
        kl_weight: of the network's own KL term, in a loss that is a mean over voxels.
    """

    def __init__(self, network: nn.Module, draws: int, kl_weight: float = 0.0) -> None:
        super().__init__()
        self.network, self.draws, self.kl_weight = network, draws, kl_weight

    def train(self, mode: bool = True) -> SampledNetwork:
        """Sets the mode; dropout is active in both."""
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, nn.Dropout3d):
                module.train()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Maps `[N, C, X, Y, Z]` to logits in training, else to logarithms of mean probabilities."""
        if not self.training:
            passes = [self.network(images).float().log_softmax(dim=1) for _ in range(self.draws)]
            return torch.stack(passes).logsumexp(dim=0)
        logits: Tensor = self.network(images)
        if self.kl_weight:
            logits = _Penalty.apply(logits, self.kl_weight * self._kl())
        return logits

    def _kl(self) -> Tensor:
        terms = [module.kl_loss_sum() for module in self.network.modules() if hasattr(module, "kl_loss_sum")]
        return torch.stack(terms).sum()


def _plain(options: dict[str, Any], channels: int, classes: int) -> nn.Module:
    return build_network(TypeAdapter(NetworkOptions).validate_python(options), channels, classes)


def dropout(*, channels: int, classes: int, network: dict[str, Any], rate: float, draws: int) -> nn.Module:
    """Monte-Carlo dropout (Gal and Ghahramani 2016) in a network of Graft's."""
    return SampledNetwork(_plain({**network, "dropout": rate}, channels, classes), draws)


def variational(
    *, channels: int, classes: int, network: dict[str, Any], draws: int, kl_weight: float, delta: float, layer: str
) -> nn.Module:
    """A network of Graft's whose convolutions are bayesian-torch's, with the settings of its documentation.

    Args:
        channels: of the image.
        classes: background included.
        network: its options.
        draws: passes of a prediction.
        kl_weight: T / N_vox.
        delta: standard deviations start as this share of the weights (MOPED), whose own start is the means'; 0 for the
            library's start, means from N(0, 0.1²).
        layer: `Reparameterization` or `Flipout`.
    """
    from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn

    found = _plain(network, channels, classes)
    settings = {"prior_mu": 0.0, "prior_sigma": 1.0, "posterior_mu_init": 0.0, "posterior_rho_init": -3.0}
    # The library makes its tensors on the processor, and nothing can be copied from a network without values.
    started = delta > 0 and not next(found.parameters()).is_meta
    dnn_to_bnn(found, {**settings, "type": layer, "moped_enable": started, "moped_delta": delta})
    for module in found.modules():
        if hasattr(module, "kl_loss"):
            # The library takes the mean over the weights of a layer, where the KL is their sum.
            module.kl_loss_sum = _sum_of(module)
    return SampledNetwork(found, draws, kl_weight)


def _sum_of(module: nn.Module) -> Any:
    return lambda: module.kl_loss() * module.mu_kernel.numel()

"""The local-reparameterisation estimator: noise on activations in place of noise on weights.

Source: Kingma, Salimans, Welling, "Variational dropout and the local reparameterization trick", NeurIPS 2015. For a
convolution y = w ∗ x with independent normal weights, each activation is normal with mean μ ∗ x and variance σ² ∗ x².
Drawing activations lowers the variance of gradients and costs a second convolution per layer. Activations of one filter
at two voxels are drawn independently although they share weights, so it is an estimator for training, not a draw of a
network: predictions use drawn weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.func import functional_call

from data.errors import ModelError
from models.filters import FilterLayer, set_filters
from models.posteriors.mean_field import MeanField
from models.posteriors.posterior import Posterior
from models.random_draws import standard_normal

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]

# Under the square root: a patch of zeros has no variance, and the root no finite slope there.
_LEAST_VARIANCE = 1e-12


def local_reparameterised_forward(
    network: nn.Module,
    posterior: Posterior,
    layers: Sequence[FilterLayer],
    images: Tensor,
    generator: torch.Generator | None = None,
    others: Mapping[str, Tensor] | None = None,
) -> Tensor | list[Tensor]:
    """Computes logits with activations drawn from their distribution under the posterior.

    Args:
        network: maps `[N, C, X, Y, Z]` to logits.
        posterior: a mean-field one over the filters of `layers`.
        layers: the layers, in the order of the posterior.
        images: `[N, C, X, Y, Z]`.
        generator: source of the noise.
        others: drawn parameters other than filters, by name; the network's own parameters otherwise.

    Returns:
        What the network returns: logits `[N, K+1, X, Y, Z]`.

    Raises:
        ModelError: if the posterior is not mean-field.
    """
    if not isinstance(posterior, MeanField):
        raise ModelError(
            f"local reparameterisation with a posterior of class {type(posterior).__name__}",
            expected="posterior: mean_field",
            fix="choose the sampled-weight estimator",
        )
    variances = set_filters(posterior.log_variances.exp(), layers)
    handles = []
    try:
        for layer in layers:
            module = network.get_submodule(layer.parameter.removesuffix(".weight"))
            handles.append(module.register_forward_hook(_noise(variances[layer.parameter], generator)))
        tensors = {**dict(network.named_buffers()), **(others or {}), **set_filters(posterior.means, layers)}
        logits: Tensor | list[Tensor] = functional_call(network, tensors, (images,), tie_weights=False)
    finally:
        for handle in handles:
            handle.remove()
    return logits


def _noise(variance: Tensor, generator: torch.Generator | None) -> Hook:
    def add_noise(module: nn.Module, inputs: tuple[Tensor, ...], mean: Tensor) -> Tensor:
        squares = inputs[0].square()
        if isinstance(module, nn.ConvTranspose3d):
            spread = functional.conv_transpose3d(
                squares,
                variance,
                None,
                module.stride,
                module.padding,  # type: ignore[arg-type]
                module.output_padding,
                module.groups,
                module.dilation,
            )
        elif isinstance(module, nn.Conv3d):
            spread = functional.conv3d(
                squares, variance, None, module.stride, module.padding, module.dilation, module.groups
            )
        else:
            raise ModelError(f"a layer of class {type(module).__name__} with filters", expected="a 3D convolution")
        noise = standard_normal(mean.shape, mean, generator)
        return mean + (spread + _LEAST_VARIANCE).sqrt() * noise

    return add_noise

"""How large the gradients of data term and KL are on the means of the filters, for the log of a training.

The gradient of the KL costs a pass back through the priors alone. That of the data term is what the training's own
backward pass leaves beside it, so the network is not passed a second time and the training is the same to the byte.
"""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor, nn

GRADIENT_DATA, GRADIENT_KL = "gradient_data", "gradient_kl"
"""Columns of the log: root mean square of the gradients of the data term and of the scaled KL."""


def log_gradient_sizes(
    means: Tensor, kl: Tensor, thinning: Tensor, terms: MutableMapping[str, float], scale: float = 1.0
) -> None:
    """Logs the gradients of a step, those of the data term once its backward pass is done.

    Args:
        means: `[F, 27]`, where the gradients are taken; nothing is logged if it is no parameter that learns.
        kl: the scaled KL of the step, a scalar.
        thinning: `[F]`, the factor by which squares of the KL's gradient are too large, because it is estimated on a
            subset of the filters and scaled up.
        terms: receives both, in units of the loss by units of the weights.
        scale: factor on the gradients of the backward pass.
    """
    if not isinstance(means, nn.Parameter) or not kl.requires_grad:
        return
    [of_kl] = torch.autograd.grad(kl, [means], retain_graph=True, allow_unused=True)
    if of_kl is None:
        return
    terms[GRADIENT_KL] = _root_mean_square(of_kl / thinning.to(of_kl).sqrt()[:, None])

    def after_backward(parameter: Tensor) -> None:
        handle.remove()
        if parameter.grad is not None:
            terms[GRADIENT_DATA] = _root_mean_square(parameter.grad / scale - of_kl)

    handle = means.register_post_accumulate_grad_hook(after_backward)


def _root_mean_square(gradient: Tensor) -> float:
    return float(gradient.square().mean().sqrt())

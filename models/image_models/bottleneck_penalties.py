"""Penalties on a bottleneck that keep an autoencoder without corruption from copying its input.

They act on standardised features: zero mean and unit variance of each channel over its voxels. Smaller features alone
would satisfy a penalty on raw ones, and the norms of the decoder would undo that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from models.image_models.objectives import Sparse, SparsePenalty

_LARGE, _STEEPNESS = 1.0, 4.0
"""Standard deviations above which a number counts as active, and the slope of the logistic function there."""


def standardised(features: Tensor) -> Tensor:
    """Returns features `[N, F, x, y, z]` with zero mean and unit variance of each channel of each image."""
    return functional.instance_norm(features)


def sparseness(code: Tensor, options: Sparse) -> Tensor:
    """Computes the penalty of a standardised bottleneck `[N, F, x, y, z]`, a scalar."""
    if options.penalty is SparsePenalty.L1:
        return code.abs().mean()
    aim = torch.as_tensor(options.activation, dtype=code.dtype, device=code.device)
    # The mean of the numbers themselves is fixed. What a sparse code has few of is large ones.
    mean = torch.sigmoid(_STEEPNESS * (code - _LARGE)).mean(dim=(0, 2, 3, 4))
    divergence = aim * (aim / mean).log() + (1 - aim) * ((1 - aim) / (1 - mean)).log()
    return divergence.mean()


def squared_jacobian(code: Tensor, image: Tensor, projections: int, generator: torch.Generator | None) -> Tensor:
    """Estimates the squared Frobenius norm of the Jacobian of a code, per number of the code; without bias.

    ‖J‖² = E ‖Jᵀv‖² for v with independent signs. For noise of variance s² at every voxel of the image, s² times the
    result is the mean variance that the numbers of the code get from it, to first order.

    Args:
        code: `[N, …]`, computed from `image`; that of one image must not depend on another.
        image: `[N, C, X, Y, Z]`, which requires its gradient.
        projections: draws of v.
        generator: of the draws.

    Returns:
        A scalar, the mean over images; differentiable.
    """
    draws = [projected_square(code, image, random_signs(code, generator)) for _ in range(projections)]
    return torch.stack(draws).mean() / code.numel()


def projected_square(code: Tensor, image: Tensor, projection: Tensor) -> Tensor:
    """Computes Σ ‖Jᵀv‖² over images for a projection v of the code's shape; differentiable."""
    (pulled,) = torch.autograd.grad(code, image, projection, create_graph=True)
    return pulled.square().sum()


def random_signs(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws −1 or 1 for every number of a tensor."""
    device = like.device if generator is None else generator.device
    drawn = torch.randint(0, 2, tuple(like.shape), generator=generator, device=device)
    return (2 * drawn - 1).to(like)

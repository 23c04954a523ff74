"""Fourier domain adaptation: an image gets the low-frequency amplitudes of another and keeps its phases.

Source: Yang, Soatto, "FDA: Fourier domain adaptation for semantic segmentation", CVPR 2020, equations 1 to 3, in three
dimensions. Amplitudes of low frequencies hold brightness, contrast and shading; phases hold where edges are.
"""

from __future__ import annotations

import torch
from torch import Tensor

_AXES = (1, 2, 3)


def swap_amplitudes(image: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Gives an image the amplitudes of a reference at all frequencies of at most β cycles per voxel along each axis.

    Args:
        image: `[C, X, Y, Z]`.
        reference: `[C, X, Y, Z]`, of the same shape.
        beta: 0 swaps the mean alone, 0.5 swaps all amplitudes.

    Returns:
        `[C, X, Y, Z]`.
    """
    # The phase of the mean is its sign. Of scaled images it can be negative; above their common minimum it never is.
    low = torch.minimum(image.amin(_AXES, keepdim=True), reference.amin(_AXES, keepdim=True))
    own, other = (torch.fft.rfftn(each - low, dim=_AXES) for each in (image, reference))
    swapped = _low_frequencies(image.shape[1:], beta).to(image.device)
    amplitude = torch.where(swapped, other.abs(), own.abs())
    return torch.fft.irfftn(torch.polar(amplitude, own.angle()), s=image.shape[1:], dim=_AXES) + low


def _low_frequencies(shape: torch.Size, beta: float) -> Tensor:
    """Which coefficients of the half spectrum of real images are swapped, `[X, Y, Z // 2 + 1]`."""
    x, y = (torch.fft.fftfreq(n).abs() <= beta for n in shape[:2])
    return x[:, None, None] & y[None, :, None] & (torch.fft.rfftfreq(shape[2]) <= beta)

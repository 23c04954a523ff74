"""Histogram matching: the monotone map that gives an image the distribution of intensities of another.

Source: Nyúl, Udupa, "On standardizing the MR image intensity scale", Magnetic Resonance in Medicine 42 (1999) 1072,
with all quantiles as landmarks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def quantile_function(values: NDArray[np.floating], points: int) -> NDArray[np.float32]:
    """Returns the quantiles of each channel from the smallest to the largest value, `[C, points]`.

    Args:
        values: `[C, M]` intensities.
        points: number of quantiles, evenly spaced.
    """
    return np.quantile(values, np.linspace(0, 1, points), axis=1).T.astype(np.float32)


def match_quantiles(image: Tensor, source: NDArray[np.floating], target: NDArray[np.floating]) -> Tensor:
    """Maps the quantiles of one distribution to those of another, linearly between them.

    Beyond the smallest and largest quantile the map goes on with slope one, so that no two intensities fall together.

    Args:
        image: `[C, X, Y, Z]`.
        source: `[C, Q]` quantiles of the distribution that the image comes from.
        target: `[C, Q]` quantiles that it is to have.

    Returns:
        `[C, X, Y, Z]`, of the image's type.
    """
    channels = [_matched(own.numpy(), *pair) for own, *pair in zip(image, source, target, strict=True)]
    return torch.from_numpy(np.stack(channels)).to(image.dtype)


def _matched(
    channel: NDArray[np.floating], source: NDArray[np.floating], target: NDArray[np.floating]
) -> NDArray[np.floating]:
    # Intensities that are clipped, or the air, are many equal quantiles: these go to the mean of what they match.
    known, place, counts = np.unique(source, return_inverse=True, return_counts=True)
    wanted = np.bincount(place, weights=target) / counts
    beyond = np.minimum(channel - known[0], 0) + np.maximum(channel - known[-1], 0)
    return np.interp(channel, known, wanted) + beyond

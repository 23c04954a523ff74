"""What in a volume is content and what is background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.volume import Volume
from preprocessing.grid import background_value


def content_mask(volume: Volume, tolerance: float = 1e-3) -> NDArray[np.bool_]:
    """Returns `[X, Y, Z]`: the largest piece that differs from the background, holes filled.

    Args:
        volume: an image whose background is (nearly) one value, such as a skull-stripped brain; any value, not only 0.
        tolerance: largest deviation from the background value that still counts as background, as a share of the
            range from the 1st to the 99th percentile.
    """
    background = background_value(volume)
    low, high = np.percentile(volume.array, [1, 99])
    differs = np.abs(volume.array - background) > tolerance * max(float(high - low), 1e-30)
    return ndimage.binary_fill_holes(largest_component(differs))


def foreground_mask(volume: Volume) -> NDArray[np.bool_]:
    """Returns `[X, Y, Z]`: the head or body in a raw scan, by Otsu's threshold on log intensities, holes kept.

    The threshold is Otsu, IEEE Trans. SMC 9 (1979) 62; the logarithm keeps dark tissue with the bright.
    """
    array = volume.array
    low, high = np.percentile(array, [0.5, 99.5])
    scaled = np.log1p(255 * np.clip((array - low) / max(float(high - low), 1e-6), 0, 1))
    return scaled > otsu_threshold(scaled)


def otsu_threshold(values: NDArray, bins: int = 256) -> float:
    """Returns the threshold that maximises the between-class variance; of values all alike, these themselves."""
    if values.min() == values.max():
        return float(values.flat[0])
    counts, edges = np.histogram(values, bins=bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[int(np.nanargmax(between[:-1])) + 1])


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the largest face-connected piece of a mask."""
    pieces, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces == int(sizes.argmax())


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Returns the Dice coefficient of two masks; 0 where both are empty."""
    size = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2 * int(np.count_nonzero(first & second)) / max(1, size)

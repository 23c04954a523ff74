"""Which tissues are bright and which are dark in a brain aligned to the template: this shows the kind of scan.

Volumes, spacings and histograms hardly distinguish a T1 from a FLAIR; the order of white matter, grey matter and fluid
does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.volume import Volume
from preprocessing.grid import resample
from preprocessing.step import Interpolation
from preprocessing.template import load_template

TISSUES = ("white", "grey", "fluid")
_SPACING = 4.0
"""Voxel size in mm at which the means are computed."""
_LEAST = 50.0
"""Fewer voxels of a tissue in view are not enough to judge it."""


def tissue_contrast(volume: Volume, mask: Volume) -> dict[str, float] | None:
    """Returns the mean of each tissue in standard deviations from the brain's mean.

    Returns:
        Tissue → mean; `None` where a tissue is out of view, or the brain has no contrast.
    """
    template = load_template(_SPACING)
    grid = template.grey
    image = resample(volume, grid.shape, grid.affine, Interpolation.LINEAR).array
    share = mask.with_array((mask.array > 0).astype(np.float32))
    inside = resample(share, grid.shape, grid.affine, Interpolation.LINEAR).array > 0.5
    if not inside.any():
        return None
    low, high = np.percentile(image[inside], [0.5, 99.5])
    values = np.clip(image, low, high)
    mean, deviation = float(values[inside].mean()), float(values[inside].std())
    white, grey = template.white.array, template.grey.array
    weights = {"white": white, "grey": grey, "fluid": np.clip(template.brain.array - white - grey, 0, 1)}
    # Squared, so that voxels of one tissue count more than shared ones.
    inner: dict[str, NDArray[np.float64]] = {name: (weights[name] ** 2) * inside for name in TISSUES}
    if deviation == 0 or min(float(weight.sum()) for weight in inner.values()) < _LEAST:
        return None
    return {name: (float((w * values).sum() / w.sum()) - mean) / deviation for name, w in inner.items()}

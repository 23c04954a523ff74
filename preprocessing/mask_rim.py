"""Whether a brain mask reaches into the scalp: there its rim is brighter than any brain and continues outside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.volume import Volume
from preprocessing.cropping import crop

_RIM_MM = 6.0
_DEEP_MM = 15.0
"""Depth in mm below which there is nothing but brain and its fluid, however poor the mask's edge."""
_BRIGHTER = 1.5
"""Least brightness of fat, marrow and scalp, as a multiple of the median deep in the mask."""
_FEWEST = 1000
"""Fewer voxels deep in the mask say nothing about the brain's values."""


def scalp_share(image: Volume, mask: NDArray[np.bool_]) -> float:
    """Returns the share of the outer 6 mm of a brain mask that is brighter than brain and connected to scalp outside.

    Bright lesions and vessels do not count unless they touch bright voxels outside the mask; where the scalp is not
    brighter than the brain, as around a stripped one, it is 0.
    """
    found = ndimage.find_objects(mask.astype(np.int8))
    if not found:
        return 0.0
    # One voxel around it, to see how the rim continues.
    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in found[0])
    scan, brain = crop(image, box), mask[box]
    # The edge of the field of view is not an edge of the brain.
    depth = ndimage.distance_transform_edt(np.pad(brain, 1, mode="edge"), sampling=scan.spacing)[1:-1, 1:-1, 1:-1]
    deep = scan.array[depth > _DEEP_MM]
    if deep.size < _FEWEST:
        return 0.0
    bright = scan.array > max(_BRIGHTER * float(np.median(deep)), float(np.percentile(deep, 99)))
    pieces, _ = ndimage.label(bright)
    joined = np.unique(pieces[bright & ~brain])
    rim = brain & (depth <= _RIM_MM)
    return float(np.isin(pieces[rim], joined[joined > 0]).mean()) if rim.any() else 0.0

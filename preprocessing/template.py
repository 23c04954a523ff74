"""The ICBM-152 template that ships with nilearn, and a head built around its brain.

Source: Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54 (2011) 313, the
symmetric 2009a version. The template is brain only; registering a raw head to it needs what surrounds a brain too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.volume import Volume
from preprocessing.grid import isotropic_grid, resample
from preprocessing.step import Interpolation


@dataclass(frozen=True)
class Template:
    """The template on one grid in ICBM-152 space.

    Attributes:
        image: `[X, Y, Z]` float32 T1 intensities from 0 to 1, 0 outside the brain.
        brain: `[X, Y, Z]` float32 share of brain in each voxel, with the cerebrospinal fluid that its hull encloses.
        grey: `[X, Y, Z]` float32 probability of grey matter.
        white: `[X, Y, Z]` float32 probability of white matter.
    """

    image: Volume
    brain: Volume
    grey: Volume
    white: Volume

    @property
    def mask(self) -> NDArray[np.bool_]:
        """`[X, Y, Z]` voxels with more than half of brain."""
        return self.brain.array > 0.5


# A case takes five spacings in turn, and with one place fewer each of them would be made again for every case.
@lru_cache(maxsize=8)
def load_template(spacing: float = 1.0) -> Template:
    """Loads the template at an isotropic spacing in mm; the grid of one spacing is the same each time."""
    from nilearn import datasets

    images = {
        "image": datasets.load_mni152_template(resolution=1),
        "brain": datasets.load_mni152_brain_mask(resolution=1),
        "grey": datasets.load_mni152_gm_template(resolution=1),
        "white": datasets.load_mni152_wm_template(resolution=1),
    }
    volumes = {}
    for name, image in images.items():
        volume = Volume(np.asarray(image.dataobj, dtype=np.float32), image.affine)
        shape, affine = isotropic_grid(volume, spacing)
        volumes[name] = resample(volume, shape, affine, Interpolation.LINEAR)
    return Template(**volumes)


@dataclass(frozen=True)
class HeadModel:
    """A head around the template's brain, for metrics that compare tissue by tissue and know no contrast.

    Attributes:
        image: `[X, Y, Z]` float32; each tissue has a level of its own: air 0, skull 1, cerebrospinal fluid 2, grey
            matter 3, white matter 4, scalp 5.
        region: `[X, Y, Z]` bool; where the model is informative: the brain and, above the base of the skull, the shell
            of bone and scalp around it. Face, neck and base of the skull differ too much between people.
        brain: `[X, Y, Z]` float32 share of brain.
    """

    image: Volume
    region: NDArray[np.bool_]
    brain: Volume


@lru_cache(maxsize=4)
def head_model(spacing: float, skull: float = 8.0, scalp: float = 6.0, air: float = 6.0) -> HeadModel:
    """Builds the head model at an isotropic spacing in mm.

    Args:
        spacing: voxel size in mm.
        skull: thickness in mm of the dark shell: bone with the fluid and membranes outside the hull.
        scalp: thickness in mm of the bright shell.
        air: thickness in mm of the shell of air that the model still covers.
    """
    template = load_template(2.0)
    inside = template.mask
    outside = ndimage.distance_transform_edt(~inside, sampling=2.0)
    fluid = np.clip(1 - template.grey.array - template.white.array, 0, 1)
    levels = 2 * fluid + 3 * template.grey.array + 4 * template.white.array
    shell = np.where(outside <= skull, 1.0, np.where(outside <= skull + scalp, 5.0, 0.0))
    image = np.where(inside, levels, shell).astype(np.float32)
    height = template.image.affine[2, 2] * np.arange(inside.shape[2]) + template.image.affine[2, 3]
    # Below the orbits only a thin rim stays; above, the whole shell. mm in ICBM-152 space.
    reach = np.clip((height + 20.0) / 40.0, 0.0, 1.0) * (skull + scalp + air - 2.0) + 2.0
    region = (outside <= reach).astype(np.float32)
    affine = template.image.affine
    shape, coarse = isotropic_grid(template.image, spacing)
    return HeadModel(
        resample(Volume(image, affine), shape, coarse, Interpolation.LINEAR),
        resample(Volume(region, affine), shape, coarse, Interpolation.LINEAR).array > 0.5,
        resample(template.brain, shape, coarse, Interpolation.LINEAR),
    )

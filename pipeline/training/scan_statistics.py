"""What translations need to know of whole scans: the distribution of intensities, and the classes of tissue."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.volume import Volume
from models.translation.random_contrast import tissue_centres, tissue_classes
from pipeline.storage.cached_image import CachedImage
from preprocessing.content import foreground_mask


def foreground_values(scan: CachedImage) -> NDArray[np.float32]:
    """Returns the intensities inside the content of a scan, `[C, M]`; without a mask, of all that is not air.

    What preprocessing padded is left out.
    """
    image = scan.image().numpy()[(slice(None), *scan.scan)]
    content = scan.mask().numpy()[scan.scan]
    if content.all():
        seen = [foreground_mask(Volume(channel, scan.affine)) for channel in image]
        content = np.any(seen, axis=0)
    # A constant scan has no foreground.
    return image[:, content] if content.any() else image.reshape(len(image), -1)


def tissue_statistics(scan: CachedImage, classes: int) -> dict[str, Tensor]:
    """Divides a scan into tissue classes.

    Args:
        scan: the scan; without a mask, air is divided like everything else.
        classes: K.

    Returns:
        `centres` `[K, C]`, `shares` `[K]` of the classes, and `mean` and `deviation` `[C]` of the intensities.
    """
    image, content = scan.image(), scan.mask()
    values = image[:, content] if content.any() else image.flatten(1)
    centres = torch.from_numpy(tissue_centres(values.numpy(), classes))
    found = tissue_classes(values[:, :, None, None], centres)
    shares = torch.bincount(found.flatten(), minlength=classes) / found.numel()
    return {"centres": centres, "shares": shares, "mean": values.mean(1), "deviation": values.std(1, correction=0)}

"""Volumes as SimpleITK images and back: RAS+ against LPS+, `[X, Y, Z]` against `[Z, Y, X]`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.itk_file import LPS_TO_RAS
from data.volume import Volume


def use_itk_threads(threads: int) -> None:
    """Sets how many threads ITK's filters use in this process; the result of a sum depends on it."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def to_itk(volume: Volume) -> Any:
    """Returns a SimpleITK image; a shear, which ITK cannot hold, is dropped to the nearest rotation."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    affine = LPS_TO_RAS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, vt = np.linalg.svd(affine[:3, :3] / spacing)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((u @ vt).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def world_matrix(transform: Any) -> NDArray[np.float64]:
    """Returns the `[4, 4]` matrix, RAS+ mm to RAS+ mm, of a SimpleITK matrix-offset transform (LPS+)."""
    matrix, centre = np.reshape(transform.GetMatrix(), (3, 3)), np.array(transform.GetCenter())
    lps = np.eye(4)
    lps[:3, :3] = matrix
    lps[:3, 3] = np.array(transform.GetTranslation()) + centre - matrix @ centre
    return LPS_TO_RAS @ lps @ LPS_TO_RAS

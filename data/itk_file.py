"""MetaImage and NRRD files, read and written through SimpleITK."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.image_header import AGAIN, LARGEST_RATIO, ImageHeader, check_claim, refuse

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_PACKED = re.compile(r"^(compresseddata\s*=\s*true|encoding:\s*(gz|gzip|bz2|bzip2))\s*$", re.IGNORECASE | re.MULTILINE)
_DETACHED = re.compile(r"^(?:elementdatafile\s*=|data ?file:)\s*(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_HEADER_BYTES = 1 << 16


def open_itk(path: Path) -> tuple[Any, ImageHeader]:
    """Opens a file and reads its header; returns SimpleITK's reader and what the file claims.

    Raises:
        DataError: it cannot be read, or claims more voxels than it can hold.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise refuse(path, "cannot be read", "a whole MetaImage or NRRD file", AGAIN) from error
    dtype = _dtype(path, sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    size = tuple(int(n) for n in reader.GetSize())
    components = int(reader.GetNumberOfComponents())
    shape = size + ((components,) if components > 1 else ())
    check_claim(path, shape, dtype.itemsize, _bytes_held(path))
    return reader, ImageHeader(shape, _affine(reader), dtype)


def _dtype(path: Path, pixel_type: str) -> np.dtype:
    match = re.search(r"(\d+)-bit (signed|unsigned|float)", pixel_type)
    if match is None:
        raise refuse(
            path, f"holds voxels of the type {pixel_type!r}", "one number per voxel", "export it as grey values"
        )
    kind = {"signed": "i", "unsigned": "u", "float": "f"}[match[2]]
    return np.dtype(f"{kind}{int(match[1]) // 8}")


def _bytes_held(path: Path) -> int:
    """An upper bound on the bytes of voxels in the file, or in the file that it names."""
    with path.open("rb") as stream:
        # An NRRD header ends at the first empty line, MetaImage's at ElementDataFile; voxels may follow either.
        text = stream.read(_HEADER_BYTES).decode("latin-1")
    if text.startswith("NRRD"):
        text = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    detached = _DETACHED.search(text)
    holder = path
    if detached is not None and detached[1].upper() not in ("LOCAL", "LIST"):
        holder = path.parent / detached[1]
        if "%" not in detached[1] and not detached[1].upper().startswith("LIST") and not holder.is_file():
            raise refuse(path, f"names the file {detached[1]}, which does not exist", "its voxels", "restore that file")
    if not holder.is_file() or (detached is not None and detached[1].upper().startswith("LIST")):
        return LARGEST_RATIO * 2**40
    return holder.stat().st_size * (LARGEST_RATIO if _PACKED.search(text) else 1)


def _affine(reader: Any) -> NDArray[np.float64]:
    dimension = reader.GetDimension()
    affine = np.eye(4)
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    used = min(dimension, 3)
    affine[:used, :used] = direction @ np.diag(reader.GetSpacing()[:3])
    affine[:used, 3] = reader.GetOrigin()[:3]
    return _LPS_TO_RAS @ affine


def itk_array(path: Path, reader: Any, header: ImageHeader, frame: int | None) -> NDArray:
    """Reads the voxels of one frame, or all of them: `[X, Y, Z]` or `[X, Y, Z, frames]`.

    Raises:
        DataError: the file is truncated or damaged, or lacks the frame.
    """
    import SimpleITK as sitk

    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise refuse(path, "is truncated or damaged", "a whole file", AGAIN) from error
    array = sitk.GetArrayFromImage(image)
    # ITK's axes run Z, Y, X, and the components of a voxel come last.
    spatial = tuple(range(reader.GetDimension()))[::-1]
    array = array.transpose(*spatial, *range(len(spatial), array.ndim)).reshape(header.volume_shape)
    if frame is None or array.ndim not in (3, 4):
        return array
    frames = array.shape[3] if array.ndim == 4 else 1
    if not 0 <= frame < frames:
        found = f"has {frames} channel{'s' if frames > 1 else ''}"
        raise refuse(path, found, f"a channel number {frame}", "correct the dataset's channels")
    return array[..., frame] if array.ndim == 4 else array


def write_itk(array: NDArray, affine: NDArray[np.float64], path: Path) -> None:
    """Writes a 3D volume as MetaImage or NRRD, packed.

    Raises:
        DataError: the affine is sheared, which these formats (as ITK writes them) cannot express.
    """
    import SimpleITK as sitk

    lps = _LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        raise refuse(path, "cannot hold a sheared affine", "axes at right angles", "write .nii.gz instead")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, os.fspath(path), useCompression=True)

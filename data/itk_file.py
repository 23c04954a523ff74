"""MetaImage and NRRD files: geometry through SimpleITK, voxels read and verified here."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.image_header import (
    AGAIN,
    LARGEST_RATIO,
    ImageHeader,
    check_claim,
    chosen_frame,
    damaged,
    no_grey_values,
    refuse,
)
from data.itk_header import Encoding, StoredVoxels, read_itk_header
from data.packed_stream import DamagedStreamError, inflate, unpack_bzip2

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LEAST_TEXT = 2  # A digit and a space.


@dataclass(frozen=True)
class ItkSource:
    """An opened file.

    Attributes:
        stored: where its voxels lie.
        size: number of voxels along each spatial axis, the fastest first.
        components: numbers per voxel.
    """

    stored: StoredVoxels
    size: tuple[int, ...]
    components: int


def open_itk(path: Path) -> tuple[ItkSource, ImageHeader]:
    """Opens a file and reads its header.

    Raises:
        DataError: it cannot be read, claims more voxels than it can hold, or names files that do not lie beside it.
    """
    import SimpleITK as sitk

    stored = read_itk_header(path)
    try:
        name = os.fspath(path)
        name.encode()
    except UnicodeEncodeError as error:
        # ITK would end the whole process.
        raise refuse(path, "its name is not valid UTF-8", "a name in UTF-8", "rename the file") from error
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise refuse(path, "cannot be read", "a whole MetaImage or NRRD file", AGAIN) from error
    dtype = _dtype(path, sitk.GetPixelIDValueAsString(reader.GetPixelID()), stored.big_endian)
    source = ItkSource(stored, tuple(int(n) for n in reader.GetSize()), int(reader.GetNumberOfComponents()))
    shape = source.size + ((source.components,) if source.components > 1 else ())
    spacing = reader.GetSpacing()
    if min(spacing) < 0:
        found = f"has a spacing of {' × '.join(f'{s:g}' for s in spacing)} mm"
        raise refuse(path, found, "distances above 0", "correct the header or export it again")
    check_claim(path, shape, dtype.itemsize, _most_bytes(stored, dtype.itemsize))
    return source, ImageHeader(shape, itk_affine(reader), dtype, unplaced=stored.unplaced)


def _dtype(path: Path, pixel_type: str, big_endian: bool) -> np.dtype:
    if pixel_type.startswith("complex"):
        raise no_grey_values(path, "complex numbers")
    match = re.fullmatch(r"(?:vector of )?(\d+)-bit (signed|unsigned|float).*", pixel_type)
    if match is None:
        raise no_grey_values(path, f"voxels of the type {pixel_type!r}")
    kind = {"signed": "i", "unsigned": "u", "float": "f"}[match[2]]
    return np.dtype(f"{'>' if big_endian else '<'}{kind}{int(match[1]) // 8}")


def _most_bytes(stored: StoredVoxels, itemsize: int) -> int:
    """An upper bound on the bytes of voxels in the files."""
    held = sum(max(file.stat().st_size - stored.start, 0) for file in stored.files)
    if stored.encoding is Encoding.TEXT:
        return (held + 1) * itemsize // _LEAST_TEXT
    # Bzip2 packs even better than deflate; what it really holds is counted while it is unpacked.
    ratio = {Encoding.DEFLATE: LARGEST_RATIO, Encoding.BZIP2: 100 * LARGEST_RATIO}
    return held * ratio.get(stored.encoding, 1)


def itk_affine(reader: Any) -> NDArray[np.float64]:
    """Returns the affine `[4, 4]`, voxel indices to RAS+ mm, of a SimpleITK image or of a reader of one."""
    dimension = reader.GetDimension()
    affine = np.eye(4)
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    used = min(dimension, 3)
    affine[:used, :used] = direction @ np.diag(reader.GetSpacing()[:3])
    affine[:used, 3] = reader.GetOrigin()[:3]
    return LPS_TO_RAS @ affine


def itk_array(path: Path, source: ItkSource, header: ImageHeader, frame: int | None) -> tuple[NDArray, int]:
    """Reads the voxels of one frame, or all of them: `[X, Y, Z]` or `[X, Y, Z, frames]`.

    Returns:
        the voxels, and the number of bytes after the compressed stream, which were ignored.

    Raises:
        DataError: the file is truncated or damaged, holds more than its header claims, or lacks the frame.
    """
    files = source.stored.files
    total = math.prod(header.shape) * header.dtype.itemsize
    if total % len(files):
        raise refuse(path, f"spreads its voxels unevenly over {len(files)} files", "equal parts", AGAIN)
    parts, ignored = [], 0
    for file in files:
        part, after = _voxel_bytes(path, file, source.stored, header, total // len(files))
        parts.append(part)
        ignored += after
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    array = np.frombuffer(content, header.dtype)
    axis = _component_axis(path, source)
    if source.components == 1:
        array = array.reshape(source.size, order="F")
    else:
        shape = (*source.size[:axis], source.components, *source.size[axis:])
        array = np.moveaxis(array.reshape(shape, order="F"), axis, -1)
    return chosen_frame(path, array.reshape(header.volume_shape, order="F"), frame), ignored


def _component_axis(path: Path, source: ItkSource) -> int:
    """Returns which of the stored axes, the fastest first, holds the components of one voxel."""
    stored = source.stored
    if source.components == 1 or not stored.sizes:
        return 0
    sizes = stored.sizes
    fitting = [i for i, n in enumerate(sizes) if n == source.components and sizes[:i] + sizes[i + 1 :] == source.size]
    chosen = [i for i in fitting if i in stored.component_axes] or fitting
    if not chosen:
        raise refuse(path, "its header contradicts itself about its axes", "one axis of components", AGAIN)
    return chosen[0]


def _voxel_bytes(path: Path, file: Path, stored: StoredVoxels, header: ImageHeader, wanted: int) -> tuple[bytes, int]:
    """The voxels of one file, unpacked, and the number of ignored bytes after a compressed stream.

    Raises:
        DataError: it does not hold the wanted number of bytes, or is damaged.
    """
    with file.open("rb") as stream:
        stream.seek(stored.start)
        for _ in range(stored.line_skip):
            stream.readline()
        packed = stream.read()
    skip = max(stored.byte_skip, 0)
    ignored = 0
    try:
        if stored.encoding is Encoding.DEFLATE:
            content, held, ignored = inflate(packed, wanted + skip)
        elif stored.encoding is Encoding.BZIP2:
            content, held, ignored = unpack_bzip2(packed, wanted + skip)
        elif stored.encoding is Encoding.TEXT:
            content = np.array(packed.split(), dtype=header.dtype).tobytes()
            held = len(content)
        else:
            content = bytes.fromhex(packed.decode("ascii")) if stored.encoding is Encoding.HEX else packed
            held = len(content)
    except (DamagedStreamError, ValueError) as error:
        raise damaged(path, error) from error
    if stored.byte_skip == -1 and stored.encoding is Encoding.RAW:
        skip = max(held - wanted, 0)
    if held - skip != wanted:
        where = "" if file == path else f" in {file.name}"
        found = f"its header claims {wanted:,} bytes of voxels{where}, but the file holds {max(held - skip, 0):,}"
        raise refuse(
            path, f"{found}: the header is wrong or the file is truncated", "a header that agrees with them", AGAIN
        )
    return content[skip : skip + wanted] if skip else content, ignored


def write_itk(array: NDArray, affine: NDArray[np.float64], path: Path) -> None:
    """Writes a 3D volume as MetaImage or NRRD, packed.

    Raises:
        DataError: the affine is sheared, which these formats (as ITK writes them) cannot express.
    """
    import SimpleITK as sitk

    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        raise refuse(path, "cannot hold a sheared affine", "axes at right angles", "write .nii.gz instead")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, os.fspath(path), useCompression=True)

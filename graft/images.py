"""What users may pass as an image: a path, an image of nibabel or SimpleITK, a volume, or an array with its affine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from data.case import Case, ImageSource
from data.errors import DataError
from data.image_file import read_header
from data.image_header import ImageHeader, format_shape
from data.itk_file import itk_affine
from data.names import RULE, name_fault
from data.nifti_file import nifti_header
from data.volume import Volume
from pipeline.deployment.input_cases import InputCase, collect_cases, named_case
from pipeline.deployment.raw_scan import GivenImage, RawScan

Image: TypeAlias = str | os.PathLike[str] | Volume | SpatialImage | tuple[Any, Any] | Any
"""A path, a `Volume`, an image of nibabel or of SimpleITK, or a pair of an array `[X, Y, Z]` and an affine `[4, 4]`
(voxel indices to RAS+ mm); several channels lie along a fourth axis."""

Images: TypeAlias = Image | Mapping[str, Image] | Case
"""One image, channel → image, or a case of a study."""

_KINDS = "a path, a nibabel or SimpleITK image, a graft.Volume, or a pair (array, affine)"
NAME = "image"


def read_scan(images: Images, channels: Sequence[str], name: str | None = None) -> RawScan:
    """Reads a scan as `graft predict` does, in whatever form it is passed.

    Args:
        images: one image that holds all channels, channel → image, or a case.
        channels: the wanted channels, in the order of the result.
        name: of the case; that of the file by default.

    Raises:
        DataError: an image cannot be used, or its channels are not the wanted ones.
    """
    if isinstance(images, Case):
        return RawScan.read(_usable(named_case(images, channels)), channels)
    if isinstance(images, Mapping):
        return _of_mapping(images, channels, name or NAME)
    if _is_path(images):
        return RawScan.read(_found(Path(images), channels, name), channels)
    return RawScan.of_images(_checked(name or NAME), _by_channel(images, channels))


def _of_mapping(images: Mapping[str, Image], channels: Sequence[str], name: str) -> RawScan:
    # A channel that is not a file has its key as path.
    sources = {key: ImageSource(Path(image) if _is_path(image) else Path(key)) for key, image in images.items()}
    keys = {source: key for key, source in sources.items()}
    case = _usable(named_case(Case(_checked(name), name, sources), channels))
    wanted = {channel: images[keys[source]] for channel, source in case.channels.items()}
    if all(_is_path(image) for image in wanted.values()):
        return RawScan.read(case, channels)
    return RawScan.of_images(name, {channel: _single(image, channel) for channel, image in wanted.items()})


def volume_of(image: Image, what: str) -> Volume:
    """Returns an image as a float32 volume; a file is read.

    Args:
        image: one 3D image.
        what: its name in errors.

    Raises:
        DataError: it is not an image, or not 3D.
    """
    return _single(image, what).volume


def _is_path(image: Any) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(image, str | os.PathLike)


def _found(path: Path, channels: Sequence[str], name: str | None) -> Case:
    """The one case that a path names."""
    found = collect_cases([path], channels)
    if len(found) != 1:
        raise DataError(
            f"{path}: holds {len(found)} scans",
            expected="one scan",
            fix="call it once for each, or run `graft predict`, which continues after a bad one",
        )
    case = _usable(found[0])
    return case if name is None else Case(_checked(name), name, case.channels)


def _usable(found: InputCase) -> Case:
    if found.case is None:
        raise DataError(found.fault.rstrip("."))
    return found.case


def _checked(name: str) -> str:
    if fault := name_fault(name):
        raise DataError(f"the name {name!r} {fault}", expected=RULE, fix="choose another")
    return name


def _by_channel(image: Image, channels: Sequence[str]) -> dict[str, GivenImage]:
    """Channel → image, from one image that may hold several channels along a fourth axis."""
    array, affine, header = _parts(image, NAME)
    frames = array[..., None] if array.ndim == 3 else array
    if frames.ndim != 4 or frames.shape[3] != len(channels):
        one = "one 3D volume" if len(channels) == 1 else f"{len(channels)} channels along a fourth axis"
        raise DataError(
            f"the image has the shape {format_shape(array.shape)}",
            expected=f"{one}: {', '.join(channels)}",
            fix="give a mapping from channel to image",
        )
    return {channel: _given(frames[..., k], affine, header, channel) for k, channel in enumerate(channels)}


def _single(image: Image, what: str) -> GivenImage:
    return GivenImage.read(ImageSource(Path(image))) if _is_path(image) else _given(*_parts(image, what), what)


def _given(array: NDArray[Any], affine: NDArray[np.float64], header: ImageHeader | None, what: str) -> GivenImage:
    if array.ndim != 3:
        raise DataError(
            f"{what}: has the shape {format_shape(array.shape)}",
            expected="one 3D volume",
            fix="take one frame or one channel",
        )
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what}: holds values of the type {array.dtype}", expected="real numbers", fix="convert them")
    # What exceeds float32 becomes Inf, which is refused; a warning here would only repeat it.
    with np.errstate(over="ignore", invalid="ignore"):
        volume = Volume(np.require(array, np.float32, ["C"]), affine)
    # The header may be that of all frames.
    claimed = ImageHeader(volume.shape, volume.affine, array.dtype) if header is None else header
    claimed = replace(claimed, shape=volume.shape)
    if claimed.affine_fault:
        raise DataError(f"{what}: {claimed.affine_fault}", expected="an affine that can be inverted", fix="correct it")
    return GivenImage(volume, claimed)


def _parts(image: Image, what: str) -> tuple[NDArray[Any], NDArray[np.float64], ImageHeader | None]:
    """Array, affine to RAS+ mm and, of a NIfTI image, what its header claims."""
    if isinstance(image, Volume):
        return image.array, image.affine, None
    if isinstance(image, SpatialImage):
        array = np.asarray(image.dataobj)
        while array.ndim > 3 and array.shape[-1] == 1:
            array = array[..., 0]
        if isinstance(image.header, nib.Nifti1Header):
            header = nifti_header(Path(what), image.header)
            return array, header.affine, header
        return array, np.asarray(image.affine, dtype=np.float64), None
    itk = sys.modules.get("SimpleITK")
    if itk is not None and isinstance(image, itk.Image):
        array = itk.GetArrayFromImage(image)
        vectors = image.GetNumberOfComponentsPerPixel() > 1
        return array.transpose((2, 1, 0, 3)) if vectors and array.ndim == 4 else array.T, itk_affine(image), None
    if isinstance(image, tuple) and len(image) == 2:
        array, affine = np.asarray(image[0]), np.asarray(image[1], dtype=np.float64)
        if affine.shape == (4, 4):
            return array, affine, None
    raise DataError(f"{what}: is of the type {type(image).__name__}", expected=_KINDS, fix="give one of these")


def given_channels(images: Images) -> tuple[str, ...]:
    """Names of the given channels; several channels of one image are numbered from 0."""
    if isinstance(images, Mapping | Case):
        return tuple(images.channels if isinstance(images, Case) else images)
    shape = read_header(Path(images)).volume_shape if _is_path(images) else _parts(images, NAME)[0].shape
    return (NAME,) if len(shape) < 4 else tuple(f"{NAME}-{number}" for number in range(shape[3]))

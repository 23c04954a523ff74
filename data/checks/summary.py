"""What the checks of a whole cohort need from a case: small, so that any number of cases fits into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, gaussian_filter, map_coordinates

from data.checks.coarse import clipped, coarsen
from data.checks.observation import CaseObservation
from data.checks.report import Presence
from data.hounsfield import ValueScale
from data.volume import Volume, reorient

_THUMBNAIL = 24
# A head or trunk is compared at 7 mm, a crop of a few centimetres at 2 mm.
_COARSE_MM, _FINE_MM, _LARGE_EXTENT_MM = 7.0, 2.0, 120.0
# Voxels sampled to find the step between intensities; enough to contain neighbouring grey values many times.
_STEP_VOXELS = 200_000
_STEP_PASSES = 8


@dataclass(frozen=True)
class CaseSummary:
    """One case in a few kilobytes.

    Attributes:
        name: the case.
        patient: its patient.
        presence: channel, `label`, `brain_mask` → whether it is there.
        spacing: `[3]` mm along right, anterior, superior, of the first readable channel.
        content: channel → hash of its voxels in RAS order.
        thumbnail: `[24³]` band-pass filtered first channel, centred, of mean 0 and norm 1.
        thumbnail_step: its spacing in mm; thumbnails of different spacing are not compared.
        intensity_step: distance between neighbouring grey values if it is not a simple number, else `None`.
        scales: channel → what its values look like.
    """

    name: str
    patient: str
    presence: Mapping[str, Presence]
    spacing: NDArray[np.float64] | None = None
    content: Mapping[str, str] | None = None
    thumbnail: NDArray[np.float32] | None = None
    thumbnail_step: float = 0.0
    intensity_step: float | None = None
    scales: Mapping[str, ValueScale] = field(default_factory=dict)


def presence_of(case: CaseObservation, channels: tuple[str, ...]) -> dict[str, Presence]:
    """Channel, `label`, `brain_mask` → whether it is there."""
    presence = {}
    for name in channels:
        source = case.case.channels.get(name)
        presence[name] = case.files[source.path].presence if source else Presence.ABSENT
    for name, path in (("label", case.case.label), ("brain_mask", case.case.brain_mask)):
        presence[name] = case.files[path].presence if path else Presence.ABSENT
    return presence


def summarise(case: CaseObservation, channels: tuple[str, ...]) -> CaseSummary:
    """Summarises a case."""
    presence = presence_of(case, channels)
    if not case.images:
        return CaseSummary(case.case.name, case.case.patient, presence)
    turned = {name: reorient(volume, "RAS") for name, volume in case.images.items()}
    first = next(iter(turned.values()))
    thumbnail, step = _thumbnail(first)
    return CaseSummary(
        name=case.case.name,
        patient=case.case.patient,
        presence=presence,
        spacing=first.spacing,
        content={name: _content_hash(volume) for name, volume in turned.items()},
        thumbnail=thumbnail,
        thumbnail_step=step,
        intensity_step=intensity_step(first.array),
        scales={name: ValueScale.of(volume.array) for name, volume in case.images.items()},
    )


def _content_hash(volume: Volume) -> str:
    """Hash of shape and voxels in RAS order: neither file format, compression nor stored orientation matters."""
    digest = hashlib.blake2b(str(volume.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(volume.array).data)
    return digest.hexdigest()


def _thumbnail(volume: Volume) -> tuple[NDArray[np.float32] | None, float]:
    """A small picture that two scans of one head share and two heads do not: centred, without the coarsest detail."""
    extent = (np.array(volume.shape) * volume.spacing).max()
    step = _COARSE_MM if extent >= _LARGE_EXTENT_MM else _FINE_MM
    coarse = coarsen(volume, step / 2)
    values = clipped(coarse.array, 1.0, 99.5)
    if not values.any() or min(values.shape) < 2:
        return None, step
    in_voxels = step / coarse.spacing
    smooth = gaussian_filter(values, 0.4 * in_voxels)
    centre = np.array(center_of_mass(values))
    offsets = np.arange(_THUMBNAIL) - (_THUMBNAIL - 1) / 2
    index = np.meshgrid(*(centre[i] + offsets * in_voxels[i] for i in range(3)), indexing="ij")
    picture = map_coordinates(smooth, np.stack(index), order=1)
    picture = (picture - gaussian_filter(picture, 1.5)).ravel()
    picture -= picture.mean()
    norm = float(np.linalg.norm(picture))
    return ((picture / norm).astype(np.float32), step) if norm > 0 else (None, step)


def intensity_step(array: NDArray) -> float | None:
    """Returns the distance between neighbouring grey values, if all values are multiples of an unusual number.

    Scanners store whole numbers; a scale factor of the series then leaves its trace in every crop of it. Whole numbers
    and simple fractions, which many scans share, give `None`.
    """
    flat = array.ravel()
    values = np.unique(flat[:: max(1, flat.size // _STEP_VOXELS)]).astype(np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 16:
        return None
    gaps = np.diff(values)
    step = float(gaps.min())
    # Counted from where two values are one step apart: the lowest may be that of the padding, far from all others.
    offsets = values - values[int(gaps.argmin())]
    # float32 rounds by up to 6e-8 of the value, a difference by twice that; the step has to stay well above it.
    rounding = 4e-7 * float(np.abs(values).max())
    if step <= 20 * rounding:
        return None
    span = max(16 * step, step * step / rounding)
    for _ in range(_STEP_PASSES):
        near = np.abs(offsets) <= span
        multiples = np.rint(offsets[near] / step)
        # The slope of a line that need not go through the first value, which is rounded as well.
        multiples -= multiples.mean()
        step = float((multiples @ offsets[near]) / (multiples @ multiples))
        if near.all():
            break
        # The longer the line, the more exact its slope, and the larger the multiples that can be counted.
        span *= step / (4 * rounding)
    residual = np.abs(offsets - np.rint(offsets / step) * step).max()
    if residual > max(2 * rounding, 0.02 * step):
        return None
    simple = any(abs(number / round(number) - 1) < 1e-6 for number in (step, 1 / step) if round(number))
    return None if simple else step

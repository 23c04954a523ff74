"""Whether grey values have the scale of their modality.

Only CT has an absolute one: Hounsfield units, air at −1000 and water at 0. The same values are often stored with 1024
added, multiplied, or rescaled to grey levels; a window of Hounsfield units then cuts off what it was meant to show. MR
has no unit, so the only test is whether it looks like CT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.borders import even_box
from data.modality import Modality
from data.plain_number import plain_number, plain_span

_AIR, _WATER = -900.0, 200.0
"""Air lies at or below the first, fluid and soft tissue within ± the second, HU."""
_FULL_AIR = 1000.0
"""Distance from water to air, HU."""
_PADDING = -3100.0
"""No scanner pads with lower values."""
_SHARE = 0.01
"""Smallest share of the voxels that counts as presence of air or a tissue."""
_COMMON_SHIFTS = (-1024, -1000, 1000, 1024, 2048, 8192, 31744, 32768, 33792)
_FACTORS = (10, 100)
_FAT = -20.0
_VOXELS = 200_000
"""Number of voxels sampled: enough for shares of one percent."""


@dataclass(frozen=True)
class RangeFault:
    """Why values are not Hounsfield units.

    Attributes:
        text: what they look like, with numbers.
        is_ct: whether they look like a CT on another scale; otherwise they may not be CT at all.
        fix: what to do.
    """

    text: str
    is_ct: bool
    fix: str


def looks_like_ct(array: NDArray) -> bool:
    """Whether values look like Hounsfield units: a part near or below air (−1000), another near water (0)."""
    return _is_hounsfield(_sample(array))


def hounsfield_fault(array: NDArray) -> RangeFault | None:
    """Returns why values are not Hounsfield units; `None` where they may be."""
    values = _sample(array)
    if not values.size:
        return None
    low, high = (float(v) for v in np.percentile(values, [0.1, 99.9]))
    for factor in _FACTORS:
        smaller = values / factor
        if _is_hounsfield(smaller) and _share(smaller, -1.2 * _FULL_AIR, _AIR) >= _SHARE:
            text = f"the values look like {factor} × Hounsfield units (from {plain_span(low, high)})"
            return RangeFault(text, True, f"divide by {factor} and write Hounsfield units")
    if _is_hounsfield(values):
        return None
    shift = _shift(values)
    if shift is not None:
        text = f"the values look like Hounsfield units with {plain_number(shift)} added (air near "
        text += f"{plain_number(shift - _FULL_AIR)}), or this is not a CT"
        return RangeFault(text, True, f"subtract {shift:.0f}, or write it as the intercept into the header (scl_inter)")
    if float(np.percentile(values, 0.5)) < _FAT and -_FULL_AIR < float(np.median(values)) < 2 * _WATER:
        # A crop without air: fat or lung below 0, soft tissue around 0.
        return None
    if low >= 0 and high <= 255:
        levels = "0 to 1" if high <= 1.01 else "0 to 255"
        text = f"the values run from {plain_span(low, high)}: grey levels from {levels}, not Hounsfield units"
        return RangeFault(text, False, "export the CT again without rescaling its intensities")
    text = f"the lowest value is {plain_number(low)} and the highest {plain_number(high)}, so this is not a CT in "
    text += "Hounsfield units with air"
    return RangeFault(text, False, "export the CT in Hounsfield units, or correct `modality`")


def _sample(array: NDArray) -> NDArray[np.float64]:
    # Padding is not part of the scan, whatever its value.
    flat = array[even_box(array)].ravel()
    # An odd step is not confined to a few columns of the usual sizes.
    values = flat[:: max(1, flat.size // _VOXELS) | 1].astype(np.float64)
    return values[np.isfinite(values)]


def _share(values: NDArray[np.float64], low: float, high: float) -> float:
    return float(np.mean((values >= low) & (values <= high))) if values.size else 0.0


def _is_hounsfield(values: NDArray[np.float64]) -> bool:
    return _share(values, -np.inf, _AIR) >= _SHARE and _share(values, -_WATER, _WATER) >= _SHARE


def _shift(values: NDArray[np.float64]) -> float | None:
    """Returns the offset added to Hounsfield units: the common one that leaves air and soft tissue, if any."""

    def fit(shift: float) -> float:
        hounsfield = values - shift
        soft = _share(hounsfield, -_WATER, _WATER)
        # There is less lung, edges included, than soft tissue; else bone in a crop would pass as soft tissue.
        between = _share(hounsfield, 0.8 * _AIR, -_WATER)
        return min(_share(hounsfield, _PADDING, _AIR), soft) if soft > between else 0.0

    def air(shift: float) -> float:
        hounsfield = values - shift
        return float(np.median(hounsfield[(hounsfield >= _PADDING) & (hounsfield <= _AIR)]))

    fits = {float(shift): fit(shift) for shift in _COMMON_SHIFTS}
    if max(fits.values()) < _SHARE:
        return None
    # 1000 and 1024 fit nearly alike; the one that puts air at −1000 wins.
    good = [shift for shift, share in fits.items() if share >= 0.8 * max(fits.values())]
    return min(good, key=lambda shift: abs(air(shift) + _FULL_AIR))


def channel_modality(channel: str, modality: Modality | None) -> Modality | None:
    """Returns the modality of a channel: the study's, else CT for a channel called that (nnU-Net's rule)."""
    return modality or (Modality.CT if channel.strip().lower() == "ct" else None)


def range_fault(array: NDArray, modality: Modality) -> RangeFault | None:
    """Returns why values are not of a modality; `None` where they may be."""
    if modality is Modality.CT:
        return hounsfield_fault(array)
    if looks_like_ct(array):
        text = f"looks like CT in Hounsfield units ({np.mean(array <= _AIR):.0%} of the voxels at {_AIR:g} or below), "
        text += f"and the modality is {modality.value}"
        return RangeFault(text, True, "correct `modality`, or the list of cases")
    return None


@dataclass(frozen=True)
class ValueScale:
    """What the values of an image look like where their modality is not declared.

    Attributes:
        is_ct: whether they look like Hounsfield units, air included.
        fault: why they are not Hounsfield units.
        lowest: the 0.1th percentile, which stray voxels do not move; NaN where no value is finite.
    """

    is_ct: bool
    fault: RangeFault | None
    lowest: float = float("nan")

    @classmethod
    def of(cls, array: NDArray) -> ValueScale:
        """Judges an image."""
        fault, values = hounsfield_fault(array), _sample(array)
        lowest = float(np.percentile(values, 0.1)) if values.size else float("nan")
        return cls(fault is None and looks_like_ct(array), fault, lowest)

"""Intensity scaling: z-scores for MR, which has no unit, and a window of Hounsfield units for CT."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from data.borders import content_box
from data.options import Options
from preprocessing.step import Record, Step
from preprocessing.subject import Subject


class Scaling(StrEnum):
    """How intensities are scaled."""

    ZSCORE = "zscore"
    """Clip to percentiles, subtract the mean, divide by the standard deviation, each channel by itself."""
    WINDOW = "window"
    """Clip to a window of fixed values and map it to 0 … 1."""
    WINDOW_ZSCORE = "window_zscore"
    """Clip to a window of fixed values, then z-score what lies strictly inside it."""


class IntensityOptions(Options):
    """How intensities are scaled."""

    scaling: Scaling = Field(default=Scaling.ZSCORE, description="The kind of scaling.")
    lower_percentile: float = Field(default=0.5, ge=0, lt=50, description="z-score: clip below this percentile.")
    upper_percentile: float = Field(default=99.5, gt=50, le=100, description="z-score: clip above this percentile.")
    window_low: float = Field(default=-160.0, description="Window: lower end, in the image's unit (HU).")
    window_high: float = Field(default=240.0, description="Window: upper end, in the image's unit (HU).")
    zero_outside_mask: bool = Field(default=True, description="Set voxels outside the mask, where there is one, to 0.")

    @model_validator(mode="after")
    def _ordered(self) -> IntensityOptions:
        if self.window_low >= self.window_high:
            raise ValueError(f"window_low ({self.window_low:g}) must be below window_high ({self.window_high:g})")
        return self


class Intensity(Step[IntensityOptions]):
    """Scales every channel by itself; statistics come from the mask, without one from all but empty borders."""

    name: ClassVar[str] = "intensity"

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Scales the channels, which share one grid with the mask."""
        mask = None if subject.mask is None else subject.mask.array > 0
        suspect: list[str] = []
        if mask is not None and not mask.any():
            suspect.append("the mask is empty; intensities were scaled without it")
            mask = None
        channels, facts = {}, {}
        for name, volume in subject.channels.items():
            array = volume.array.astype(np.float32)
            # How much air there is around the head says nothing about the scan.
            values = array[content_box(array, volume.spacing, margin=0.0)] if mask is None else array[mask]
            array, facts[name] = self._scale(array, values)
            if facts[name].get("std") == 0:
                suspect.append(f"channel {name} is constant in the mask")
            if mask is not None and self.options.zero_outside_mask:
                array[~mask] = 0
            channels[name] = volume.with_array(array)
        return subject.with_channels(channels), self.record(suspect, scaling=self.options.scaling.value, channels=facts)

    def _scale(
        self, array: NDArray[np.float32], values: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        options = self.options
        low, high = options.window_low, options.window_high
        if options.scaling is Scaling.WINDOW:
            scaled = (np.clip(array, low, high) - low) / np.float32(high - low)
            return scaled.astype(np.float32), {"low": low, "high": high}
        if options.scaling is Scaling.ZSCORE:
            low, high = (float(p) for p in np.percentile(values, [options.lower_percentile, options.upper_percentile]))
            values = np.clip(values, low, high)
        else:
            inside = values[(values > low) & (values < high)]
            values = inside if inside.size else np.clip(values, low, high)
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        scaled = (np.clip(array, low, high) - np.float32(mean)) / np.float32(std if std > 0 else 1.0)
        return scaled.astype(np.float32), {"low": low, "high": high, "mean": mean, "std": std}

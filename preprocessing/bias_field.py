"""Bias field correction with N4 (Tustison et al., IEEE Trans. Med. Imaging 29 (2010) 1310)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.options import Options
from data.volume import Volume
from preprocessing.content import foreground_mask
from preprocessing.grid import coarse, resample
from preprocessing.itk_image import to_itk
from preprocessing.step import Interpolation, Record, Step
from preprocessing.subject import Subject

_CONVERGENCE = 1e-3
"""A level of the estimation ends when the field changes less; lower values take longer without a visible effect."""


class BiasFieldOptions(Options):
    """How the bias field is estimated."""

    iterations: tuple[int, ...] = Field(
        default=(20, 15),
        min_length=1,
        description="Largest number of iterations at each level, which halves the mesh.",
    )
    working_spacing: float = Field(default=6.0, gt=0, description="Voxel size on which the field is estimated, in mm.")
    mesh_spacing: float = Field(default=120.0, gt=0, description="Distance of the first level's B-spline knots, in mm.")


class BiasField(Step[BiasFieldOptions]):
    """Divides every channel by a smooth field estimated on a coarse copy of it."""

    name: ClassVar[str] = "bias_field"

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Corrects each channel; one whose tissue has values at or below 0 was scaled before and is left alone."""
        channels, facts = {}, {}
        for name, volume in subject.channels.items():
            channels[name], facts[name] = self._correct(volume, subject.mask)
        return subject.with_channels(channels), self.record(channels=facts)

    def _correct(self, volume: Volume, mask: Volume | None) -> tuple[Volume, dict[str, Any]]:
        small = coarse(volume, self.options.working_spacing)
        if min(small.shape) < 2:
            return volume, {"corrected": False, "reason": "the scan is too thin for a field"}
        inside = foreground_mask(small)
        if mask is not None:
            inside = resample(mask, small.shape, small.affine, Interpolation.NEAREST).array > 0
        if np.count_nonzero(inside) < 100:
            return volume, {"corrected": False, "reason": "too little of the scan is tissue"}
        if np.percentile(small.array[inside], 5) <= 0:
            return volume, {"corrected": False, "reason": "tissue has values at or below 0, so it was scaled before"}
        field = self._field(small, inside)
        low, high = np.percentile(field[inside], [1, 99])
        fine = resample(small.with_array(field), volume.shape, volume.affine, Interpolation.LINEAR, fill=1.0)
        facts = {"corrected": True, "field_1st_percentile": float(low), "field_99th_percentile": float(high)}
        return volume.with_array((volume.array / fine.array).astype(np.float32)), facts

    def _field(self, volume: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Returns the field on the volume's grid, scaled so that its geometric mean over the mask is 1."""
        import SimpleITK as sitk

        # N4 takes logarithms, so background and the odd negative of an interpolation are lifted above 0.
        positive = np.maximum(volume.array, np.float32(1e-3 * np.median(volume.array[mask])))
        image = to_itk(volume.with_array(positive))
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations(list(self.options.iterations))
        n4.SetConvergenceThreshold(_CONVERGENCE)
        extent = np.array(volume.shape) * volume.spacing
        # A cubic B-spline over m intervals has m + 3 control points, and ITK asks for those.
        n4.SetNumberOfControlPoints([3 + max(1, round(e / self.options.mesh_spacing)) for e in extent])
        n4.Execute(image, to_itk(volume.with_array(mask.astype(np.uint8))))
        log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T
        log_field = log_field - log_field[mask].mean(dtype=np.float64)
        # Where there was no tissue the spline is free: far values there must not blow the background up.
        low, high = np.percentile(log_field[mask], [0.1, 99.9])
        return np.exp(np.clip(log_field, low, high)).astype(np.float32)

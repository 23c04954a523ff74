"""What a preprocessing step is: `apply` to a subject, a JSON record of what it did, and the way back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from data.errors import PreprocessingError
from data.options import Options
from data.volume import Volume, corner_displacement
from preprocessing.subject import Subject

OptionsT = TypeVar("OptionsT", bound=Options)

Record = dict[str, Any]
"""What a step did to one subject, JSON-able: `step`, `suspect` (reasons) and what the inverse needs."""


class Interpolation(StrEnum):
    """How values between voxels are found."""

    NEAREST = "nearest"
    """For label maps: the label with the largest interpolated share, so that no new values arise."""
    LINEAR = "linear"
    """For intensities and probabilities: trilinear."""


class Step(ABC, Generic[OptionsT]):
    """One preprocessing operation.

    A step keeps no state between subjects: what the inverse needs is in the record.
    """

    name: ClassVar[str]
    """The step's name in configs and records."""

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Returns the changed subject and the record of what was done."""

    def invert(self, volume: Volume, record: Record, interpolation: Interpolation) -> Volume:
        """Carries a volume on the reference grid after the step back to the one before it.

        Steps that change values but not the grid return the volume as it is.

        Raises:
            PreprocessingError: the volume does not lie on the grid that the step left.
        """
        return volume

    def record(self, suspect: list[str] | None = None, **facts: Any) -> Record:
        """Makes a record with the step's name first."""
        return {"step": self.name, "suspect": list(suspect or []), **facts}


def grid_record(volume: Volume) -> dict[str, Any]:
    """Returns shape and affine as JSON; floats survive a round trip through JSON exactly."""
    return {"shape": list(volume.shape), "affine": volume.affine.tolist()}


def recorded_grid(grid: dict[str, Any]) -> tuple[tuple[int, int, int], np.ndarray]:
    """Returns shape and `[4, 4]` affine of a recorded grid."""
    x, y, z = (int(n) for n in grid["shape"])
    return (x, y, z), np.asarray(grid["affine"], dtype=np.float64)


def require_grid(volume: Volume, grid: dict[str, Any], step: str, tolerance: float = 1e-2) -> Volume:
    """Returns the volume with exactly the recorded affine.

    Raises:
        PreprocessingError: shape or place differ from the record.
    """
    shape, affine = recorded_grid(grid)
    if volume.shape != shape or corner_displacement(volume, Volume(volume.array, affine)) > tolerance:
        raise PreprocessingError(
            f"a volume of shape {volume.shape} does not lie on the step's grid, so it cannot be carried back "
            f"through {step}",
            expected=f"shape {shape} and the affine of the preprocessed case",
            fix="pass a volume on the grid of the preprocessed case, with the records of that case",
        )
    return Volume(volume.array, affine)

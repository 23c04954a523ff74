"""Random warps of a template: an affine after a smooth displacement, with an exact inverse.

A warp sends template millimetres to case millimetres, `W(x) = A (x + u(x))`. The displacement `u` is trilinear on a
coarse lattice and a contraction, so that `W` is invertible (Banach), its Jacobian determinant is positive everywhere,
and the inverse is a fixed-point iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from scipy import ndimage

from data.options import Options

# A displacement whose gradient stays below this keeps every Jacobian eigenvalue of x + u(x) at 0.3 or more.
LARGEST_GRADIENT = 0.7
_INVERSE_TOLERANCE = 1e-3
_INVERSE_STEPS = 100


def range_within(most: float = float("inf"), *, positive: bool = False) -> AfterValidator:
    """Metadata of an option: a range of numbers from 0 (or above it, if `positive`) to `most`, the smaller first."""

    def check(limits: tuple[float, float]) -> tuple[float, float]:
        low, high = limits
        if not 0 <= low <= high <= most or (positive and low == 0):
            least = "above 0" if positive else "from 0"
            raise ValueError(f"a range {least} to {most:g}, the smaller number first, not {low:g} to {high:g}")
        return limits

    return AfterValidator(check)


class WarpOptions(Options):
    """How much the anatomy of subjects differs from the template, and how they lie in the scanner."""

    rotation_degrees: float = Field(
        8.0, ge=0, le=30, description="largest rotation of the head about each axis, degrees"
    )
    translation_mm: float = Field(12.0, ge=0, le=60, description="largest shift along each axis, mm")
    scaling: float = Field(0.08, ge=0, le=0.3, description="largest relative change of size along each axis")
    shear: float = Field(0.03, ge=0, le=0.2, description="largest shear coefficient")
    deformation_mm: float = Field(2.0, ge=0, le=8, description="standard deviation of the coarse displacement, mm")
    deformation_scale_mm: float = Field(28.0, ge=6, le=60, description="Gaussian scale of the coarse displacement, mm")
    fine_deformation_mm: float = Field(0.8, ge=0, le=4, description="standard deviation of the fine displacement, mm")
    fine_deformation_scale_mm: float = Field(
        8.0, ge=4, le=40, description="Gaussian scale of the fine displacement, mm"
    )


@dataclass(frozen=True)
class Displacement:
    """A displacement that is trilinear on a lattice and constant beyond it.

    Attributes:
        origin: `[3]` position of the first lattice point, mm.
        step: distance of lattice points, mm.
        values: `[3, X, Y, Z]` displacement, mm.
    """

    origin: NDArray[np.float64]
    step: float
    values: NDArray[np.float64]

    def at(self, points: NDArray) -> NDArray[np.float64]:
        """Returns the displacement `[..., 3]` in mm at points `[..., 3]` in mm."""
        index = np.moveaxis((points - self.origin) / self.step, -1, 0)
        parts = [ndimage.map_coordinates(v, index, order=1, mode="nearest") for v in self.values]
        return np.stack(parts, axis=-1)

    def positions(self) -> NDArray[np.float64]:
        """Returns `[X, Y, Z, 3]` positions of the lattice points, mm."""
        return np.moveaxis(np.indices(self.values.shape[1:]), 0, -1) * self.step + self.origin

    def largest_gradient(self) -> float:
        """Returns a bound of the gradient's spectral norm: in each cell the Frobenius norm of its largest entries."""
        squares = np.zeros([n - 1 for n in self.values.shape[1:]])
        for component in self.values:
            for axis in range(3):
                slope = np.abs(np.diff(component, axis=axis)) / self.step
                for other in set(range(3)) - {axis}:
                    slope = np.maximum(np.delete(slope, -1, other), np.delete(slope, 0, other))
                squares += slope**2
        return float(np.sqrt(squares.max()))

    def smallest_jacobian(self) -> float:
        """Returns the smallest determinant of the Jacobian of `x + u(x)`, by central differences on the lattice."""
        gradient = np.stack([np.stack(np.gradient(v, self.step), axis=-1) for v in self.values], axis=-2)
        return float(np.linalg.det(np.eye(3) + gradient).min())

    def limited(self) -> Displacement:
        """Returns this displacement, shrunk as a whole if its gradient exceeds `LARGEST_GRADIENT`."""
        shrink = min(1.0, LARGEST_GRADIENT / max(self.largest_gradient(), 1e-12))
        return Displacement(self.origin, self.step, self.values * shrink)


@dataclass(frozen=True)
class Warp:
    """Template mm to case mm: `W(x) = A (x + u(x))`."""

    affine: NDArray[np.float64]
    displacement: Displacement

    def forward(self, points: NDArray) -> NDArray[np.float64]:
        """Maps template points `[..., 3]` to case points, mm."""
        return apply_affine(self.affine, points + self.displacement.at(points))

    def inverse(self, points: NDArray) -> NDArray[np.float64]:
        """Maps case points `[..., 3]` to template points, mm, until a step of the iteration moves no point by 1 µm.

        Raises:
            ArithmeticError: the displacement is not a contraction.
        """
        target = apply_affine(np.linalg.inv(self.affine), points)
        found = target - self.displacement.at(target)
        for _ in range(_INVERSE_STEPS):
            better = target - self.displacement.at(found)
            change = float(np.abs(better - found).max(initial=0.0))
            found = better
            if change < _INVERSE_TOLERANCE:
                return found
        raise ArithmeticError("the displacement is not a contraction, so the warp has no inverse")


def random_affine(options: WarpOptions, centre: NDArray, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws an affine `[4, 4]`: shear, scaling and rotation about `centre`, then a shift."""
    rotation = rotation_matrix(np.deg2rad(rng.uniform(-1, 1, 3) * options.rotation_degrees))
    scaling = np.diag(np.exp(rng.uniform(-1, 1, 3) * np.log1p(options.scaling)))
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = rng.uniform(-1, 1, 3) * options.shear
    affine = np.eye(4)
    affine[:3, :3] = rotation @ scaling @ shear
    affine[:3, 3] = centre - affine[:3, :3] @ centre + rng.uniform(-1, 1, 3) * options.translation_mm
    return affine


def rotation_matrix(angles: NDArray) -> NDArray[np.float64]:
    """Returns the rotation `[3, 3]` about x, then y, then z by angles `[3]` in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws white noise smoothed by a Gaussian of `sigma` lattice steps, scaled back to unit standard deviation."""
    pad = int(np.ceil(2 * sigma))
    noise = rng.standard_normal([n + 2 * pad for n in shape])
    smooth = ndimage.gaussian_filter(noise, sigma, mode="wrap", truncate=3)
    inner = smooth[tuple(slice(pad, pad + n) for n in shape)]
    return np.asarray(inner / smooth.std())


def random_displacement(
    options: WarpOptions, lower: NDArray, upper: NDArray, rng: np.random.Generator, step: float = 4.0
) -> Displacement:
    """Draws a smooth displacement over the box from `lower` to `upper` (mm), at two scales."""
    shape = tuple(int(n) for n in np.ceil((upper - lower) / step) + 1)
    values = np.zeros((3, *shape))
    for amplitude, scale in (
        (options.deformation_mm, options.deformation_scale_mm),
        (options.fine_deformation_mm, options.fine_deformation_scale_mm),
    ):
        values += amplitude * np.stack([smooth_noise(shape, scale / step, rng) for _ in range(3)])
    return Displacement(np.asarray(lower, dtype=float), step, values).limited()


def with_expansion(displacement: Displacement, centre: NDArray, radius: float, strength: float) -> Displacement:
    """Adds the push of a mass: `s (x − c) exp(−|x − c|² / 2r²)`, which swells the middle and squeezes the rest."""
    offset = displacement.positions() - centre
    push = strength * offset * np.exp(-(offset**2).sum(-1, keepdims=True) / (2 * radius**2))
    values = displacement.values + np.moveaxis(push, -1, 0)
    return Displacement(displacement.origin, displacement.step, values).limited()


def least_squares_affine(source: NDArray, target: NDArray) -> NDArray[np.float64]:
    """Returns the affine `[4, 4]` that minimises `Σ |A x − y|²` over pairs of points `[N, 3]`."""
    centre = source.mean(axis=0)
    design = np.column_stack([source - centre, np.ones(len(source))])
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    affine = np.eye(4)
    affine[:3, :3] = solution[:3].T
    affine[:3, 3] = solution[3] - affine[:3, :3] @ centre
    return affine

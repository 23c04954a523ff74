"""Linear registration of two volumes by mutual information, from several starts, coarse to fine.

Mattes et al., PET-CT image registration in the chest using free-form deformations, IEEE Trans. Med. Imaging 22 (2003)
120, in SimpleITK's implementation. All matrices are world to world in RAS+ mm, from the fixed volume's world to the
moving one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data.itk_file import LPS_TO_RAS
from data.volume import Volume
from preprocessing.interruption import ask, register
from preprocessing.itk_image import to_itk, world_matrix


class Degrees(StrEnum):
    """What a linear transform may do."""

    RIGID = "rigid"
    """Turn and shift: 6 parameters."""
    SIMILARITY = "similarity"
    """Turn, shift and one scale: 7 parameters."""
    AFFINE = "affine"
    """Any linear map: 12 parameters."""


@dataclass(frozen=True)
class Optimiser:
    """How one level of the registration is optimised.

    Attributes:
        degrees: the kind of transform.
        iterations: the most steps of the gradient descent at full step length; a third as many follow at shorter ones.
        step: step length, in mm of the largest voxel shift.
        smallest_step: the descent ends below this step length, in mm.
    """

    degrees: Degrees
    iterations: int = 100
    step: float = 1.0
    smallest_step: float = 0.02


@dataclass(frozen=True)
class Registration:
    """A result: `matrix` `[4, 4]`, fixed to moving world in mm, and its mutual information in nats (more is better)."""

    matrix: NDArray[np.float64]
    metric: float


class MutualInformation:
    """Two volumes at one resolution, with the metric between them as a function of a transform.

    Args:
        fixed: `[X, Y, Z]`, the volume whose voxels are the samples.
        moving: `[X, Y, Z]`, the volume that is interpolated.
        fixed_mask: `[X, Y, Z]` bool, the voxels of `fixed` that count; all by default.
        bins: histogram bins of the mutual information.
    """

    def __init__(
        self, fixed: Volume, moving: Volume, fixed_mask: NDArray[np.bool_] | None = None, bins: int = 32
    ) -> None:
        self._bins = bins
        self._fixed = to_itk(fixed.with_array(fixed.array.astype(np.float32)))
        self._moving = to_itk(moving.with_array(moving.array.astype(np.float32)))
        self._fixed_mask = None if fixed_mask is None else to_itk(fixed.with_array(fixed_mask.astype(np.uint8)))
        where = np.ones(fixed.shape, bool) if fixed_mask is None else fixed_mask
        index = np.argwhere(where).mean(axis=0)
        self._centre = fixed.affine[:3, :3] @ index + fixed.affine[:3, 3]

    def _method(self) -> Any:
        import SimpleITK as sitk

        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(self._bins)
        # Every voxel is a sample, so there is nothing random in the result.
        method.SetMetricSamplingStrategy(method.NONE)
        method.SetInterpolator(sitk.sitkLinear)
        if self._fixed_mask is not None:
            method.SetMetricFixedMask(self._fixed_mask)
        return method

    def evaluate(self, matrix: NDArray[np.float64]) -> float:
        """Returns the mutual information in nats of one transform; 0 where the volumes do not overlap."""
        ask()
        method = self._method()
        method.SetInitialTransform(_transform(matrix, Degrees.AFFINE, self._centre))
        try:
            return -float(method.MetricEvaluate(self._fixed, self._moving))
        except RuntimeError:  # ITK's word for "all samples map outside the moving image".
            return 0.0

    def optimise(self, start: NDArray[np.float64], optimiser: Optimiser) -> Registration:
        """Climbs from a start; never returns less than the start's metric."""
        before = self.evaluate(start)
        transform = _transform(start, optimiser.degrees, self._centre)
        try:
            self._descend(transform, optimiser)
        except RuntimeError:  # The head left the field of view.
            return Registration(start, before)
        matrix = world_matrix(transform)
        after = self.evaluate(matrix)
        return Registration(matrix, after) if after >= before else Registration(start, before)

    def _descend(self, transform: Any, optimiser: Optimiser) -> None:
        """Changes the transform: steps of one length first, which follow narrow valleys, then ever shorter ones."""
        method = self._method()
        method.SetInitialTransform(transform, inPlace=True)
        method.SetOptimizerAsGradientDescent(
            learningRate=1.0,
            numberOfIterations=optimiser.iterations,
            convergenceMinimumValue=1e-5,
            convergenceWindowSize=10,
            estimateLearningRate=method.EachIteration,
            maximumStepSizeInPhysicalUnits=optimiser.step,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        register(method, self._fixed, self._moving)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=optimiser.step / 2,
            minStep=optimiser.smallest_step,
            numberOfIterations=max(1, optimiser.iterations // 3),
            relaxationFactor=0.7,
            gradientMagnitudeTolerance=1e-8,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        register(method, self._fixed, self._moving)


def best_starts(
    metric: MutualInformation, starts: Sequence[NDArray[np.float64]], keep: int = 1
) -> list[NDArray[np.float64]]:
    """Returns the `keep` starts of the largest mutual information, best first."""
    values = [metric.evaluate(start) for start in starts]
    order = sorted(range(len(starts)), key=lambda i: (-values[i], i))
    return [starts[i] for i in order[:keep]]


def _transform(matrix: NDArray[np.float64], degrees: Degrees, centre: NDArray[np.float64]) -> Any:
    """Returns the SimpleITK transform of a kind that comes nearest to a RAS+ matrix."""
    import SimpleITK as sitk

    lps = LPS_TO_RAS @ matrix @ LPS_TO_RAS
    middle = centre * [-1, -1, 1]
    linear = lps[:3, :3]
    transform: sitk.AffineTransform | sitk.Euler3DTransform | sitk.Similarity3DTransform
    if degrees is Degrees.AFFINE:
        transform = sitk.AffineTransform(3)
    else:
        u, _, vt = np.linalg.svd(linear)
        rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        scale = 1.0 if degrees is Degrees.RIGID else float(np.cbrt(abs(np.linalg.det(linear))))
        transform = sitk.Euler3DTransform() if degrees is Degrees.RIGID else sitk.Similarity3DTransform()
        linear = rotation * scale
    transform.SetCenter(middle.tolist())
    # A product of roundings may miss orthogonality by 1e-10, which ITK refuses below its default tolerance.
    if isinstance(transform, sitk.AffineTransform):
        transform.SetMatrix(linear.ravel().tolist())
    else:
        transform.SetMatrix(linear.ravel().tolist(), 1e-6)
    transform.SetTranslation((lps[:3, :3] @ middle + lps[:3, 3] - middle).tolist())
    return transform


def centre_and_size(share: Volume) -> tuple[NDArray[np.float64], float]:
    """Returns the centre `[3]` in mm and the volume in mm³ of a mask or a map of shares."""
    total = max(float(share.array.sum(dtype=np.float64)), 1e-9)
    index = [
        float(share.array.sum(axis=tuple(j for j in range(3) if j != axis), dtype=np.float64) @ np.arange(n)) / total
        for axis, n in enumerate(share.shape)
    ]
    return share.affine[:3, :3] @ np.array(index) + share.affine[:3, 3], total * share.voxel_volume


def centred_starts(
    template: Volume,
    brain: Volume,
    pitches: Sequence[float],
    scales: tuple[float, float],
    rises: Sequence[float] = (0.0,),
) -> list[NDArray[np.float64]]:
    """Returns starts that put one brain on another: centre on centre, at its size, turned and raised.

    Args:
        template: shares of the fixed brain.
        brain: shares of the moving brain.
        pitches: turns about the left-right axis, in degrees.
        scales: smallest and largest relative size.
        rises: shifts upwards, in mm.
    """
    here, there = centre_and_size(template), centre_and_size(brain)
    scale = float(np.clip(np.cbrt(there[1] / here[1]), *scales))
    return [
        shift(there[0] + [0, 0, rise] - here[0]) @ rotation_about(here[0], (pitch, 0, 0)) @ scaling(scale, here[0])
        for rise in rises
        for pitch in pitches
    ]


def rotation_about(centre: NDArray[np.float64], degrees: Sequence[float]) -> NDArray[np.float64]:
    """Returns the `[4, 4]` turn about a point by angles `[3]` in degrees around the x, y and z axes."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", list(degrees), degrees=True).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre
    return matrix


def shift(offset: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the `[4, 4]` shift by `[3]` mm."""
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def scaling(scale: float, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the `[4, 4]` scaling about a point."""
    matrix = np.diag([scale, scale, scale, 1.0])
    matrix[:3, 3] = centre * (1 - scale)
    return matrix


def rotation_angle(matrix: NDArray[np.float64]) -> float:
    """Returns by how many degrees the rotation nearest to a linear map turns."""
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    return float(np.degrees(Rotation.from_matrix(u @ vt).magnitude())) if np.linalg.det(u @ vt) > 0 else 180.0


def stretches(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns `[3]` singular values of the linear part: by how much it stretches along its main axes, largest first."""
    return np.asarray(np.linalg.svd(matrix[:3, :3], compute_uv=False), dtype=np.float64)

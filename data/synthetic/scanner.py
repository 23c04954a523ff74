"""The scanner: an oblique grid of thick slices in some orientation, and what it does to the signal.

Every voxel is the mean over a box of samples of the warped anatomy (partial volume); then come the coil's bias field,
Rician noise and an arbitrary integer scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Annotated

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from data.options import Options
from data.synthetic.anatomy import interpolation_weights
from data.synthetic.deformation import Warp, range_within, rotation_matrix, smooth_noise
from data.volume import Volume, turned

# Lattice on which the inverse warp is solved before linear interpolation, mm.
_WARP_STEP = 4.0
_ORIENTATIONS = tuple(
    "".join(pair[sign] for pair, sign in zip(axes, signs, strict=True))
    for axes in permutations(("LR", "PA", "IS"))
    for signs in product((0, 1), repeat=3)
)
# Share of axial scans; the others are sagittal or coronal.
_AXIAL_SHARE = 0.8
# Largest rotation of the grid about each axis, degrees.
_OBLIQUE_DEGREES = 8.0
# Range of the air around the body, mm.
_MARGIN_MM = (4.0, 15.0)
# Gaussian scale of the bias field, mm.
_BIAS_SCALE_MM = 60.0


class ScannerOptions(Options):
    """The grid and the imperfections of a scan."""

    in_plane_spacing: Annotated[tuple[float, float], range_within(positive=True)] = Field(
        (2.0, 2.0), description="range of the in-plane voxel size, mm"
    )
    through_plane_spacing: Annotated[tuple[float, float], range_within(positive=True)] = Field(
        (3.0, 4.0), description="range of the slice distance, mm"
    )
    random_orientation: bool = Field(True, description="store the axes in a random one of 48 orders, else as RAS")
    sample_mm: float = Field(1.25, gt=0, le=6, description="largest distance of the samples averaged into a voxel, mm")
    bias_strength: float = Field(0.15, ge=0, le=1, description="standard deviation of the log bias field")
    noise: float = Field(0.03, ge=0, le=0.5, description="s.d. of the complex noise relative to white matter")
    signal_scale: Annotated[tuple[float, float], range_within(positive=True)] = Field(
        (80.0, 3000.0), description="range of white matter's stored value"
    )


@dataclass(frozen=True)
class ScanGrid:
    """Where the voxels of a scan lie.

    Attributes:
        shape: number of voxels along the scanner's own axes, nearest to right, anterior and superior.
        affine: `[4, 4]` of these axes, to world mm.
        orientation: how the arrays are stored.
        slice_axis: which of the scanner's axes is the thick one.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    orientation: str
    slice_axis: int

    @property
    def spacing(self) -> NDArray[np.float64]:
        """`[3]` voxel size along the scanner's axes, mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def stored(self, array: NDArray) -> Volume:
        """Returns an array on the scanner's axes as the volume that the file holds."""
        transform = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(self.orientation)
        )
        return turned(Volume(array, self.affine), transform)


def draw_grid(whole: NDArray, needed: NDArray, options: ScannerOptions, rng: np.random.Generator) -> ScanGrid:
    """Draws a grid around a body.

    Args:
        whole: `[N, 3]` world points of the body; the field of view holds them, less what lies far below the `needed`.
        needed: `[M, 3]` world points that have to be in the field of view.
        options: spacing, obliqueness, margins.
        rng: the stream to draw from.
    """
    rotation = rotation_matrix(np.deg2rad(rng.uniform(-1, 1, 3) * _OBLIQUE_DEGREES))
    other = (1 - _AXIAL_SHARE) / 2
    slice_axis = int(rng.choice(3, p=[other, other, _AXIAL_SHARE]))
    spacing = np.full(3, rng.uniform(*options.in_plane_spacing))
    spacing[slice_axis] = rng.uniform(*options.through_plane_spacing)
    seen, must = whole @ rotation, needed @ rotation
    lower = seen.min(axis=0) - rng.uniform(*_MARGIN_MM, 3)
    upper = seen.max(axis=0) + rng.uniform(*_MARGIN_MM, 3)
    below = must[:, 2].min() - 2 * spacing[2] - rng.uniform(0, 3) * _MARGIN_MM[1]
    lower[2] = max(lower[2], below)
    lower = np.minimum(lower, must.min(axis=0) - 2 * spacing)
    shape = np.ceil((upper - lower) / spacing).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    affine[:3, 3] = rotation @ lower
    orientation = str(rng.choice(_ORIENTATIONS)) if options.random_orientation else "RAS"
    return ScanGrid((int(shape[0]), int(shape[1]), int(shape[2])), affine, orientation, slice_axis)


class Sampler:
    """Averages maps of the template over the voxels of a scan, slab by slab."""

    def __init__(self, grid: ScanGrid, warp: Warp, template_affine: NDArray, sample_mm: float) -> None:
        self._grid = grid
        self._factors = np.maximum(np.ceil(grid.spacing / sample_mm - 1e-6), 1).astype(int)
        # Lattice in voxel units of the scan, from half a voxel before the first to half a voxel after the last.
        self._lattice_step = np.minimum(_WARP_STEP / grid.spacing, 4.0)
        counts = np.ceil(np.array(grid.shape) / self._lattice_step).astype(int) + 1
        index = np.moveaxis(np.indices(tuple(counts.tolist())), 0, -1) * self._lattice_step - 0.5
        template = warp.inverse(apply_affine(grid.affine, index))
        self._lattice = apply_affine(np.linalg.inv(template_affine), template).astype(np.float32)

    def _fine_weights(self, axis: int) -> NDArray[np.float32]:
        factor = self._factors[axis]
        offsets = (np.arange(factor) + 0.5) / factor
        fine = (np.arange(self._grid.shape[axis])[:, None] + offsets).ravel()
        return interpolation_weights(fine / self._lattice_step[axis], self._lattice.shape[axis])

    def _slabs(self, slices: int = 8) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yields slabs of slices with the template voxel coordinates `[3, X·f, Y·f, n·f]` of their samples."""
        w_x, w_y, w_z = (self._fine_weights(axis) for axis in range(3))
        for start in range(0, self._grid.shape[2], slices):
            stop = min(start + slices, self._grid.shape[2])
            part = w_z[start * self._factors[2] : stop * self._factors[2]]
            coordinates = np.einsum("xyzc,kz->cxyk", self._lattice, part, optimize=True)
            coordinates = np.einsum("ix,cxyk->ciyk", w_x, coordinates, optimize=True)
            yield slice(start, stop), np.einsum("jy,ciyk->cijk", w_y, coordinates, optimize=True)

    def _mean(self, samples: NDArray, slices: int) -> NDArray:
        x, y, _ = self._grid.shape
        fx, fy, fz = self._factors
        return samples.reshape(x, fx, y, fy, slices, fz).mean(axis=(1, 3, 5), dtype=np.float32)

    def average(
        self,
        signals: Sequence[NDArray[np.float32]],
        codes: NDArray[np.uint8],
        values: Sequence[int],
        outside: float = 0.0,
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
        """Averages signals linearly interpolated, and the share of given codes, over each voxel.

        Args:
            signals: template maps `[X, Y, Z]`.
            codes: template map of whole numbers.
            values: the codes whose share is wanted.
            outside: the signal beyond the template.

        Returns:
            One map `[x, y, z]` per signal, and `[len(values), x, y, z]` shares from 0 to 1.
        """
        images = [np.zeros(self._grid.shape, dtype=np.float32) for _ in signals]
        shares = np.zeros((len(values), *self._grid.shape), dtype=np.float32)
        limit = np.array(codes.shape)[:, None, None, None] - 1
        for slab, coordinates in self._slabs():
            count = slab.stop - slab.start
            for image, signal in zip(images, signals, strict=True):
                samples = ndimage.map_coordinates(signal, coordinates, order=1, mode="constant", cval=outside)
                image[..., slab] = self._mean(samples, count)
            nearest = np.rint(coordinates).astype(np.int32)
            within = ((nearest >= 0) & (nearest <= limit)).all(axis=0)
            nearest = np.clip(nearest, 0, limit)
            found = np.where(within, codes[nearest[0], nearest[1], nearest[2]], 0)
            for share, value in zip(shares, values, strict=True):
                share[..., slab] = self._mean(found == value, count)
        return images, shares


def bias_field(grid: ScanGrid, options: ScannerOptions, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draws a smooth positive field `[x, y, z]` of mean logarithm near 0."""
    step = _BIAS_SCALE_MM / 3
    lattice = tuple(int(n) for n in np.ceil(np.array(grid.shape) * grid.spacing / step) + 2)
    values = (options.bias_strength * smooth_noise(lattice, 3.0, rng)).astype(np.float32)
    weights = [
        interpolation_weights(np.arange(n) * s / step, m)
        for n, s, m in zip(grid.shape, grid.spacing, lattice, strict=True)
    ]
    return np.exp(np.einsum("ix,jy,kz,xyz->ijk", *weights, values, optimize=True))


def acquire(
    signal: NDArray[np.float32], grid: ScanGrid, options: ScannerOptions, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Turns a clean signal `[x, y, z]` (white matter 1) into stored values: bias, Rician noise, scale, rounding."""
    received = signal * bias_field(grid, options, rng)
    noise = options.noise * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    magnitude = np.hypot(received + noise[0], noise[1])
    low, high = np.log(options.signal_scale)
    scale = np.exp(rng.uniform(low, high))
    return np.clip(np.rint(magnitude * scale), 0, np.iinfo(np.int16).max).astype(np.int16)

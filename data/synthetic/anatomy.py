"""The head that every synthetic brain is warped from: ICBM-152 tissue maps, with skull, scalp, face and neck.

The brain is the ICBM-152 nonlinear symmetric 2009a average (Fonov et al., NeuroImage 2011), whose T1, grey and white
matter maps ship inside nilearn. That atlas ends at the brain, so that what surrounds it is drawn here: shells of CSF,
bone and scalp by distance from the cranial cavity, and a face and neck of simple solids at the places where the
atlas' space has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from data.synthetic.deformation import smooth_noise

# Corners of the drawn head in template (MNI) millimetres: neck below, nose in front.
HEAD_LOWER = np.array([-98.0, -134.0, -132.0])
HEAD_UPPER = np.array([98.0, 114.0, 112.0])
# The depth map of the shells is smooth, so it is computed on this grid (mm) and interpolated.
_SHELL_STEP = 2
# Radii of the balls that close the brain to the cranial cavity, and to the outline that the scalp follows.
_CAVITY_CLOSING_MM = 10.0
_OUTLINE_CLOSING_MM = 30.0
# Thinner parts of the template's mask than twice this are scraps of the skull base.
_OPENING_MM = 6.0


class Tissue(IntEnum):
    """What a voxel of the head is made of."""

    AIR = 0
    CSF = 1
    GREY_MATTER = 2
    WHITE_MATTER = 3
    BONE = 4
    MARROW = 5
    FAT = 6
    MUSCLE = 7
    SKIN = 8
    VITREOUS = 9
    MUCOSA = 10
    MS_LESION = 11
    TUMOUR_CORE = 12
    TUMOUR_RIM = 13
    OEDEMA = 14


@dataclass(frozen=True)
class Head:
    """The template head on an isotropic RAS grid.

    Attributes:
        affine: `[4, 4]` of the whole head, voxels to template mm.
        shape: of the whole head.
        step: voxel size, mm.
        box: where the brain's arrays lie in the head.
        fractions: `[3, x, y, z]` CSF, grey and white matter in the box, sum 1 in the brain and 0 outside, float32.
        brain: `[x, y, z]` brain with its ventricles and sulci, in the box.
        ventricle_distance: `[x, y, z]` mm to the nearest ventricle, in the box.
        cortex_distance: `[x, y, z]` mm to the nearest cortical grey matter, in the box.
        surface_depth: `[x, y, z]` mm below the brain's outer surface, in the box.
        cavity_depth: `[X, Y, Z]` mm outside the cranial cavity (0 within), float32.
        outline_depth: `[X, Y, Z]` mm outside the convex-like outline of the cranium (0 within), float32.
        face_depth: `[X, Y, Z]` mm below the skin of face and neck (0 outside them), float32.
        organs: `[X, Y, Z]` code of a `Tissue` where face, neck or orbit has a given one, else 0; 255 is air inside the
            head.
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    step: float
    box: tuple[slice, slice, slice]
    fractions: NDArray[np.float32]
    brain: NDArray[np.bool_]
    ventricle_distance: NDArray[np.float32]
    cortex_distance: NDArray[np.float32]
    surface_depth: NDArray[np.float32]
    cavity_depth: NDArray[np.float32]
    outline_depth: NDArray[np.float32]
    face_depth: NDArray[np.float32]
    organs: NDArray[np.uint8]

    @property
    def box_affine(self) -> NDArray[np.float64]:
        """`[4, 4]` of the brain's box."""
        affine = self.affine.copy()
        affine[:3, 3] = apply_affine(self.affine, [s.start for s in self.box])
        return affine

    @property
    def box_shape(self) -> tuple[int, int, int]:
        """Shape of the brain's box."""
        x, y, z = self.brain.shape
        return x, y, z

    def brain_points(self, stride: int = 1) -> NDArray[np.float64]:
        """Returns template positions `[N, 3]` (mm) of the brain's voxels, every `stride`-th along each axis."""
        index = np.argwhere(self.brain[::stride, ::stride, ::stride]) * stride
        return apply_affine(self.box_affine, index)


INNER_AIR = 255


@lru_cache(maxsize=2)
def load_head(step: int = 1) -> Head:
    """Builds the template head on a grid of `step` mm (1 or 2); cached within the process."""
    t1, grey, white = (_pad(image, step) for image in _template_maps())
    affine = np.diag([step, step, step, 1.0])
    # A voxel of the coarse grid covers `step` voxels of the fine one: its centre lies half a step minus half a voxel
    # in.
    affine[:3, 3] = HEAD_LOWER + (step - 1) / 2
    brain = _clean_brain(t1 > 0.05, step)
    box = _bounding_box(brain, margin=4 // step)
    grey, white, brain_box = (np.where(brain, a, 0)[box].astype(np.float32) for a in (grey, white, brain))
    csf = np.clip(brain_box - grey - white, 0, 1)
    fractions = np.stack([csf, grey, white])
    fractions /= np.maximum(fractions.sum(axis=0), 1e-6)
    fractions *= brain_box
    inside = brain_box > 0
    surface_depth = ndimage.distance_transform_edt(inside, sampling=step).astype(np.float32)
    ventricles = _ventricles(fractions[0], surface_depth, step)
    cortex = (fractions[1] > 0.5) & (surface_depth < 15)
    lines = [
        np.arange(n, dtype=np.float32) * step + np.float32(o) for n, o in zip(brain.shape, affine[:3, 3], strict=True)
    ]
    axes = _Axes(*lines)
    return Head(
        affine=affine,
        shape=brain.shape,
        step=float(step),
        box=box,
        fractions=fractions,
        brain=inside,
        ventricle_distance=ndimage.distance_transform_edt(~ventricles, sampling=step).astype(np.float32),
        cortex_distance=ndimage.distance_transform_edt(~cortex, sampling=step).astype(np.float32),
        surface_depth=surface_depth,
        cavity_depth=_shell_depth(brain, step, _CAVITY_CLOSING_MM),
        outline_depth=_shell_depth(brain, step, _OUTLINE_CLOSING_MM),
        face_depth=_face_depth(axes, brain.shape),
        organs=_organs(axes, brain.shape),
    )


def _template_maps() -> list[tuple[NDArray[np.float32], NDArray[np.float64]]]:
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    images = [load(resolution=1) for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)]
    return [(np.asarray(i.dataobj, dtype=np.float32), np.asarray(i.affine)) for i in images]


def _pad(image: tuple[NDArray[np.float32], NDArray[np.float64]], step: int) -> NDArray[np.float32]:
    """Places a 1 mm RAS map into the head's box and averages blocks of `step` voxels."""
    array, affine = image
    whole = np.zeros(np.round(HEAD_UPPER - HEAD_LOWER).astype(int), dtype=np.float32)
    start = np.round(affine[:3, 3] - HEAD_LOWER).astype(int)
    here = tuple(slice(max(s, 0), min(s + n, m)) for s, n, m in zip(start, array.shape, whole.shape, strict=True))
    there = tuple(slice(h.start - s, h.stop - s) for h, s in zip(here, start, strict=True))
    whole[here] = array[there]
    x, y, z = (n // step for n in whole.shape)
    blocks = whole[: x * step, : y * step, : z * step].reshape(x, step, y, step, z, step)
    return blocks.mean(axis=(1, 3, 5))


def _clean_brain(mask: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    """Removes scraps of skull base that the template's own mask holds, and closes its holes."""
    box = _bounding_box(mask, margin=2)
    core = ndimage.distance_transform_edt(mask[box], sampling=step) > _OPENING_MM
    labelled, _ = ndimage.label(core)
    largest = labelled == np.bincount(labelled.ravel())[1:].argmax() + 1
    near = ndimage.distance_transform_edt(~largest, sampling=step) <= _OPENING_MM + 1.5
    whole = np.zeros_like(mask)
    whole[box] = ndimage.binary_fill_holes(near & mask[box])
    return whole


def _bounding_box(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice, slice]:
    x, y, z = (
        slice(max(s.start - margin, 0), min(s.stop + margin, n))
        for s, n in zip(ndimage.find_objects(mask.astype(np.int8))[0], mask.shape, strict=True)
    )
    return x, y, z


def _ventricles(csf: NDArray[np.float32], surface_depth: NDArray[np.float32], step: int) -> NDArray[np.bool_]:
    """CSF deep inside the brain, in pieces of at least 0.3 ml: the lateral, third and fourth ventricles."""
    labelled, _ = ndimage.label((csf > 0.5) & (surface_depth > 18))
    sizes = np.bincount(labelled.ravel()) * step**3
    sizes[0] = 0
    return np.asarray((sizes >= 300)[labelled])


def _shell_depth(brain: NDArray[np.bool_], step: int, closing_mm: float) -> NDArray[np.float32]:
    """Distance in mm outside the brain closed by a ball, so that no shell follows a fissure."""
    factor = _SHELL_STEP // step
    margin = int(np.ceil(closing_mm / _SHELL_STEP)) + 1
    coarse = np.pad(brain[::factor, ::factor, ::factor], margin)
    near = ndimage.distance_transform_edt(~coarse, sampling=_SHELL_STEP) <= closing_mm
    closed = coarse | (ndimage.distance_transform_edt(near, sampling=_SHELL_STEP) > closing_mm + 0.5)
    depth = ndimage.distance_transform_edt(~closed, sampling=_SHELL_STEP)
    depth = ndimage.gaussian_filter(depth, 0.7)[margin:-margin, margin:-margin, margin:-margin].astype(np.float32)
    return refined(depth, brain.shape, factor)


def refined(coarse: NDArray, shape: tuple[int, ...], factor: int) -> NDArray[np.float32]:
    """Interpolates a map `[x, y, z]` to the shape of a grid `factor` times as fine."""
    lines = [np.minimum(np.arange(n) / factor, m - 1) for n, m in zip(shape, coarse.shape, strict=True)]
    return interpolate_lattice(coarse, lines)


@dataclass(frozen=True)
class _Axes:
    """Template mm of the voxel centres along each axis."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    z: NDArray[np.float32]

    def superellipsoid(
        self, centre: tuple, radii: tuple, power: float = 2.0
    ) -> tuple[tuple[slice, slice, slice], NDArray[np.float32]]:
        """Returns the box around a superellipsoid, and there the approximate mm below its surface (< 0 outside)."""
        box, level = [], np.zeros((1, 1, 1), dtype=np.float32)
        for axis, (line, middle, radius) in enumerate(zip((self.x, self.y, self.z), centre, radii, strict=True)):
            start, stop = np.searchsorted(line, (middle - radius, middle + radius))
            box.append(slice(int(start), int(stop)))
            part = np.abs((line[start:stop] - middle) / radius) ** power
            level = level + np.expand_dims(part, [a for a in range(3) if a != axis])
        return (box[0], box[1], box[2]), ((1 - level ** (1 / power)) * min(radii)).astype(np.float32)


def _face_depth(axes: _Axes, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    depth = np.zeros(shape, dtype=np.float32)
    for centre, radii, power in (
        ((0, 18, -72), (68, 66, 88), 2.4),  # face
        ((0, 80, -52), (13, 18, 20), 2.0),  # nose
        ((0, -36, -110), (60, 60, 70), 2.6),  # neck
        ((0, -62, -68), (62, 46, 40), 2.4),  # nape, where the neck's muscles reach the occiput
        ((80, -28, -46), (6, 14, 26), 2.0),  # ears
        ((-80, -28, -46), (6, 14, 26), 2.0),
    ):
        box, inside = axes.superellipsoid(centre, radii, power)
        depth[box] = np.maximum(depth[box], inside)
    return depth


def _organs(axes: _Axes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Draws orbits, airways, sinuses and cervical spine; later solids lie on top of earlier ones."""
    organs = np.zeros(shape, dtype=np.uint8)

    def draw(tissue: int, centre: tuple, radii: tuple, power: float = 2.0) -> None:
        box, inside = axes.superellipsoid(centre, radii, power)
        organs[box][inside > 0] = tissue

    draw(Tissue.BONE, (0, -34, -110), (24, 26, 52), 4)
    draw(Tissue.MARROW, (0, -20, -110), (11, 9, 52), 4)
    draw(Tissue.CSF, (0, -44, -110), (9, 9, 60), 4)
    draw(Tissue.WHITE_MATTER, (0, -44, -110), (5.5, 5, 60), 4)
    for side in (-1, 1):
        draw(Tissue.BONE, (side * 52, -36, -48), (14, 18, 16))
        draw(INNER_AIR, (side * 54, -36, -52), (6, 9, 8))
        draw(Tissue.FAT, (side * 30, 50, -36), (20, 24, 18))
        draw(Tissue.MUSCLE, (side * 28, 38, -36), (4, 16, 4))
        draw(Tissue.VITREOUS, (side * 32, 59, -36), (12.5, 12.5, 12.5))
        draw(Tissue.BONE, (side * 28, 40, -70), (18, 21, 19), 3)
        draw(INNER_AIR, (side * 28, 40, -70), (15, 18, 16), 3)
        draw(Tissue.BONE, (side * 46, 22, -108), (8, 40, 16), 3)
    draw(Tissue.MUCOSA, (0, 46, -54), (16, 36, 24), 3)
    for side in (-1, 1):
        draw(INNER_AIR, (side * 6, 46, -54), (4, 33, 21), 3)
        draw(Tissue.MUCOSA, (side * 8, 42, -60), (3, 24, 4))
    draw(Tissue.BONE, (0, 16, -34), (15, 15, 12), 3)
    draw(INNER_AIR, (0, 16, -34), (12, 12, 9), 3)
    draw(Tissue.MUCOSA, (0, 6, -86), (14, 11, 46), 3)
    draw(INNER_AIR, (0, 6, -86), (10, 7, 46), 3)
    draw(Tissue.MUSCLE, (0, 40, -98), (24, 32, 16))
    draw(Tissue.BONE, (0, 74, -104), (30, 8, 14), 3)
    return organs


@dataclass(frozen=True)
class Shells:
    """One subject's layers around the brain, mm."""

    csf: float
    skull: float
    scalp: float

    @staticmethod
    def draw(rng: np.random.Generator) -> Shells:
        """Draws thicknesses that adults have (skull 4–8 mm: Lynnerup, Forensic Sci Int 2001)."""
        return Shells(csf=rng.uniform(0.8, 2.2), skull=rng.uniform(4.0, 7.0), scalp=rng.uniform(4.0, 8.0))


def draw_surroundings(head: Head, shells: Shells, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draws the tissue `[X, Y, Z]` of everything outside the brain of one subject, as codes of `Tissue`."""
    uneven = 0.8 * upsampled_noise(head.shape, head.step, 24.0, rng)
    depth = head.cavity_depth + uneven
    skin = np.maximum(shells.csf + shells.skull + shells.scalp - head.outline_depth - uneven, head.face_depth)
    strands = upsampled_noise(head.shape, head.step, 4.0, rng)
    tissue = np.where(strands > 0.55, np.uint8(Tissue.FAT), np.uint8(Tissue.MUSCLE))
    tissue[skin < 2.0 + 0.55 * shells.scalp] = Tissue.FAT
    tissue[skin < 2.0] = Tissue.SKIN
    organs = head.organs > 0
    tissue[organs] = head.organs[organs]
    tissue[tissue == INNER_AIR] = Tissue.AIR
    bone = (depth < shells.csf + shells.skull) & (head.organs != Tissue.WHITE_MATTER) & (head.organs != Tissue.CSF)
    tissue[bone & (head.organs != INNER_AIR)] = Tissue.BONE
    diploe = bone & (depth > shells.csf + 0.35 * shells.skull) & (depth < shells.csf + 0.7 * shells.skull)
    tissue[diploe & (head.organs == 0)] = Tissue.MARROW
    tissue[head.cavity_depth <= shells.csf] = Tissue.CSF
    tissue[skin <= 0] = Tissue.AIR
    return tissue


def upsampled_noise(
    shape: tuple[int, int, int], step: float, scale_mm: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draws noise of Gaussian scale `scale_mm` on a lattice of half that scale and interpolates it to `shape`."""
    coarse = max(scale_mm / 2, step)
    lattice = tuple(int(np.ceil((n - 1) * step / coarse)) + 2 for n in shape)
    values = smooth_noise(lattice, scale_mm / coarse, rng).astype(np.float32)
    return interpolate_lattice(values, [np.arange(n) * step / coarse for n in shape])


def interpolate_lattice(values: NDArray, positions: list[NDArray]) -> NDArray[np.float32]:
    """Interpolates `[X, Y, Z]` linearly at the tensor product of positions (in lattice steps) along each axis."""
    for axis, at in enumerate(positions):
        values = np.moveaxis(np.tensordot(interpolation_weights(at, values.shape[axis]), values, (1, axis)), 0, axis)
    return np.ascontiguousarray(values, dtype=np.float32)


def interpolation_weights(positions: NDArray, count: int) -> NDArray[np.float32]:
    """Returns the matrix `[N, count]` of linear interpolation at `positions` between `count` lattice points."""
    below = np.clip(np.floor(positions).astype(int), 0, count - 2)
    weight = positions - below
    matrix = np.zeros((len(positions), count), dtype=np.float32)
    rows = np.arange(len(positions))
    matrix[rows, below] = 1 - weight
    matrix[rows, below + 1] = weight
    return matrix

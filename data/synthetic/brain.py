"""One synthetic brain scan: template → pathology → contrasts → warp → scanner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from data.synthetic.anatomy import (
    HEAD_LOWER,
    HEAD_UPPER,
    Head,
    Shells,
    draw_surroundings,
    load_head,
)
from data.synthetic.contrast import Contrast, ContrastOptions, Overlay, draw_signals, render_signal, sharpen_fractions
from data.synthetic.deformation import (
    Displacement,
    Warp,
    WarpOptions,
    least_squares_affine,
    random_affine,
    random_displacement,
)
from data.synthetic.scanner import Sampler, ScanGrid, ScannerOptions, acquire, draw_grid
from data.volume import Volume

# Named random streams of one case.
Streams = Callable[[str], np.random.Generator]
_BRAIN_CODE = 128
# Range of the factor on CSF fractions: how much a brain has shrunk.
_CSF_WEIGHT = (1.5, 4.0)
# Above this voxel size, a template of 2 mm loses nothing that the scan could show.
_COARSE_SPACING = 3.9


@dataclass(frozen=True)
class SyntheticScan:
    """A raw scan and its ground truth.

    Attributes:
        images: one volume per channel, int16, all on one grid.
        label: label map, uint8.
        brain_mask: brain with ventricles and sulci, uint8; none for other bodies.
        affine: `[4, 4]` least-squares affine of the warp over the brain (or body), template mm to case mm.
        residual_mm: root mean square distance of the warp from that affine, mm.
        smallest_jacobian: smallest determinant of the Jacobian of the warp's smooth part.
    """

    images: list[Volume]
    label: Volume
    brain_mask: Volume | None
    affine: NDArray[np.float64]
    residual_mm: float
    smallest_jacobian: float


@dataclass(frozen=True)
class Pathology:
    """What a disease does to the template brain.

    Attributes:
        overlays: changes of signal.
        labels: `[x, y, z]` label values in the brain's box, below 128.
        values: the label values that occur.
        deform: mass effect, applied to the displacement; none by default.
    """

    overlays: list[Overlay]
    labels: NDArray[np.uint8]
    values: tuple[int, ...]
    deform: Callable[[Displacement], Displacement] = lambda displacement: displacement


def make_brain(
    contrasts: Sequence[Contrast],
    draw_pathology: Callable[[Head, np.random.Generator], Pathology],
    warp_options: WarpOptions,
    contrast_options: ContrastOptions,
    scanner: ScannerOptions,
    streams: Streams,
) -> SyntheticScan:
    """Makes one brain scan; every random choice comes from a stream named after its purpose."""
    head = load_head(2 if min(scanner.in_plane_spacing[0], scanner.through_plane_spacing[0]) > _COARSE_SPACING else 1)
    pathology = draw_pathology(head, streams("pathology"))
    warp = _draw_warp(head, pathology, warp_options, streams("warp"))
    surroundings = draw_surroundings(head, Shells.draw(streams("shells")), streams("surroundings"))
    fractions = sharpen_fractions(head.fractions, float(streams("atrophy").uniform(*_CSF_WEIGHT)))
    grid = _draw_brain_grid(head, surroundings, warp, scanner, streams("grid"))
    signals = []
    for contrast in contrasts:
        rng = streams(f"contrast {contrast}")
        means = draw_signals(contrast, contrast_options, rng)
        signals.append(render_signal(head, surroundings, fractions, pathology.overlays, means, contrast_options, rng))
    sampler = Sampler(grid, warp, head.affine, scanner.sample_mm)
    averaged, shares = sampler.average(signals, _codes(head, pathology), _code_values(pathology))
    images = [
        grid.stored(acquire(image, grid, scanner, streams(f"scan {contrast}")))
        for contrast, image in zip(contrasts, averaged, strict=True)
    ]
    affine, residual = describe_warp(warp, head.brain_points(stride=max(1, round(2 / head.step))))
    label, mask = _label_and_mask(shares, pathology.values)
    return SyntheticScan(
        images=images,
        label=grid.stored(label),
        brain_mask=grid.stored(mask),
        affine=affine,
        residual_mm=residual,
        smallest_jacobian=warp.displacement.smallest_jacobian(),
    )


def describe_warp(warp: Warp, points: NDArray) -> tuple[NDArray[np.float64], float]:
    """Returns the least-squares affine `[4, 4]` of a warp over points `[N, 3]`, and the r.m.s. distance from it."""
    landed = warp.forward(points)
    affine = least_squares_affine(points, landed)
    return affine, float(np.sqrt(((apply_affine(affine, points) - landed) ** 2).sum(-1).mean()))


def _draw_warp(head: Head, pathology: Pathology, options: WarpOptions, rng: np.random.Generator) -> Warp:
    centre = head.brain_points(stride=4).mean(axis=0)
    affine = random_affine(options, centre, rng)
    return Warp(affine, pathology.deform(random_displacement(options, HEAD_LOWER, HEAD_UPPER, rng)))


def _draw_brain_grid(
    head: Head, surroundings: NDArray[np.uint8], warp: Warp, options: ScannerOptions, rng: np.random.Generator
) -> ScanGrid:
    stride = 6
    body = np.argwhere(surroundings[::stride, ::stride, ::stride] > 0) * stride
    whole = warp.forward(apply_affine(head.affine, body))
    return draw_grid(whole, warp.forward(head.brain_points(stride=3)), options, rng)


def _codes(head: Head, pathology: Pathology) -> NDArray[np.uint8]:
    codes = np.zeros(head.shape, dtype=np.uint8)
    codes[head.box] = pathology.labels + np.uint8(_BRAIN_CODE) * head.brain
    return codes


def _code_values(pathology: Pathology) -> list[int]:
    """Each label inside the brain, then the brain's remaining voxels; labels are cut to the brain beforehand."""
    return [value + _BRAIN_CODE for value in (*pathology.values, 0)]


def _label_and_mask(
    shares: NDArray[np.float32], values: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Foreground where pathology fills half a voxel, and there the label of the largest share."""
    brain = shares.sum(axis=0) >= 0.5
    ill = shares[:-1].sum(axis=0) >= 0.5
    largest = np.array(values, dtype=np.uint8)[shares[:-1].argmax(axis=0)]
    return np.where(ill & brain, largest, 0).astype(np.uint8), brain.astype(np.uint8)

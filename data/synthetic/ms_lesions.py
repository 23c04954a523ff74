"""Multiple sclerosis lesions: how many, how large and where, as measured on real masks, grown along the anatomy."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from data.options import Options
from data.synthetic.anatomy import Head, Tissue, upsampled_noise
from data.synthetic.contrast import Overlay
from data.synthetic.deformation import range_within

# Measured on 18 consensus lesion masks in MNI space at 1 mm (open MS data of the University of Ljubljana, Lesjak et
# al., "A novel public MR image dataset of multiple sclerosis patients with lesion segmentations based on multi-rater
# consensus", Neuroinformatics 2018; CC BY), connected components (26 neighbours) of at least 3 mm³. Lesions per
# patient: quantiles 0, 25, 50, 75, 100 %.
LESION_COUNT = (18.0, 27.5, 69.0, 95.25, 320.0)
# Total volume per patient in ml: quantiles 0, 10, 25, 50, 75, 90, 100 %.
LESION_LOAD_ML = (0.875, 1.28, 6.86, 15.5, 29.9, 42.9, 52.2)
LESION_LOAD_LEVELS = (0.0, 0.10, 0.25, 0.50, 0.75, 0.90, 1.0)
# Size of one lesion in mm³: quantiles 5, 10, 25, 50, 75, 90, 95, 99 %.
LESION_SIZE_MM3 = (3.0, 5.0, 9.0, 22.0, 58.0, 173.0, 357.0, 4524.0)
LESION_SIZE_LEVELS = (0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
# Upper size in mm³ → share that touches a ventricle (≤ 2 mm), share that touches the cortex (≤ 1.5 mm) but no
# ventricle.
LESION_PLACE = ((30.0, 0.07, 0.19), (100.0, 0.10, 0.26), (500.0, 0.29, 0.34), (np.inf, 0.77, 0.08))
# Three quarters of the lesion volume lies in lesions that touch a ventricle; the largest lesion held 39 ml.
LARGEST_LESION_MM3 = 39_400.0
# Share of the lesions that lies in cerebellum and brainstem (3 % of the volume), and the largest of these.
INFRATENTORIAL_SHARE = 0.09
LARGEST_INFRATENTORIAL_MM3 = 1070.0
# Gaussian softness of a lesion's edge, mm.
_EDGE_MM = 0.6
# How far noise bends a lesion's outline.
_IRREGULARITY = 0.35


class MSLesionOptions(Options):
    """Lesions of the `ms` cohort."""

    load_ml: Annotated[tuple[float, float], range_within(100)] = Field(
        (4.0, 45.0),
        description="range of the total lesion volume of a patient in ml; the measured distribution is cut to it",
    )
    contrast: Annotated[tuple[float, float], range_within(3)] = Field(
        (0.85, 1.25), description="range of a patient's lesion contrast, 1 = typical"
    )
    contrast_variation: float = Field(0.15, ge=0, le=0.5, description="relative s.d. of the contrast between lesions")


def draw_sizes(options: MSLesionOptions, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws the volumes of one patient's lesions in mm³, in decreasing order.

    Load and count are drawn together (a patient of high load tends to have many lesions), sizes from the measured
    quantiles; the largest lesions then make up what is missing of the load, as confluent lesions do.
    """
    load = 1000 * _draw_load(options, rng)
    level = np.interp(load / 1000, LESION_LOAD_ML, LESION_LOAD_LEVELS)
    mixed = np.clip(0.6 * level + 0.4 * rng.uniform(), 0, 1)
    count = int(np.interp(mixed, np.linspace(0, 1, len(LESION_COUNT)), LESION_COUNT))
    levels = rng.uniform(0.05, 0.985, count)
    sizes = np.exp(np.interp(levels, LESION_SIZE_LEVELS, np.log(LESION_SIZE_MM3)))
    sizes = np.sort(sizes)[::-1]
    kept = sizes[np.cumsum(sizes[::-1])[::-1] <= load]
    missing = load - kept.sum()
    confluent = []
    while missing > 800:
        part = min(missing, LARGEST_LESION_MM3) * rng.uniform(0.5, 0.95) if missing > 2000 else missing
        confluent.append(part)
        missing -= part
    return np.sort(np.concatenate([kept, confluent]))[::-1]


def _draw_load(options: MSLesionOptions, rng: np.random.Generator) -> float:
    low, high = np.interp(options.load_ml, LESION_LOAD_ML, LESION_LOAD_LEVELS)
    drawn = np.interp(rng.uniform(low, high), LESION_LOAD_LEVELS, LESION_LOAD_ML)
    return float(np.clip(drawn, *options.load_ml))


def draw_lesions(head: Head, options: MSLesionOptions, rng: np.random.Generator) -> Overlay:
    """Draws one patient's lesions in the template brain.

    Returns:
        The overlay; where its fraction is at least one half is lesion.
    """
    mask = np.zeros(head.brain.shape, dtype=bool)
    gain = np.ones(head.brain.shape, dtype=np.float32)
    patient_gain = rng.uniform(*options.contrast)
    noise = upsampled_noise(head.box_shape, head.step, 3.0, rng)
    tissue = _lesion_tissue(head)
    seeds = _Seeds(head, tissue, rng)
    for size in draw_sizes(options, rng):
        voxels = max(round(size / head.step**3), 1)
        centre, periventricular = seeds.draw(size, mask)
        if centre is None:
            continue
        here, grown = _grow(head, tissue & ~mask, noise, centre, voxels, periventricular, rng)
        mask[here] |= grown
        lesion_gain = patient_gain * np.exp(options.contrast_variation * rng.standard_normal())
        gain[here] = np.where(grown, lesion_gain, gain[here])
    sigma = _EDGE_MM / head.step
    fraction = ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=3)
    # The blur takes half a peak from a punctate lesion; the true mask keeps its voxels.
    fraction = np.where(mask, np.maximum(fraction, 0.5), np.minimum(fraction, 0.499))
    spread = ndimage.grey_dilation(np.where(mask, gain, 0), size=(3, 3, 3))
    return Overlay(
        Tissue.MS_LESION, fraction * head.brain, np.where(mask, gain, np.where(spread > 0, spread, patient_gain))
    )


def _lesion_tissue(head: Head) -> NDArray[np.bool_]:
    """Where lesions may lie: white matter and its border; no fluid, no brain surface."""
    return head.brain & (head.fractions[2] > 0.6) & (head.fractions[0] < 0.25) & (head.surface_depth > 3)


class _Seeds:
    """Places where lesions of each kind begin."""

    def __init__(self, head: Head, tissue: NDArray[np.bool_], rng: np.random.Generator) -> None:
        self._rng = rng
        y, z = (head.box_affine[a, 3] + head.step * np.arange(head.brain.shape[a]) for a in (1, 2))
        # Cerebellum and brainstem, at the atlas' coordinates.
        below = (y[:, None] < -12) & (z[None, :] < np.interp(y[:, None], (-90, -12), (-20, -12)))
        at_ventricle = tissue & (head.ventricle_distance <= 3.5)
        at_cortex = tissue & (head.cortex_distance <= 2.5) & (head.ventricle_distance > 5)
        deep = tissue & ~at_ventricle & (head.cortex_distance > 2.5)
        kinds = (at_ventricle, at_cortex, deep)
        self._above = [np.argwhere(place & ~below) for place in kinds]
        self._below = np.argwhere((at_ventricle | deep) & below)

    def draw(self, size: float, taken: NDArray[np.bool_]) -> tuple[NDArray[np.int64] | None, bool]:
        """Returns a free voxel `[3]` for a lesion of that many mm³, and whether it lies at a ventricle."""
        ventricle, cortex = next((v, c) for limit, v, c in LESION_PLACE if size <= limit)
        kind = int(self._rng.choice(3, p=[ventricle, cortex, 1 - ventricle - cortex]))
        infratentorial = size < LARGEST_INFRATENTORIAL_MM3 and self._rng.uniform() < INFRATENTORIAL_SHARE
        places = self._below if infratentorial else self._above[kind]
        for _ in range(50):
            seed = places[self._rng.integers(len(places))]
            if not taken[tuple(seed)]:
                return seed, kind == 0 and not infratentorial
        return None, False


def _grow(
    head: Head,
    allowed: NDArray[np.bool_],
    noise: NDArray[np.float32],
    centre: NDArray[np.int64],
    voxels: int,
    periventricular: bool,
    rng: np.random.Generator,
) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """Takes the `voxels` cheapest allowed voxels around a seed.

    The cost is an elongated distance bent by noise; at a ventricle, distance from its wall costs more than distance
    along it, so that small lesions are ovoid and large ones become the caps and bands that line real ventricles.
    """
    radius = (3 * voxels / (4 * np.pi)) ** (1 / 3)
    reach = int(np.ceil(2.5 * radius + 2))
    here = tuple(slice(max(c - reach, 0), min(c + reach + 1, n)) for c, n in zip(centre, allowed.shape, strict=True))
    grid = np.meshgrid(*[np.arange(s.start, s.stop) - c for s, c in zip(here, centre, strict=True)], indexing="ij")
    offset = np.stack(grid, axis=-1).astype(np.float32)
    axis = rng.standard_normal(3)
    along = offset @ (axis / np.linalg.norm(axis)).astype(np.float32)
    squared = (offset**2).sum(-1) - (1 - 1 / rng.uniform(1.1, 1.9) ** 2) * along**2
    cost = np.sqrt(np.maximum(squared, 0)) + _IRREGULARITY * radius * noise[here]
    if periventricular:
        cost = cost * 0.7 + 1.3 * head.ventricle_distance[here] / head.step
    cost = np.where(allowed[here], cost, np.inf)
    free = int(np.isfinite(cost).sum())
    if free == 0:
        return here, np.zeros(cost.shape, dtype=bool)
    threshold = np.partition(cost.ravel(), min(voxels, free) - 1)[min(voxels, free) - 1]
    return here, cost <= threshold

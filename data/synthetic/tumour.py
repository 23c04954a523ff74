"""A glioma-like mass: necrotic core, enhancing rim and oedema, grown as fronts through the template brain.

Each part is a front of the eikonal equation (fast marching, Sethian 1999), stopped at its volume: the mass spreads
through grey and white matter alike, oedema runs along white matter and hardly enters cortex, and neither crosses
fluid. Noise in the speed makes the outlines irregular, and a front is connected by construction.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from data.options import Options
from data.synthetic.anatomy import Head, Tissue, refined, upsampled_noise
from data.synthetic.brain import Pathology
from data.synthetic.contrast import Overlay
from data.synthetic.deformation import range_within, with_expansion

CORE, RIM, OEDEMA = 1, 2, 3
# Speeds of the fronts in CSF, grey and white matter; ventricles stop both.
_MASS_SPEED = np.array([0.25, 0.85, 1.0], dtype=np.float32)
_OEDEMA_SPEED = np.array([0.05, 0.25, 1.0], dtype=np.float32)
_VENTRICLE_SPEED = 0.01
# The fronts are smooth on the scale of this grid, mm.
_FRONT_STEP = 2
# Beyond this time a front has met all that is not walled off.
_LONGEST_MARCH = 1e4
# S.d. of the log speed of the growing fronts.
_IRREGULARITY = 0.7
# Gaussian softness of the borders, mm.
_EDGE_MM = 0.8
# Relative s.d. of the contrast within a part.
_HETEROGENEITY = 0.2


class TumourOptions(Options):
    """The mass of the `tumour` cohort."""

    volume_ml: Annotated[tuple[float, float], range_within(400, positive=True)] = Field(
        (30.0, 150.0), description="range of the volume of core, rim and oedema, ml"
    )
    mass_share: Annotated[tuple[float, float], range_within(1)] = Field(
        (0.3, 0.6), description="range of the share of that volume that is not oedema"
    )
    core_share: Annotated[tuple[float, float], range_within(1)] = Field(
        (0.2, 0.55), description="range of the share of the mass that is core"
    )
    mass_effect: Annotated[tuple[float, float], range_within(0.5)] = Field(
        (0.05, 0.3), description="range of the relative swelling at the centre"
    )


def draw_tumour(head: Head, options: TumourOptions, rng: np.random.Generator) -> Pathology:
    """Draws one tumour in the template brain, with the push that it exerts."""
    volume = np.exp(rng.uniform(*np.log(options.volume_ml))) * 1000
    strength = rng.uniform(*options.mass_effect)
    # The mass swells by about (1 + s)³ when it pushes, so it grows that much less.
    mass_volume = volume * rng.uniform(*options.mass_share)
    core_volume = mass_volume * rng.uniform(*options.core_share) / (1 + strength) ** 3
    oedema_volume = volume - mass_volume
    mass_volume /= (1 + strength) ** 3

    factor = max(1, round(_FRONT_STEP / head.step))
    fractions = head.fractions[:, ::factor, ::factor, ::factor]
    step = head.step * factor
    seed = _draw_seed(head, factor, rng)
    speed = _speed(head, fractions, factor, step, _MASS_SPEED, rng)
    arrival = refined(_march(speed, seed[None], step, mass_volume), head.brain.shape, factor)
    mass = _first(arrival, head.brain, mass_volume / head.step**3)
    bumps = upsampled_noise(head.box_shape, head.step, 4.0, rng)
    scale = float(arrival[mass].max())
    core = _first(
        arrival + 0.2 * scale * bumps,
        ndimage.binary_erosion(mass, iterations=max(1, round(2 / head.step))),
        core_volume / head.step**3,
    )
    speed = _speed(head, fractions, factor, step, _OEDEMA_SPEED, rng)
    start = np.argwhere(mass[::factor, ::factor, ::factor])
    spread = refined(_march(speed, start, step, mass_volume + oedema_volume), head.brain.shape, factor)
    oedema = _first(spread, head.brain & ~mass & (head.ventricle_distance > 0), oedema_volume / head.step**3)
    centre = apply_affine(head.box_affine, np.argwhere(mass).mean(axis=0))
    radius = (3 * mass_volume / (4 * np.pi)) ** (1 / 3)
    labels = np.zeros(head.brain.shape, dtype=np.uint8)
    labels[oedema], labels[mass], labels[core] = OEDEMA, RIM, CORE
    return Pathology(
        overlays=_overlays(head, labels, spread, rng),
        labels=labels,
        values=(CORE, RIM, OEDEMA),
        deform=partial(with_expansion, centre=centre, radius=1.1 * radius, strength=strength),
    )


def _draw_seed(head: Head, factor: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws the first voxel `[3]` (coarse grid): cerebral white matter, off the midline."""
    coarse = (slice(None, None, factor),) * 3
    places = np.argwhere(
        (head.fractions[2][coarse] > 0.6) & (head.surface_depth[coarse] > 14) & (head.ventricle_distance[coarse] > 4)
    )
    x, y, z = apply_affine(head.box_affine, places * factor).T
    cerebral = (np.abs(x) > 14) & (z > np.interp(y, (-90, -12), (-5, -5)))
    places = places[cerebral]
    return np.asarray(places[rng.integers(len(places))])


def _speed(
    head: Head,
    fractions: NDArray[np.float32],
    factor: int,
    step: float,
    tissue_speed: NDArray[np.float32],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    shape = (fractions.shape[1], fractions.shape[2], fractions.shape[3])
    noise = 0.9 * upsampled_noise(shape, step, 12.0, rng) + 0.5 * upsampled_noise(shape, step, 4.0, rng)
    speed = np.tensordot(tissue_speed, fractions, 1) * np.exp(_IRREGULARITY * noise)
    speed[head.ventricle_distance[::factor, ::factor, ::factor] <= 0] = _VENTRICLE_SPEED
    # Nothing crosses the falx; the corpus callosum, white matter right across, lets a front through.
    middle = round(-head.box_affine[0, 3] / step)
    speed[middle - 1 : middle + 2] *= np.square(fractions[2, middle - 1 : middle + 2]) + 0.01
    return np.maximum(speed, 1e-3).astype(np.float32)


def _march(speed: NDArray[np.float32], start: NDArray[np.int64], step: float, needed_mm3: float) -> NDArray[np.float32]:
    """Returns arrival times `[x, y, z]` of the front that leaves the start voxels `[N, 3]` with that speed.

    The front is stopped once it has passed well over the needed volume; voxels beyond have the time 1e6.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(speed.T)
    image.SetSpacing((step,) * 3)
    march = sitk.FastMarchingImageFilter()
    march.SetTrialPoints([tuple(int(i) for i in point) for point in start])
    stop = 1.5 * (needed_mm3 / 4) ** (1 / 3)
    while True:
        march.SetStoppingValue(stop)
        times = np.minimum(sitk.GetArrayFromImage(march.Execute(image)).T, 1e6).astype(np.float32)
        passed = (times < 0.7 * stop).sum() * step**3
        if passed >= 1.2 * needed_mm3 or passed >= 0.5 * times.size * step**3 or stop > _LONGEST_MARCH:
            return times
        stop *= 1.6


def _first(arrival: NDArray[np.float32], allowed: NDArray[np.bool_], voxels: float) -> NDArray[np.bool_]:
    """Returns the given number of allowed voxels that are reached first."""
    times = arrival[allowed]
    count = min(max(round(voxels), 1), len(times))
    return allowed & (arrival <= np.partition(times, count - 1)[count - 1])


def _overlays(
    head: Head, labels: NDArray[np.uint8], spread: NDArray[np.float32], rng: np.random.Generator
) -> list[Overlay]:
    """Oedema under rim under core, so that each border blends with what lies next to it."""
    overlays = []
    reach = float(spread[labels == OEDEMA].max(initial=1.0))
    for tissue, inner in (
        (Tissue.OEDEMA, (CORE, RIM, OEDEMA)),
        (Tissue.TUMOUR_RIM, (CORE, RIM)),
        (Tissue.TUMOUR_CORE, (CORE,)),
    ):
        part = np.isin(labels, inner).astype(np.float32)
        fraction = ndimage.gaussian_filter(part, _EDGE_MM / head.step, truncate=3) * head.brain
        gain = 1 + _HETEROGENEITY * upsampled_noise(head.box_shape, head.step, 5.0, rng)
        if tissue is Tissue.OEDEMA:
            # Oedema fades towards its margin.
            gain *= 1.1 - 0.4 * np.clip(spread / reach, 0, 1)
        overlays.append(Overlay(tissue, fraction, np.clip(gain, 0.2, 1.8).astype(np.float32)))
    return overlays

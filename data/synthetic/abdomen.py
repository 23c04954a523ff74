"""A CT of the upper abdomen from solids: body wall, spine, ribs, lungs and the organs down to the kidneys.

The phantom lies in a template space of its own, in RAS mm: the origin on the midline at the height of the first
lumbar vertebra, the patient's right at +x. Every solid is an implicit function (mm below its surface), bent by smooth
noise of the subject; places and sizes are those of an adult, and the warp adds the rest of the variation between
subjects.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from data.synthetic.anatomy import upsampled_noise
from data.synthetic.brain import Streams, SyntheticScan, describe_warp
from data.synthetic.deformation import Warp, WarpOptions, random_affine, random_displacement
from data.synthetic.scanner import Sampler, ScanGrid, ScannerOptions, draw_grid

LOWER = np.array([-212.0, -164.0, -170.0])
UPPER = np.array([212.0, 156.0, 200.0])
_AIR_HU = -1000.0


class Organ(IntEnum):
    """What a voxel of the phantom is made of; liver and spleen bear their label values."""

    AIR = 0
    LIVER = 1
    SPLEEN = 2
    FAT = 3
    MUSCLE = 4
    SKIN = 5
    SPONGIOSA = 6
    CORTICAL_BONE = 7
    DISC = 8
    SPINAL_CANAL = 9
    LUNG = 10
    HEART = 11
    KIDNEY = 12
    STOMACH = 13
    BOWEL = 14
    GALLBLADDER = 15
    VESSEL = 16
    LIVER_VESSEL = 17
    PANCREAS = 18
    TABLE = 19
    GAS = 20


# Organ → HU without contrast agent, and what the portal venous phase adds.
_HU: dict[Organ, tuple[float, float]] = {
    Organ.AIR: (_AIR_HU, 0),
    Organ.LIVER: (52, 58),
    Organ.SPLEEN: (46, 78),
    Organ.FAT: (-105, 0),
    Organ.MUSCLE: (50, 12),
    Organ.SKIN: (20, 10),
    Organ.SPONGIOSA: (180, 10),
    Organ.CORTICAL_BONE: (750, 0),
    Organ.DISC: (80, 0),
    Organ.SPINAL_CANAL: (25, 5),
    Organ.LUNG: (-840, 10),
    Organ.HEART: (42, 95),
    Organ.KIDNEY: (32, 140),
    Organ.STOMACH: (25, 0),
    Organ.BOWEL: (35, 35),
    Organ.GALLBLADDER: (8, 0),
    Organ.VESSEL: (42, 115),
    Organ.LIVER_VESSEL: (40, 125),
    Organ.PANCREAS: (40, 60),
    Organ.TABLE: (-300, 0),
    Organ.GAS: (-900, 0),
}
# S.d. of the log size of an organ.
_ORGAN_SCALING = 0.1
# S.d. of the place of an organ along each axis, mm.
_ORGAN_SHIFT_MM = 5.0
# S.d. of the bending of an organ's surface, mm.
_IRREGULARITY_MM = 3.0
# S.d. of an organ's mean between subjects, HU.
_ORGAN_VARIATION_HU = 6.0
# S.d. of the texture within organs, HU.
_TEXTURE_HU = 5.0
# Range of the thickness of the subcutaneous fat, mm.
_FAT_MM = (8.0, 28.0)
# Range of the contrast agent: 0 is none, 1 the portal venous phase.
_ENHANCEMENT = (0.3, 1.1)
# S.d. of the noise, HU.
_NOISE_HU = 14.0


class _Phantom:
    """Draws solids into the code map of one subject."""

    def __init__(self, step: float, rng: np.random.Generator) -> None:
        self._rng = rng
        self.step = step
        self.lines = [np.arange(lo, hi + step / 2, step, dtype=np.float32) for lo, hi in zip(LOWER, UPPER, strict=True)]
        self.x, self.y, self.z = np.meshgrid(*self.lines, indexing="ij", sparse=True)
        self.shape = (len(self.lines[0]), len(self.lines[1]), len(self.lines[2]))
        self.codes = np.zeros(self.shape, dtype=np.uint8)
        self._bend = [self.noise(scale) for scale in (22.0, 10.0)]

    def noise(self, scale_mm: float) -> NDArray[np.float32]:
        """Smooth unit noise `[X, Y, Z]`."""
        return upsampled_noise(self.shape, self.step, scale_mm, self._rng)

    def bending(self) -> NDArray[np.float32]:
        """Bending of surfaces in mm; every organ takes another part of two noise maps."""
        coarse, fine = (np.roll(n, tuple(self._rng.integers(0, 40, 3)), axis=(0, 1, 2)) for n in self._bend)
        return np.asarray(_IRREGULARITY_MM * (0.9 * coarse + 0.4 * fine), dtype=np.float32)

    def ellipsoid(self, centre: tuple, radii: tuple, tilt: float = 0.0, power: float = 2.0) -> NDArray[np.float32]:
        """Approximate mm below the surface of a superellipsoid tilted about y by `tilt` radians.

        Returns:
            `[X, Y, Z]`, or `[X, Y, 1]` for a column (an infinite third radius).
        """
        x, y, z = self.x - centre[0], self.y - centre[1], self.z - centre[2]
        if tilt:
            x, z = np.cos(tilt) * x + np.sin(tilt) * z, np.cos(tilt) * z - np.sin(tilt) * x
        parts = [(x, radii[0]), (y, radii[1])] + ([(z, radii[2])] if np.isfinite(radii[2]) else [])
        if power == 2:
            level = np.sqrt(sum(np.square(line * np.float32(1 / radius)) for line, radius in parts))
        else:
            level = sum(np.abs(line / np.float32(radius)) ** power for line, radius in parts) ** (1 / power)
        return np.asarray((1 - level) * min(radii), dtype=np.float32)

    def jitter(self, centre: tuple, radii: tuple) -> tuple[tuple, tuple]:
        """Moves and scales an organ."""
        moved = tuple(np.add(centre, _ORGAN_SHIFT_MM * self._rng.standard_normal(3)))
        common, own = self._rng.standard_normal(), self._rng.standard_normal(3)
        scaled = np.multiply(radii, np.exp(_ORGAN_SCALING * (0.7 * common + 0.5 * own)))
        return moved, tuple(scaled)

    def fill(self, where: NDArray[np.bool_], organ: Organ) -> None:
        """Overwrites what was there."""
        self.codes[np.broadcast_to(where, self.shape)] = organ


def draw_phantom(step: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draws one subject's phantom `[X, Y, Z]` as codes of `Organ`, voxel 0 at `LOWER`."""
    phantom = _Phantom(step, rng)
    inner = _draw_wall(phantom, rng.uniform(*_FAT_MM))
    lungs = _draw_thorax(phantom, inner)
    cavity = (inner > 0) & ~lungs
    _draw_bowel(phantom, cavity)
    _draw_stomach(phantom, cavity)
    _draw_kidneys(phantom, cavity)
    _draw_spleen(phantom, cavity)
    _draw_liver(phantom, cavity)
    _draw_spine(phantom)
    return phantom.codes


def _draw_wall(phantom: _Phantom, fat: float) -> NDArray[np.float32]:
    """Draws table, skin, fat, muscle wall and ribs; returns mm below the inner side of the wall."""
    body = (
        phantom.ellipsoid((0, -4, 0), (150 + 0.8 * fat, 102 + 0.9 * fat, np.inf), power=2.4) + 0.5 * phantom.bending()
    )
    phantom.fill(
        (np.abs(phantom.x) < 190) & (np.abs(phantom.y + 130 + fat + 3e-4 * -(phantom.x**2)) < 4) & (body < 0),
        Organ.TABLE,
    )
    phantom.fill(body > 0, Organ.SKIN)
    phantom.fill(body > 2.5, Organ.FAT)
    # The fat is thinner behind and at the flanks than in front of the belly.
    under = body - fat * (0.75 + 0.25 * np.tanh(phantom.y / 60))
    phantom.fill(under > 0, Organ.MUSCLE)
    inner = under - 15
    ribs = np.mod(phantom.z + 0.35 * np.abs(phantom.x) - 0.35 * phantom.y, 30) < 9
    ribs = ribs & (under > 5) & (under < 13) & (phantom.z - 0.25 * phantom.y > -30)
    phantom.fill(ribs & (under > 6.5) & (under < 11.5), Organ.SPONGIOSA)
    phantom.fill(ribs & ((under <= 6.5) | (under >= 11.5)), Organ.CORTICAL_BONE)
    phantom.fill(inner > 0, Organ.FAT)
    return np.asarray(inner, dtype=np.float32)


def _draw_thorax(phantom: _Phantom, inner: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Draws lung bases, diaphragm and heart; returns the space above the diaphragm."""
    right = 96 - 55 * (((phantom.x - 72) / 85) ** 2 + ((phantom.y - 10) / 95) ** 2)
    left = 84 - 55 * (((phantom.x + 72) / 85) ** 2 + ((phantom.y - 10) / 95) ** 2)
    dome = np.maximum(np.maximum(right, left), 20) + phantom.bending()
    thorax = (inner > 0) & (phantom.z > dome)
    phantom.fill((inner > 0) & (phantom.z > dome - 3), Organ.MUSCLE)
    phantom.fill(thorax, Organ.LUNG)
    middle = phantom.ellipsoid((0, -30, 140), (34, 70, 200), power=3)
    phantom.fill(thorax & (middle > 0), Organ.FAT)
    heart = phantom.ellipsoid((-28, 40, 142), (62, 50, 52), tilt=0.4) + phantom.bending()
    phantom.fill(thorax & (heart > 0), Organ.HEART)
    return thorax


def _draw_bowel(phantom: _Phantom, cavity: NDArray[np.bool_]) -> None:
    """Draws loops of gut: the middle levels of smooth noise are walls and contents, its peaks hold gas."""
    loops = phantom.noise(11.0)
    where = cavity & (phantom.z < 30) & (phantom.y > -25)
    phantom.fill(where & (loops > 0.1), Organ.BOWEL)
    phantom.fill(where & (loops + 0.008 * phantom.y > 1.35), Organ.GAS)
    pancreas = phantom.ellipsoid((-18, 2, 8), (62, 11, 13), tilt=-0.35) + 0.6 * phantom.bending()
    phantom.fill(cavity & (pancreas > 0), Organ.PANCREAS)


def _draw_stomach(phantom: _Phantom, cavity: NDArray[np.bool_]) -> None:
    centre, radii = phantom.jitter((-58, 28, 38), (44, 36, 52))
    stomach = phantom.ellipsoid(centre, radii, tilt=-0.5) + phantom.bending()
    phantom.fill(cavity & (stomach > -3), Organ.MUSCLE)
    phantom.fill(cavity & (stomach > 0), Organ.STOMACH)
    # The patient lies on the back: gas rises to the front.
    phantom.fill(cavity & (stomach > 0) & (phantom.y > centre[1] + 0.35 * radii[1]), Organ.GAS)


def _draw_kidneys(phantom: _Phantom, cavity: NDArray[np.bool_]) -> None:
    for side, height in ((1, -38), (-1, -22)):
        centre, radii = phantom.jitter((side * 66, -48, height), (29, 25, 55))
        kidney = phantom.ellipsoid(centre, radii, tilt=side * 0.25) + 0.5 * phantom.bending()
        hilum = (centre[0] - side * 0.75 * radii[0], centre[1] + 6, centre[2])
        sinus = phantom.ellipsoid(hilum, (0.7 * radii[0], 0.45 * radii[1], 0.45 * radii[2]))
        phantom.fill(cavity & (kidney > -8), Organ.FAT)
        phantom.fill(cavity & (kidney > 0), Organ.KIDNEY)
        phantom.fill(cavity & (sinus > 0) & (kidney > -8), Organ.FAT)


def _draw_spleen(phantom: _Phantom, cavity: NDArray[np.bool_]) -> None:
    """A crescent between the wall and the organs on its inner side."""
    centre, radii = phantom.jitter((-104, -34, 42), (40, 52, 56))
    spleen = phantom.ellipsoid(centre, radii, tilt=-0.3) + phantom.bending()
    bed = phantom.ellipsoid((centre[0] + 44, centre[1] + 30, centre[2] - 4), (44, 48, 70))
    phantom.fill(cavity & (spleen > 0) & (bed < 0), Organ.SPLEEN)


def _draw_liver(phantom: _Phantom, cavity: NDArray[np.bool_]) -> None:
    """Right and left lobe below the diaphragm, less the visceral surface; then vessels and gallbladder."""
    centre, radii = phantom.jitter((76, 2, 28), (80, 92, 92))
    right = phantom.ellipsoid(centre, radii, tilt=0.25, power=2.3)
    centre, radii = phantom.jitter((2, 44, 46), (70, 36, 36))
    left = phantom.ellipsoid(centre, radii, tilt=0.35)
    centre, radii = phantom.jitter((18, -34, -36), (62, 66, 72))
    beneath = phantom.ellipsoid(centre, radii)
    liver = np.minimum(np.maximum(right, left), -beneath) + phantom.bending()
    inside = cavity & (liver > 0) & (phantom.codes != Organ.KIDNEY) & (phantom.codes != Organ.SPLEEN)
    # The liver is one piece; what noise cut off is fat again.
    labelled, pieces = ndimage.label(inside)
    if pieces > 1:
        inside = labelled == np.bincount(labelled.ravel())[1:].argmax() + 1
    phantom.fill(inside, Organ.LIVER)
    first, second = phantom.noise(16.0), phantom.noise(16.0)
    # Where two noise maps vanish together there are curves, here a tree of vessels in all but its order.
    tubes = first**2 + second**2 < np.clip(0.0011 * (liver - 6), 0, 0.03)
    phantom.fill(inside & tubes & (liver > 8), Organ.LIVER_VESSEL)
    centre, radii = phantom.jitter((48, 44, -14), (13, 14, 26))
    gallbladder = phantom.ellipsoid(centre, radii, tilt=0.3)
    phantom.fill(cavity & (gallbladder > 0), Organ.GALLBLADDER)


def _draw_spine(phantom: _Phantom) -> None:
    """Draws back muscles, great vessels and vertebrae; bone overwrites everything."""
    for side in (1, -1):
        erector = phantom.ellipsoid((side * 38, -92, 0), (34, 20, np.inf), power=2.6)
        phantom.fill((erector > 0) & (phantom.codes != Organ.SKIN), Organ.MUSCLE)
        psoas = np.minimum(phantom.ellipsoid((side * 44, -58, -100), (22, 22, 105)), -phantom.z)
        phantom.fill(psoas > 0, Organ.MUSCLE)
    phantom.fill(phantom.ellipsoid((-12, -32, 0), (10, 10, np.inf)) > 0, Organ.VESSEL)
    phantom.fill(phantom.ellipsoid((22, -32, 0), (12, 10, np.inf)) > 0, Organ.VESSEL)
    level = np.mod(phantom.z + 12, 34)
    vertebra = phantom.ellipsoid((0, -60, 0), (23, 18, np.inf), power=2.4)
    disc = level < 8
    phantom.fill((vertebra > 0) & disc, Organ.DISC)
    rim = (vertebra < 2.5) | (level < 10) | (level > 32)
    phantom.fill((vertebra > 0) & ~disc & rim, Organ.CORTICAL_BONE)
    phantom.fill((vertebra > 0) & ~disc & ~rim, Organ.SPONGIOSA)
    arch = phantom.ellipsoid((0, -86, 0), (17, 15, np.inf))
    spinous = phantom.ellipsoid((0, -104, 0), (4.5, 22, np.inf), power=3)
    transverse = phantom.ellipsoid((0, -80, 0), (44, 5, np.inf), power=3)
    processes = (np.maximum(spinous, transverse) > 0) & (level > 12) & (level < 26)
    phantom.fill((arch > 0) | processes, Organ.CORTICAL_BONE)
    phantom.fill(phantom.ellipsoid((0, -86, 0), (11, 10, np.inf)) > 0, Organ.SPINAL_CANAL)


def _hounsfield(codes: NDArray[np.uint8], step: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Gives organs their HU, and soft tissue its texture."""
    phase = rng.uniform(*_ENHANCEMENT)
    means = np.array([_HU[organ][0] + phase * _HU[organ][1] for organ in Organ], dtype=np.float32)
    soft = np.abs(means) < 400
    means += np.where(soft, _ORGAN_VARIATION_HU * rng.standard_normal(len(means)), 0).astype(np.float32)
    means[Organ.AIR] = _AIR_HU
    texture = upsampled_noise((codes.shape[0], codes.shape[1], codes.shape[2]), step, 4.0, rng)
    return means[codes] + (_TEXTURE_HU * soft.astype(np.float32))[codes] * texture


def make_abdomen(warp_options: WarpOptions, scanner: ScannerOptions, streams: Streams) -> SyntheticScan:
    """Makes one CT; every random choice comes from a stream named after its purpose."""
    step = 2.0 if min(scanner.in_plane_spacing[0], scanner.through_plane_spacing[0]) < 3.9 else 4.0
    codes = draw_phantom(step, streams("phantom"))
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = LOWER
    rng = streams("warp")
    warp = Warp(random_affine(warp_options, np.zeros(3), rng), random_displacement(warp_options, LOWER, UPPER, rng))
    organs = apply_affine(affine, np.argwhere((codes == Organ.LIVER) | (codes == Organ.SPLEEN)))
    stride = max(1, round(8 / step))
    body = apply_affine(affine, np.argwhere(_body(codes)[::stride, ::stride, ::stride]) * stride)
    above, below = organs[:, 2].max() + 25, organs[:, 2].min() - 25
    body = body[(body[:, 2] > below) & (body[:, 2] < above)]
    grid = draw_grid(warp.forward(body), warp.forward(organs[::10]), scanner, streams("grid"))
    sampler = Sampler(grid, warp, affine, scanner.sample_mm)
    clean, shares = sampler.average(
        [_hounsfield(codes, step, streams("signal"))],
        _label_codes(codes),
        [Organ.LIVER, Organ.SPLEEN],
        _AIR_HU,
    )
    image = _acquire_ct(clean[0], grid, streams("scan"))
    label = np.where(shares.sum(axis=0) >= 0.5, shares.argmax(axis=0) + 1, 0).astype(np.uint8)
    fitted, residual = describe_warp(warp, body)
    return SyntheticScan(
        images=[grid.stored(image)],
        label=grid.stored(label),
        brain_mask=None,
        affine=fitted,
        residual_mm=residual,
        smallest_jacobian=warp.displacement.smallest_jacobian(),
    )


def _body(codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (codes != Organ.AIR) & (codes != Organ.TABLE)


def _label_codes(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Counts the vessels of the liver as liver, as annotators do."""
    return np.where(codes == Organ.LIVER_VESSEL, np.uint8(Organ.LIVER), codes)


def _acquire_ct(clean: NDArray[np.float32], grid: ScanGrid, rng: np.random.Generator) -> NDArray[np.int16]:
    """Adds the grainy noise of filtered back projection, correlated over about 1.5 mm, and clips to 12 bits."""
    grain = ndimage.gaussian_filter(rng.standard_normal(clean.shape, dtype=np.float32), 1.0 / grid.spacing)
    image = clean + _NOISE_HU * grain / max(float(grain.std()), 1e-6)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)

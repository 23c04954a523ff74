"""From tissues to signal: what each tissue looks like in T1, T2 and FLAIR, and its texture.

Signals are relative to white matter; the scanner decides the scale of a scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.options import Options
from data.synthetic.anatomy import Head, Tissue, upsampled_noise


class Contrast(StrEnum):
    """Weighting of a magnetic resonance sequence."""

    T1 = "T1"
    """Spin-lattice weighting: fluid dark, fat bright, lesions dark."""
    T2 = "T2"
    """Spin-spin weighting: fluid and lesions bright."""
    FLAIR = "FLAIR"
    """T2 with the signal of free fluid nulled: fluid dark, lesions bright."""


# Mean signal relative to white matter. Brain tissues and lesions follow medians measured on 3 T scans of the open MS
# data of Lesjak et al. (Neuroinformatics 2018) and on BraTS 2015 FLAIR; the rest are typical spin-echo values.
_SIGNAL: dict[Contrast, dict[Tissue, float]] = {
    Contrast.FLAIR: {
        Tissue.AIR: 0.0,
        Tissue.CSF: 0.20,
        Tissue.GREY_MATTER: 1.20,
        Tissue.WHITE_MATTER: 1.0,
        Tissue.BONE: 0.10,
        Tissue.MARROW: 0.45,
        Tissue.FAT: 0.95,
        Tissue.MUSCLE: 0.50,
        Tissue.SKIN: 0.65,
        Tissue.VITREOUS: 0.15,
        Tissue.MUCOSA: 0.95,
        Tissue.MS_LESION: 1.85,
        Tissue.TUMOUR_CORE: 0.85,
        Tissue.TUMOUR_RIM: 1.45,
        Tissue.OEDEMA: 1.85,
    },
    Contrast.T1: {
        Tissue.AIR: 0.0,
        Tissue.CSF: 0.25,
        Tissue.GREY_MATTER: 0.70,
        Tissue.WHITE_MATTER: 1.0,
        Tissue.BONE: 0.12,
        Tissue.MARROW: 0.90,
        Tissue.FAT: 1.50,
        Tissue.MUSCLE: 0.60,
        Tissue.SKIN: 0.80,
        Tissue.VITREOUS: 0.25,
        Tissue.MUCOSA: 0.60,
        Tissue.MS_LESION: 0.70,
        Tissue.TUMOUR_CORE: 0.40,
        Tissue.TUMOUR_RIM: 0.75,
        Tissue.OEDEMA: 0.72,
    },
    Contrast.T2: {
        Tissue.AIR: 0.0,
        Tissue.CSF: 2.60,
        Tissue.GREY_MATTER: 1.35,
        Tissue.WHITE_MATTER: 1.0,
        Tissue.BONE: 0.12,
        Tissue.MARROW: 0.70,
        Tissue.FAT: 1.30,
        Tissue.MUSCLE: 0.45,
        Tissue.SKIN: 0.70,
        Tissue.VITREOUS: 2.70,
        Tissue.MUCOSA: 1.90,
        Tissue.MS_LESION: 1.90,
        Tissue.TUMOUR_CORE: 2.20,
        Tissue.TUMOUR_RIM: 1.55,
        Tissue.OEDEMA: 1.90,
    },
}
_BRAIN = (Tissue.CSF, Tissue.GREY_MATTER, Tissue.WHITE_MATTER)
# Relative s.d. of the signal of fat, skin, marrow and muscle between scans.
_EXTRACRANIAL_VARIATION = 0.35
# Gaussian scale of the texture within a tissue, mm.
_TEXTURE_SCALE_MM = 5.0


class ContrastOptions(Options):
    """How signals vary from scan to scan and within a tissue."""

    tissue_variation: float = Field(0.06, ge=0, le=0.3, description="relative s.d. of a tissue's signal between scans")
    texture: float = Field(0.03, ge=0, le=0.2, description="relative s.d. of the signal within a tissue")


@dataclass(frozen=True)
class Overlay:
    """Pathology laid over the tissues of the brain's box.

    Attributes:
        tissue: what it is made of.
        fraction: `[x, y, z]` share of each voxel that it takes, 0 to 1.
        gain: `[x, y, z]` how far the signal goes from the tissue's own (0) to the pathology's (1; more is stronger).
    """

    tissue: Tissue
    fraction: NDArray[np.float32]
    gain: NDArray[np.float32]


def draw_signals(contrast: Contrast, options: ContrastOptions, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draws one scan's mean signal `[tissue]` of every tissue, relative to white matter."""
    signals = np.zeros(len(Tissue), dtype=np.float32)
    for tissue in Tissue:
        brain_like = tissue in _BRAIN or tissue >= Tissue.MS_LESION
        spread = options.tissue_variation if brain_like else _EXTRACRANIAL_VARIATION
        signals[tissue] = _SIGNAL[contrast][tissue] * np.exp(spread * rng.standard_normal())
    return signals / signals[Tissue.WHITE_MATTER]


def sharpen_fractions(fractions: NDArray[np.float32], csf_weight: float) -> NDArray[np.float32]:
    """Turns a population's tissue probabilities `[3, x, y, z]` into one brain's fractions.

    An average of 152 brains blurs gyri and all but hides sulcal CSF; squaring the probabilities and weighting CSF
    brings back the borders of a single brain. What lies outside the brain stays 0.
    """
    sharp = np.square(fractions)
    sharp[0] *= csf_weight
    total = sharp.sum(axis=0)
    sharp /= np.maximum(total, 1e-6)
    return sharp


def render_signal(
    head: Head,
    surroundings: NDArray[np.uint8],
    fractions: NDArray[np.float32],
    overlays: list[Overlay],
    signals: NDArray[np.float32],
    options: ContrastOptions,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Returns the signal `[X, Y, Z]` of the undeformed head in one contrast, relative to white matter."""
    image = signals[surroundings]
    brain = sum(signals[tissue] * fractions[i] for i, tissue in enumerate(_BRAIN))
    for overlay in overlays:
        brain += overlay.fraction * overlay.gain * (signals[overlay.tissue] - brain)
    image[head.box] = np.where(head.brain, brain, image[head.box])
    texture = upsampled_noise(head.shape, head.step, _TEXTURE_SCALE_MM, rng)
    image *= 1 + options.texture * texture
    return np.maximum(image, 0)

"""Random heads: what the brain network learns from. Known anatomy, unknown everything else.

The anatomy is the template head of `data.synthetic.anatomy`. Each example warps it, gives every tissue a random signal,
and scans it badly: random bias, thick slices, noise and fields of view that cut the head. A network that has seen no
contrast in particular has to find the brain by its shape (Hoopes et al., SynthStrip, NeuroImage 260 (2022) 119474).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from data.synthetic.anatomy import Shells, Tissue, draw_surroundings, load_head

_STEP = 2
_BRAIN_OFFSET = 16
"""Added to the code of a tissue that is part of the brain: fluid outside the brain is not fluid in it."""
_CODES = 2 * _BRAIN_OFFSET


@dataclass(frozen=True)
class HeadCodes:
    """Tissue codes `[X, Y, Z]` uint8 of one head at 2 mm, and `[4, 4]` their affine to template mm."""

    codes: NDArray[np.uint8]
    affine: NDArray[np.float64]


def draw_head_codes(rng: np.random.Generator) -> HeadCodes:
    """Draws a head: the template's brain in random shells of fluid, bone and scalp."""
    head = load_head(_STEP)
    shells = Shells(csf=rng.uniform(0.5, 6.0), skull=rng.uniform(2.5, 10.0), scalp=rng.uniform(2.5, 13.0))
    codes = draw_surroundings(head, shells, rng).copy()
    brain = np.argmax(head.fractions, axis=0).astype(np.uint8) + Tissue.CSF + _BRAIN_OFFSET
    box = codes[head.box]
    box[head.brain] = brain[head.brain]
    return HeadCodes(codes, head.affine)


@dataclass(frozen=True)
class RandomScan:
    """One example: `image` `[1, X, Y, Z]` from 0 to 1 and `brain` `[1, X, Y, Z]`, the share of brain in each voxel."""

    image: Tensor
    brain: Tensor


def draw_scan(head: HeadCodes, shape: tuple[int, int, int], spacing: float, rng: np.random.Generator) -> RandomScan:
    """Draws one scan of a head on a grid of `shape` voxels of `spacing` mm."""
    fine = tuple(2 * n for n in shape)
    codes = _sample(head, _positions(fine, spacing / 2, rng))
    signal = _signal(codes, rng)
    signal = _bias(signal, rng)
    signal = _slices(signal, spacing / 2, rng)
    image = functional.avg_pool3d(signal[None, None], 2)[0]
    brain = functional.avg_pool3d((codes >= _BRAIN_OFFSET).float()[None, None], 2)[0]
    image = _noise(image, rng)
    image, brain = _field_of_view(image, brain, spacing, rng)
    return RandomScan(normalised(image) ** float(np.exp(rng.normal(0, 0.25))), brain)


def normalised(image: Tensor) -> Tensor:
    """Maps the 0.5th and 99.5th percentile to 0 and 1 and clips: what the network expects."""
    values = image.flatten()
    stride = max(1, values.numel() // 200_000)
    low, high = torch.quantile(values[::stride], torch.tensor([0.005, 0.995])).tolist()
    return ((image - low) / max(high - low, 1e-6)).clamp(0, 1)


def _positions(shape: tuple[int, ...], step: float, rng: np.random.Generator) -> Tensor:
    """Draws a pose and a smooth warp: template mm `[X, Y, Z, 3]` of each voxel of the scan."""
    lines = [(torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * step for n in shape]
    points = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)
    turn = Rotation.from_euler("xyz", rng.normal(0, [14, 6, 6]), degrees=True).as_matrix()
    size = np.diag(1 / rng.uniform(0.85, 1.2, 3)) @ (np.eye(3) + rng.normal(0, 0.03, (3, 3)))
    matrix = torch.tensor(turn @ size, dtype=torch.float32)
    # The middle of the field of view lies around the middle of the brain, lower where a neck is in view.
    middle = np.array([0, -18, 5]) + rng.normal(0, [6, 12, 12]) - [0, 0, 30 * (rng.random() < 0.4)]
    warped = points @ matrix.T + torch.tensor(middle, dtype=torch.float32)
    for knots, amplitude in ((24.0, 2.0), (48.0, 4.0)):
        size_of = [max(3, round(n * step / knots)) for n in shape]
        strength = amplitude * rng.uniform(0, 1.5)
        lattice = torch.tensor(rng.normal(0, strength, (1, 3, *size_of)), dtype=torch.float32)
        warped += functional.interpolate(lattice, shape, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0)
    return warped


def _sample(head: HeadCodes, positions: Tensor) -> Tensor:
    """Looks the codes up at template positions; air outside."""
    inverse = torch.tensor(np.linalg.inv(head.affine), dtype=torch.float32)
    index = (positions @ inverse[:3, :3].T + inverse[:3, 3]).round_().to(torch.int32)
    limit = torch.tensor(head.codes.shape, dtype=torch.int32) - 1
    inside = ((index >= 0) & (index <= limit)).all(dim=-1)
    index = torch.minimum(index.clamp_(min=0), limit).long()
    # Below the drawn head the neck continues.
    inside |= (positions[..., 2] < float(head.affine[2, 3])) & (
        (index[..., :2] > 0) & (index[..., :2] < limit[:2])
    ).all(dim=-1)
    codes = torch.from_numpy(head.codes)[index[..., 0], index[..., 1], index[..., 2]]
    return torch.where(inside, codes, torch.zeros_like(codes))


def _signal(codes: Tensor, rng: np.random.Generator) -> Tensor:
    """Gives each tissue a random signal with a smooth texture, and the brain some lesions."""
    means = rng.uniform(0.05, 1.0, _CODES)
    means[Tissue.AIR] = 0.0 if rng.random() < 0.9 else rng.uniform(0, 0.3)
    if rng.random() < 0.8:
        means[Tissue.BONE] = rng.uniform(0, 0.25)
    if rng.random() < 0.6:
        # As in most sequences: fluid is one thing inside and outside, and grey and white matter are not far apart.
        brain = _BRAIN_OFFSET + np.array([Tissue.CSF, Tissue.GREY_MATTER, Tissue.WHITE_MATTER])
        means[Tissue.CSF] = means[brain[0]]
        means[brain[1]] = means[brain[2]] * rng.uniform(0.6, 1.5)
    if rng.random() < 0.3:
        means[_BRAIN_OFFSET:] *= 0.6
    table = torch.tensor(means, dtype=torch.float32)
    signal = table[codes.long()]
    lesions = _blobs(tuple(codes.shape), rng)
    signal = torch.where((lesions > 0) & (codes >= _BRAIN_OFFSET), lesions, signal)
    spread = torch.tensor(rng.uniform(0, 0.12, _CODES), dtype=torch.float32)
    spread[:_BRAIN_OFFSET] *= 2.5
    spread[Tissue.AIR] = 0
    texture = _smooth_noise(tuple(codes.shape), int(rng.integers(2, 6)), rng)
    return (signal + spread[codes.long()] * texture).clamp_(min=0)


def _blobs(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Draws up to three ellipsoids anywhere, each of one signal; 0 elsewhere."""
    blobs = torch.zeros(shape)
    for _ in range(int(rng.integers(0, 4))):
        centre = [rng.uniform(0.2, 0.8) * n for n in shape]
        radius = rng.uniform(3, 16, 3)
        lines = [((torch.arange(n) - c) / r) ** 2 for n, c, r in zip(shape, centre, radius, strict=True)]
        inside = lines[0][:, None, None] + lines[1][None, :, None] + lines[2][None, None] < 1
        blobs[inside] = float(rng.uniform(0.05, 1.2))
    return blobs


def _smooth_noise(shape: tuple[int, ...], factor: int, rng: np.random.Generator) -> Tensor:
    lattice = torch.from_numpy(rng.standard_normal([max(2, n // factor) for n in shape], dtype=np.float32))
    return functional.interpolate(lattice[None, None], shape, mode="trilinear", align_corners=True)[0, 0]


def _bias(signal: Tensor, rng: np.random.Generator) -> Tensor:
    lattice = torch.tensor(rng.normal(0, rng.uniform(0, 0.4), (1, 1, 4, 5, 5)), dtype=torch.float32)
    return signal * functional.interpolate(lattice, signal.shape, mode="trilinear", align_corners=True)[0, 0].exp()


def _slices(signal: Tensor, step: float, rng: np.random.Generator) -> Tensor:
    """Averages over thick slices along one axis, mostly head to foot, and interpolates between them."""
    if rng.random() < 0.35:
        return signal
    axis = int(rng.choice(3, p=[0.15, 0.15, 0.7]))
    thickness = max(1, round(rng.uniform(3.0, 7.0) / step))
    kernel = [thickness if a == axis else 1 for a in range(3)]
    shape = signal.shape
    thick = functional.avg_pool3d(signal[None, None], kernel, ceil_mode=True)
    return functional.interpolate(thick, shape, mode="trilinear", align_corners=False)[0, 0]


def _noise(image: Tensor, rng: np.random.Generator) -> Tensor:
    level = 0.08 * rng.uniform(0, 1) ** 2
    real, imaginary = (torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32)) for _ in range(2))
    if rng.random() < 0.15:
        image = functional.avg_pool3d(image[None], 3, stride=1, padding=1)[0]
    return torch.hypot(image + level * real, level * imaginary)


def _field_of_view(image: Tensor, brain: Tensor, spacing: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cuts the scan off on some sides; beyond it there is no signal."""
    image, brain = image.clone(), brain.clone()
    found = torch.nonzero(brain[0] > 0.5)
    if not len(found):
        return image, brain
    low, high = found.min(dim=0).values.tolist(), found.max(dim=0).values.tolist()
    for axis in range(3):
        for end in (0, 1):
            if rng.random() > 0.5:
                continue
            inside = 12.0 if axis == 2 else 3.0
            room = rng.uniform(-inside, 25.0) / spacing
            cut = round(low[axis] - room) if end == 0 else round(high[axis] + room) + 1
            size = image.shape[axis + 1]
            gone = slice(0, max(0, cut)) if end == 0 else slice(min(size, cut), size)
            index = [slice(None)] * 4
            index[axis + 1] = gone
            image[tuple(index)] = 0
            brain[tuple(index)] = 0
    return image, brain

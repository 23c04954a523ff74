"""Augmentation of training patches by MONAI's transforms, seeded for each patch separately."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from data.options import Options
from models.heads import IGNORED

_ELASTIC_SCALE = 6.0
"""Gaussian scale of the elastic deformation in voxels."""


class AugmentationOptions(Options):
    """Transforms of training patches: probability for each patch, and strength."""

    affine: float = Field(default=0.5, ge=0, le=1)
    """Probability of a rotation and scaling."""
    rotation: float = Field(default=15.0, ge=0, le=180)
    """Largest rotation about each axis in degrees."""
    scaling: float = Field(default=0.15, ge=0, lt=1)
    """Largest relative change of size."""
    elastic: float = Field(default=0.0, ge=0, le=1)
    """Probability of a smooth random deformation (slow)."""
    elastic_magnitude: float = Field(default=1.5, ge=0)
    """Largest standard deviation of the displacement along each axis, in voxels."""
    flip_axes: tuple[int, ...] = ()
    """Axes (0 left-right, 1 back-front, 2 down-up) that may be mirrored, as far as the anatomy allows."""
    noise: float = Field(default=0.2, ge=0, le=1)
    """Probability of Gaussian noise."""
    noise_level: float = Field(default=0.1, ge=0)
    """Largest standard deviation of the noise, in the units of the scaled image."""
    blur: float = Field(default=0.1, ge=0, le=1)
    """Probability of Gaussian smoothing (0.5 to 1 voxel)."""
    brightness: float = Field(default=0.3, ge=0, le=1)
    """Probability of a multiplicative change of intensity (up to 25 %)."""
    gamma: float = Field(default=0.2, ge=0, le=1)
    """Probability of a gamma change (0.7 to 1.5)."""
    low_resolution: float = Field(default=0.1, ge=0, le=1)
    """Probability of downsampling and upsampling again (zoom 0.5 to 1)."""


class Augmentation:
    """Applies the transforms to an image and its label; if all probabilities are 0, the patch stays unchanged.

    Args:
        options: the transforms.
        soft: whether labels are `soft` targets with a weight, which are interpolated, and not codes.
    """

    def __init__(self, options: AugmentationOptions, soft: bool = False) -> None:
        # MONAI takes seconds to import, and a configuration needs only the options of this file.
        from monai.transforms import (
            Compose,
            Rand3DElasticd,
            RandAdjustContrastd,
            RandAffined,
            RandFlipd,
            RandGaussianNoised,
            RandGaussianSmoothd,
            RandomizableTransform,
            RandScaleIntensityd,
            RandSimulateLowResolutiond,
        )

        image = ["image"]
        # Key → interpolation, and what is beyond the patch. Keys do not change what is drawn.
        moved = {"image": ("bilinear", "border"), "label": ("nearest", "zeros")}
        if soft:
            moved |= {"label": ("bilinear", "border"), "weight": ("bilinear", "zeros")}
        both, (modes, padding) = list(moved), zip(*moved.values(), strict=True)
        transforms: list[RandomizableTransform] = []
        if options.affine:
            angle = math.radians(options.rotation)
            transforms.append(
                RandAffined(
                    both,
                    prob=options.affine,
                    rotate_range=[angle] * 3,
                    scale_range=[options.scaling] * 3,
                    mode=modes,
                    padding_mode=padding,
                )
            )
        if options.elastic:
            # MONAI smooths uniform noise, which reduces its deviation of 1/√3 by (2√π σ)^(3/2), and then multiplies it.
            shrinking = math.sqrt(3) * (2 * math.sqrt(math.pi) * _ELASTIC_SCALE) ** 1.5
            magnitude = (0.0, options.elastic_magnitude * shrinking)
            transforms.append(
                Rand3DElasticd(
                    both,
                    sigma_range=(_ELASTIC_SCALE, _ELASTIC_SCALE),
                    magnitude_range=magnitude,
                    prob=options.elastic,
                    mode=modes,
                    padding_mode=padding,
                )
            )
        transforms += [RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in options.flip_axes]
        if options.blur:
            width = (0.5, 1.0)
            blur = RandGaussianSmoothd(image, sigma_x=width, sigma_y=width, sigma_z=width, prob=options.blur)
            transforms.append(blur)
        if options.low_resolution:
            transforms.append(RandSimulateLowResolutiond(image, prob=options.low_resolution, zoom_range=(0.5, 1.0)))
        if options.brightness:
            transforms.append(RandScaleIntensityd(image, factors=0.25, prob=options.brightness))
        if options.gamma:
            transforms.append(RandAdjustContrastd(image, prob=options.gamma, gamma=(0.7, 1.5), retain_stats=True))
        if options.noise:
            transforms.append(RandGaussianNoised(image, prob=options.noise, std=options.noise_level))
        self._compose = Compose(transforms) if transforms else None

    def __call__(self, image: torch.Tensor, label: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Transforms `[C, X, Y, Z]` and codes `[X, Y, Z]`; the result is a function of the patch and the seed.

        Where a rotation, a zoom or a deformation takes from beyond the patch, the image repeats its edge and nothing is
        annotated.
        """
        if self._compose is None:
            return image, label
        # MONAI fills with zeros what lies beyond the patch, so zero has to stand for voxels without annotation.
        moved = self._transformed(seed, image=image, label=label[None] - IGNORED)
        return moved["image"].to(torch.float32), moved["label"][0].round().to(torch.int64) + IGNORED

    def soft(
        self, image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Transforms an image `[C, X, Y, Z]`; its target `[K, X, Y, Z]` and weight `[1, X, Y, Z]` only move along.

        They move as labels do with the same seed. What is taken from beyond the patch has no weight.
        """
        if self._compose is None:
            return image, target, weight
        moved = self._transformed(seed, image=image, label=target, weight=weight)
        return moved["image"].to(torch.float32), moved["label"], moved["weight"]

    def _transformed(self, seed: int, **arrays: torch.Tensor) -> dict[str, torch.Tensor]:
        from monai.utils import convert_to_tensor

        assert self._compose is not None
        # MONAI's generators take 32 bits.
        self._compose.set_random_state(seed=seed % (2**32 - 1))
        result = self._compose(dict(arrays))
        # MONAI returns tensors with metadata; the network needs plain ones.
        return {name: convert_to_tensor(result[name], track_meta=False) for name in arrays}

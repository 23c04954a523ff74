"""Patches of unlabelled scans with soft labels: what was predicted in the scan as it is, moved with the patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from data.random_streams import random_stream, stream_seed
from models.heads import Heads
from models.soft_targets import uncertainty_weight
from pipeline.arms.unlabelled_use import SelfTrainingOptions, Weighting
from pipeline.prediction.posterior_average import entropy
from pipeline.prediction.stored_prediction import INFORMATION, LOG_PROBABILITY
from pipeline.prediction.temperature import from_log_probability
from pipeline.storage.cached_case import CachedCase
from pipeline.training.augmentation import Augmentation
from pipeline.training.patches import PatchOptions, patch_start

SoftBatch = tuple[Tensor, Tensor, list[str]]
"""Images `[N, C, *size]`, soft targets `[N, K + 1, *size]` whose last channel is the weight, names of the cases."""


def uncertainty_of(probability: Tensor, information: Tensor | None, heads: Heads) -> Tensor:
    """Returns `[X, Y, Z]` mutual information in nats, or the entropy of the prediction where there is none."""
    return entropy(probability, heads) if information is None else information.float()


@dataclass(frozen=True)
class PseudoCase:
    """An unlabelled scan with what was predicted in it.

    Attributes:
        case: the scan.
        prediction: file of the prediction.
        foreground: `[M, 3]` voxels of the predicted structures.
        scale: mean uncertainty, nats.
        options: how voxels are weighted.
    """

    case: CachedCase
    prediction: Path
    foreground: NDArray[np.int32]
    scale: float
    options: SelfTrainingOptions

    def patch(self, start: NDArray[np.integer], size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Reads a patch that begins at `start`; it may reach beyond the volume, where nothing has a weight.

        Returns:
            Image `[C, *size]`, probabilities `[K, *size]` and weight `[1, *size]`, float32.
        """
        part = self.case.part(start, size)
        with safe_open(self.prediction, framework="pt") as stream:
            logarithm = stream.get_slice(LOG_PROBABILITY)[(slice(None), *part.box)]
            known = INFORMATION in stream.keys()  # noqa: SIM118
            information = stream.get_slice(INFORMATION)[part.box] if known else None
        probability = from_log_probability(logarithm, 1.0, self.case.heads)
        weight = functional.pad(self._weight(probability, information), part.pads) * self.case.in_scan(part)
        if any(part.pads):
            probability = functional.pad(probability[None], part.pads, mode="replicate")[0]
        return self.case.image_patch(part), probability, weight[None]

    def _weight(self, probability: Tensor, information: Tensor | None) -> Tensor:
        heads = self.case.heads
        match self.options.weighting:
            case Weighting.NONE:
                return torch.ones_like(probability[0])
            case Weighting.CONFIDENCE:
                alternatives = probability if heads is Heads.EXCLUSIVE else torch.maximum(probability, 1 - probability)
                return alternatives.amax(0) if heads is Heads.EXCLUSIVE else alternatives.mean(0)
            case Weighting.MUTUAL_INFORMATION:
                uncertainty = uncertainty_of(probability, information, heads)
                return uncertainty_weight(uncertainty, self.scale, self.options.sharpness)


@dataclass(frozen=True)
class PseudoSampler:
    """Draws augmented batches of unlabelled scans, a function of seed and step.

    The target is what was predicted in the scan as it is; only the geometric part of the augmentation moves it.

    Attributes:
        cases: the scans that entered.
        options: size and sampling of the patches; the batch is that of unlabelled patches.
        augmentation: with `soft` targets.
        seed: of all draws.
    """

    cases: Sequence[PseudoCase]
    options: PatchOptions
    augmentation: Augmentation
    seed: int

    @property
    def voxels(self) -> int:
        """Voxels of the scans."""
        return sum(math.prod(own.case.shape) for own in self.cases)

    def batch(self, step: int) -> SoftBatch:
        """Draws the batch of a step."""
        images, targets, names = [], [], []
        for item in range(self.options.batch):
            generator = random_stream(self.seed, "patch", step, item)
            own = self.cases[int(generator.integers(len(self.cases)))]
            start = patch_start(own.case, own.foreground, self.options, generator)
            seed = stream_seed(self.seed, "augmentation", step, item)
            image, probability, weight = self.augmentation.soft(*own.patch(start, self.options.size), seed)
            images.append(image)
            targets.append(torch.cat([probability, weight]))
            names.append(own.case.name)
        return torch.stack(images), torch.stack(targets), names

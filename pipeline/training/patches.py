"""Drawing patches: every batch is a function of (seed, step) only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from pydantic import Field

from data.options import Options
from data.random_streams import random_stream, stream_seed
from pipeline.storage.cached_case import CachedCase
from pipeline.training.augmentation import Augmentation
from pipeline.training.source_translation import SourcePatch, SourceTranslation

Batch = tuple[torch.Tensor, torch.Tensor, list[str]]
"""Images `[N, C, *size]` float32, label codes `[N, *size]` int64, and the names of the cases."""


class PatchOptions(Options):
    """Size and sampling of the training patches."""

    size: tuple[int, int, int] = (64, 64, 64)
    """Voxels of a patch along each axis; if larger than a volume, the whole volume is used."""
    batch: int = Field(default=2, ge=1)
    """Patches in a step."""
    foreground_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the patches centred on a foreground voxel; 0 draws without bias (needed for an ELBO)."""


class BatchSampler(Protocol):
    """Draws the batch of a step."""

    @property
    def voxels(self) -> int:
        """N_vox: annotated voxels of the training scans, each case once; padding of patches is none."""

    def batch(self, step: int) -> Batch:
        """Draws the batch of a step, a function of the step."""


class PatchSampler:
    """Draws augmented batches.

    Args:
        patients: the cases of each patient; a patient that a bootstrap sample holds twice is listed twice.
        options: size, number and sampling of the patches.
        augmentation: applied to each patch.
        seed: all draws are a function of it and of the step.
        process: number of this process among those that train together.
        processes: number of these; each draws its part of every batch.
        translation: of patches of a source, before they are augmented.
    """

    def __init__(
        self,
        patients: Sequence[Sequence[CachedCase]],
        options: PatchOptions,
        augmentation: Augmentation,
        seed: int,
        process: int = 0,
        processes: int = 1,
        translation: SourceTranslation | None = None,
    ) -> None:
        self._patients = patients
        self._options = options
        self._augmentation = augmentation
        self._seed = seed
        self._translation = translation
        self._items = range(process, options.batch, processes)

    @property
    def voxels(self) -> int:
        """N_vox: annotated voxels of the training scans, each case once; padding of patches is none."""
        cases = {case.name: case for cases in self._patients for case in cases}
        return sum(case.annotated_voxels for case in cases.values())

    def batch(self, step: int) -> Batch:
        """Draws the batch of a step."""
        images, labels, names = [], [], []
        for item in self._items:
            generator = random_stream(self._seed, "patch", step, item)
            cases = self._patients[int(generator.integers(len(self._patients)))]
            case = cases[int(generator.integers(len(cases)))]
            start = patch_start(case, case.foreground, self._options, generator)
            image, label = case.patch(start, self._options.size)
            if self._translation is not None:
                drawn = SourcePatch(case, start, image, label)
                image = self._translation(drawn, stream_seed(self._seed, "translation", step, item))
            image, label = self._augmentation(image, label, stream_seed(self._seed, "augmentation", step, item))
            images.append(image)
            labels.append(label)
            names.append(case.name)
        return torch.stack(images), torch.stack(labels), names


def patch_start(
    case: CachedCase, foreground: np.ndarray, options: PatchOptions, generator: np.random.Generator
) -> np.ndarray:
    """Draws where a patch begins, `[3]`.

    Args:
        case: whose patch it is.
        foreground: `[M, 3]` voxels, on one of which the patch is centred as often as the options say.
        options: size and sampling.
        generator: of the draw.
    """
    shape, size = np.asarray(case.shape), np.asarray(options.size)
    if generator.random() < options.foreground_share and len(foreground):
        start = foreground[generator.integers(len(foreground))] - size // 2
    else:
        start = generator.integers(0, np.maximum(shape - size, 0) + 1)
    # A patch stays inside the volume if it fits; a smaller volume is centred in the patch.
    return np.where(shape > size, np.clip(start, 0, np.maximum(shape - size, 0)), -((size - shape) // 2))

"""Translating patches of the source while source networks are trained: a function of the patch and its seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.random_streams import random_stream
from models.translation.fourier_amplitude import swap_amplitudes
from models.translation.histogram_matching import match_quantiles
from models.translation.random_contrast import random_contrast, tissue_classes
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.cached_image import CachedImage
from pipeline.storage.tensors import load_arrays, load_tensors
from pipeline.training.translation_options import (
    FourierMatching,
    HistogramMatching,
    RandomContrast,
    Reference,
    TranslationOptions,
)

_ValueT = TypeVar("_ValueT")

STATISTICS = "statistics.safetensors"
"""What a translation knows of scans, by name: `source.CASE.WHAT` and `target.CASE.WHAT`."""


@dataclass(frozen=True)
class SourcePatch:
    """A patch of the source.

    Attributes:
        case: whose it is.
        start: voxel at which it begins, `[3]`.
        image: `[C, X, Y, Z]`.
        label: codes `[X, Y, Z]`.
    """

    case: CachedCase
    start: NDArray[np.integer]
    image: Tensor
    label: Tensor

    @cached_property
    def content(self) -> Tensor:
        """Where the patient's content is, `[X, Y, Z]` bool."""
        part = self.case.part(self.start, self.image.shape[1:])
        return CachedImage.of(self.case).content_patch(part)


class PatchTranslation(Protocol):
    """Gives a patch of the source another appearance."""

    def __call__(self, patch: SourcePatch, generator: np.random.Generator) -> Tensor:
        """Returns the image of the patch, `[C, X, Y, Z]`; what lies outside the content does not matter."""


@dataclass(frozen=True)
class _ToHistogram:
    source: Mapping[str, NDArray[np.float32]]
    target: Sequence[NDArray[np.float32]]

    def __call__(self, patch: SourcePatch, generator: np.random.Generator) -> Tensor:
        wanted = self.target[int(generator.integers(len(self.target)))]
        return match_quantiles(patch.image, self.source[patch.case.name], wanted)


@dataclass(frozen=True)
class _ToAmplitudes:
    targets: Sequence[CachedImage]
    beta: float

    def __call__(self, patch: SourcePatch, generator: np.random.Generator) -> Tensor:
        target = self.targets[int(generator.integers(len(self.targets)))]
        size = patch.image.shape[1:]
        start = _same_place(patch, target.shape)
        return swap_amplitudes(patch.image, target.image_patch(target.part(start, size)), self.beta)


def _same_place(patch: SourcePatch, shape: Sequence[int]) -> NDArray[np.int64]:
    """Where a patch begins whose middle divides a volume as the middle of the source patch divides its own."""
    half = np.asarray(patch.image.shape[1:]) / 2
    middle = (np.asarray(patch.start) + half) / np.asarray(patch.case.shape)
    return np.floor(middle * np.asarray(shape) - half + 0.5).astype(np.int64)


@dataclass(frozen=True)
class _ToRandomContrast:
    tissue: Mapping[str, Mapping[str, Tensor]]
    options: RandomContrast

    def __call__(self, patch: SourcePatch, generator: np.random.Generator) -> Tensor:
        own = self.tissue[patch.case.name]
        classes = tissue_classes(patch.image, own["centres"])
        drawn = random_contrast(classes, patch.label, own["shares"], len(patch.image), self.options, generator)
        mean, deviation = (own[what][:, None, None, None] for what in ("mean", "deviation"))
        return drawn * deviation + mean


@dataclass(frozen=True)
class SourceTranslation:
    """Translates a share of the patches.

    Attributes:
        translation: gives a patch another appearance.
        share: of the patches that are translated.
    """

    translation: PatchTranslation
    share: float

    def __call__(self, patch: SourcePatch, seed: int) -> Tensor:
        """Returns the image of the patch, translated or as it is; a function of the patch and the seed."""
        generator = random_stream(seed, "source translation")
        if generator.random() >= self.share:
            return patch.image
        # Around the content lies what preprocessing put there, in source and target alike.
        return torch.where(patch.content, self.translation(patch, generator), patch.image).to(patch.image.dtype)


@dataclass(frozen=True)
class TranslationInputs:
    """What a source network's training needs to translate its patches.

    Attributes:
        folder: of the unit that prepared the translation.
        options: of the translation.
        targets: the target scans that it may use.
    """

    folder: Path
    options: TranslationOptions
    targets: Sequence[CachedImage]

    def open(self) -> SourceTranslation:
        """Reads what was prepared.

        Raises:
            WorkspaceError: a file is missing or damaged.
        """
        return SourceTranslation(_translation(self), self.options.share)


def _translation(inputs: TranslationInputs) -> PatchTranslation:
    options, path = inputs.options, inputs.folder / STATISTICS
    if isinstance(options, HistogramMatching):
        arrays = load_arrays(path)
        target = [values for name, values in sorted(arrays.items()) if name.startswith("target.")]
        if options.reference is Reference.POOLED:
            target = [np.mean(target, axis=0)]
        return _ToHistogram(_of_cases(arrays, "quantiles"), target)
    if isinstance(options, FourierMatching):
        return _ToAmplitudes(inputs.targets, options.beta)
    tensors = load_tensors(path)
    known = {what: _of_cases(tensors, what) for what in ("centres", "shares", "mean", "deviation")}
    cases = known["centres"]
    return _ToRandomContrast({case: {what: own[case] for what, own in known.items()} for case in cases}, options)


def _of_cases(values: Mapping[str, _ValueT], what: str) -> dict[str, _ValueT]:
    """Source case → one kind of its statistics."""
    ends = f".{what}"
    return {
        name.removeprefix("source.").removesuffix(ends): value
        for name, value in values.items()
        if name.startswith("source.") and name.endswith(ends)
    }

"""What a translation does, in numbers and pictures: distances of patches, and slices of scans before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.random_streams import random_stream
from models.kernel_distance import RandomFeatureMap, median_distance, squared_mmd
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.cached_image import CachedImage
from pipeline.training.patches import PatchOptions, patch_start
from pipeline.training.source_translation import PatchTranslation, SourcePatch, SourceTranslation
from pipeline.training.translation_record import KernelDistances

_PATCHES = 64
"""Of each sample."""
_LARGEST_PATCH = 32
_PICTURED = 3
_TRIES = 20
_NOTHING = np.zeros((0, 3), dtype=np.int32)
"""Foreground that no patch is centred on."""


def kernel_distances(
    source: Sequence[CachedCase], targets: Sequence[CachedImage], translation: PatchTranslation, patch: Sequence[int],
    seed: int,
) -> KernelDistances:  # fmt: skip
    """Measures how far patches of the source are from those of the target, as they are and translated.

    All lie around content of the scans. The kernel is as wide as the median distance of two target patches.
    """
    size = tuple(min(n, _LARGEST_PATCH) for n in patch)
    features = RandomFeatureMap(targets[0].channels)
    every = SourceTranslation(translation, 1.0)
    before, after, wanted = [], [], []
    for number in range(_PATCHES):
        generator = random_stream(seed, "distance", number)
        own, start = _draw(source, size, generator)
        drawn = SourcePatch(own, start, *own.patch(start, size))
        before.append(features(drawn.image[None])[0])
        after.append(features(every(drawn, int(generator.integers(2**63 - 1)))[None])[0])
        target, start = _draw(targets, size, generator)
        wanted.append(features(target.image_patch(target.part(start, size))[None])[0])
    first, second, third = torch.stack(before), torch.stack(after), torch.stack(wanted)
    width = median_distance(third)
    return KernelDistances(
        before=squared_mmd(first, third, width),
        after=squared_mmd(second, third, width),
        within=squared_mmd(third[::2], third[1::2], width),
        patches=_PATCHES,
    )


def _draw(
    cases: Sequence[CachedCase], size: tuple[int, ...], generator: np.random.Generator
) -> tuple[CachedCase, NDArray[np.int64]]:
    """Draws a case and where a patch begins whose middle voxel is content, if one is found in a few tries."""
    case = cases[int(generator.integers(len(cases)))]
    options, half = PatchOptions(size=size, foreground_share=0.0), np.asarray(size) // 2
    for _ in range(_TRIES):
        start = patch_start(case, _NOTHING, options, generator)
        if CachedImage.of(case).content_patch(case.part(start + half, (1, 1, 1))).any():
            break
    return case, start


def pictured_scans(
    source: Sequence[CachedCase], targets: Sequence[CachedImage], translation: PatchTranslation, seed: int
) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Slices through the middle of the first scans of different patients, and the names of the scans.

    The slices are `source` and `translated`, `[S, X, Y]` of the first channel of S source scans, and `target` of as
    many target scans, where there are any. Source scans are translated whole.
    All slices have the size of the largest scan.
    """
    own, others = (_of_different_patients(cases) for cases in (source, targets))
    size = np.max([case.shape for case in (*own, *others)], axis=0).tolist()
    every = SourceTranslation(translation, 1.0)
    found: dict[str, list[Tensor]] = {"source": [], "translated": [], "target": []}
    for number, case in enumerate(own):
        start = _centred(case, size)
        whole = SourcePatch(case, start, *case.patch(start, size))
        drawn = int(random_stream(seed, "picture", number).integers(2**63 - 1))
        found["source"].append(_middle_slice(whole.image))
        found["translated"].append(_middle_slice(every(whole, drawn)))
    for case in others:
        found["target"].append(_middle_slice(case.image_patch(case.part(_centred(case, size), size))))
    tensors = {name: torch.stack(slices) for name, slices in found.items() if slices}
    return tensors, {"source": [case.name for case in own], "target": [case.name for case in others]}


def _of_different_patients(cases: Sequence[Any]) -> list[Any]:
    first = {case.patient: case for case in reversed(cases)}
    return list(first.values())[::-1][:_PICTURED]


def _centred(case: CachedCase, size: Sequence[int]) -> NDArray[np.int64]:
    return (np.asarray(case.shape) - np.asarray(size)) // 2


def _middle_slice(image: Tensor) -> Tensor:
    return image[0, :, :, image.shape[-1] // 2].float().contiguous()

"""The best Dice that a grid allows: labels carried to it and back, as a perfect prediction would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.case import Case
from data.volume import Volume
from models.heads import Heads
from pipeline.metrics.overlap import count_voxels, dice
from pipeline.planning.fingerprint import Structures
from pipeline.planning.spacing import Spacing
from pipeline.prediction.native_maps import NativeMaps
from pipeline.prediction.native_mask import native_mask
from preprocessing.chain import Chain, PreprocessingOptions
from preprocessing.orientation import OrientationOptions
from preprocessing.resampling import ResamplingOptions
from preprocessing.subject import Subject

COARSE = 0.95
"""Below this median Dice a grid is too coarse for a structure to go unsaid."""


@dataclass(frozen=True)
class GridDice:
    """The best Dice of one structure.

    Attributes:
        median: over the annotated cases that were looked at.
        worst: of them.
    """

    median: float
    worst: float

    @property
    def too_coarse(self) -> bool:
        """Whether the grid costs more than can go unsaid."""
        return self.median < COARSE


def best_dice(cases: Sequence[Case], structures: Structures, spacing: Spacing) -> dict[str, GridDice]:
    """Carries the labels of annotated cases to a grid and back.

    Hard labels, turned and resampled as preprocessing does, and decided in native space as `graft predict` does. The
    alignment of heads, which turns them too, is left out: it takes a minute for each.

    Args:
        cases: annotated ones.
        structures: what is segmented.
        spacing: mm of the grid.

    Returns:
        Class → Dice; a class that occurs in no case is left out.

    Raises:
        DataError: a label cannot be read.
    """
    options = PreprocessingOptions(
        canonical_orientation=OrientationOptions(), resampling=ResamplingOptions(spacing=spacing)
    )
    found: dict[str, list[float]] = {}
    for case in cases:
        for name, value in _of_label(case.read_label(), structures, Chain(options)).items():
            found.setdefault(name, []).append(value)
    return {name: GridDice(float(np.median(found[name])), min(found[name])) for name in structures if name in found}


def _of_label(label: Volume, structures: Structures, chain: Chain) -> Mapping[str, float]:
    heads = Heads.of(structures)
    classes = heads.codes(label.array, structures)
    reference = label.with_array(classes)
    image = label.with_array(classes.astype(np.float32))
    carried, records = chain.apply(Subject("label", {"label": image}, reference))
    if carried.label is None:
        raise ValueError("a chain keeps the label of a subject")
    on_grid, maps = carried.label, NativeMaps(chain, records, carried.label.affine)
    numbers = range(1, len(structures) + 1)
    shares = (maps(torch.from_numpy(heads.belongs(on_grid.array, k).astype(np.float32))) for k in numbers)
    back = native_mask(shares, [heads.code(k) for k in numbers], heads=heads).array
    return {
        name: dice(count_voxels(heads.belongs(back, number), heads.belongs(classes, number)))
        for number, name in enumerate(structures, start=1)
        if heads.belongs(classes, number).any()
    }

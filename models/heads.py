"""How the output channels of a network stand for structures: exclusive classes, or regions that may overlap.

The label of a voxel is one integer, its code. For exclusive classes it is the number of the class, 0 for background.
For overlapping regions it is a set of bits, one for each region that holds the voxel. In both, `IGNORED` stands for a
voxel that nobody has annotated, in the scan or in what a patch adds around it. Whatever depends on the kind of the
heads is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

IGNORED = -1
"""Code of a voxel without annotation."""
MOST_REGIONS = 15
"""Regions whose bits a code can hold: label maps have 16 bits with a sign."""

Codes = TypeVar("Codes", NDArray[Any], Tensor)


class Heads(StrEnum):
    """What the output channels of a network stand for."""

    EXCLUSIVE = "exclusive"
    """Background and structures, with softmax: a voxel belongs to one of them."""
    OVERLAPPING = "overlapping"
    """One channel for each structure and none for the background, with sigmoids: a voxel belongs to any number of them
    (region-based training of Isensee et al. 2020, nnU-Net for Brain Tumor Segmentation, arXiv 2011.00848)."""

    @classmethod
    def of(cls, classes: Mapping[str, Sequence[int]]) -> Heads:
        """The heads for classes, given by their values in label maps: overlapping if two of them share a value."""
        values = [value for own in classes.values() for value in set(own)]
        return cls.EXCLUSIVE if len(values) == len(set(values)) else cls.OVERLAPPING

    def outputs(self, structures: int) -> int:
        """Number of output channels for a number of structures."""
        return structures + (self is Heads.EXCLUSIVE)

    def of_structure(self, outputs: Codes, number: int) -> Codes:
        """The channel of structure `number` (from 1) among outputs `[C, …]`."""
        return outputs[number if self is Heads.EXCLUSIVE else number - 1]

    def foreground(self, outputs: Codes) -> Codes:
        """The channels of the structures `[K, …]` among outputs `[C, …]`."""
        return outputs[1:] if self is Heads.EXCLUSIVE else outputs

    def probability(self, logits: Tensor, dim: int = 0) -> Tensor:
        """Returns probabilities of logits whose channels lie along `dim`."""
        return logits.softmax(dim=dim) if self is Heads.EXCLUSIVE else logits.sigmoid()

    def alternatives(self, probability: Codes) -> Codes:
        """Returns the probabilities of all that a voxel may be: overlapping structures are or are not, each by itself.

        Args:
            probability: `[C, …]`.

        Returns:
            `[C, …]` or, with overlapping structures, `[2 C, …]`; −Σ p log p of them is the entropy of the voxel.
        """
        if self is Heads.EXCLUSIVE:
            return probability
        both = [probability, 1 - probability]
        return torch.cat(both) if isinstance(probability, Tensor) else np.concatenate(both)

    def code(self, number: int) -> int:
        """The code of a voxel that belongs to structure `number` (from 1) alone."""
        return number if self is Heads.EXCLUSIVE else 2 ** (number - 1)

    def holds(self, labels: Codes, value: int) -> Codes:
        """Whether the voxels of a label map show the structure with this value; ignored ones show none.

        Values of overlapping structures are powers of two, and a voxel has the sum of those that hold it.
        """
        return labels == value if self is Heads.EXCLUSIVE else (labels > 0) & ((labels & value) != 0)

    def belongs(self, codes: Codes, number: int) -> Codes:
        """Whether voxels with these codes belong to structure `number` (from 1); ignored ones belong to none."""
        return self.holds(codes, self.code(number))

    def largest_entropy(self, structures: int) -> float:
        """The entropy in nats of a voxel of which nothing is known."""
        return math.log(structures + 1) if self is Heads.EXCLUSIVE else structures * math.log(2)

    def codes(
        self, label: NDArray[np.integer], classes: Mapping[str, Sequence[int]], ignored: Sequence[int] = ()
    ) -> NDArray[np.int64]:
        """Translates a label map.

        Args:
            label: any shape, values as they were drawn.
            classes: class name → values; class number k (from 1) is the k-th name.
            ignored: values of voxels without annotation.

        Returns:
            Codes of the same shape.
        """
        codes = np.zeros(label.shape, np.int64)
        for number, values in enumerate(classes.values(), start=1):
            inside = np.isin(label, list(values))
            codes[inside] = self.code(number) + (0 if self is Heads.EXCLUSIVE else codes[inside])
        if ignored:
            codes[np.isin(label, list(ignored))] = IGNORED
        return codes

    def likelihood(self, logits: Tensor, codes: Tensor) -> Tensor:
        """Negative log likelihood of the annotated voxels in nats: their mean, 0 if there is none.

        That of a voxel is its cross-entropy or, with overlapping structures, the sum of their binary cross-entropies.

        Args:
            logits: `[N, C, X, Y, Z]`.
            codes: `[N, X, Y, Z]` int64.
        """
        annotated = codes != IGNORED
        count = annotated.sum().clamp_min(1)
        if self is Heads.EXCLUSIVE:
            return functional.cross_entropy(logits, codes, ignore_index=IGNORED, reduction="sum") / count
        entropies = functional.binary_cross_entropy_with_logits(
            logits, self.truth(codes, logits.shape[1]).to(logits), reduction="none"
        )
        return (entropies * annotated[:, None]).sum() / count

    def truth(self, codes: Tensor, outputs: int) -> Tensor:
        """Returns bool `[N, C, X, Y, Z]` of codes `[N, X, Y, Z]`: which voxels belong to what a channel stands for."""
        first = 0 if self is Heads.EXCLUSIVE else 1
        return torch.stack([self.belongs(codes, number) for number in range(first, first + outputs)], dim=1)

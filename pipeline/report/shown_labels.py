"""Labels as the slice viewer of a case shows them: a byte for each voxel, and a name for each value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.heads import IGNORED, Heads

_MOST = 255
"""Values beside the background that a byte holds; what is rarer shares the last one."""


class ShownLabels:
    """Numbers the codes of one case in the order in which they appear, exclusive classes by their own numbers.

    Args:
        classes: names of the structures.
        heads: what codes stand for.
    """

    def __init__(self, classes: Sequence[str], heads: Heads) -> None:
        self._classes = tuple(classes)
        self._heads = heads
        known = range(1, len(classes) + 1) if heads is Heads.EXCLUSIVE else ()
        self._numbers: dict[int, int] = {0: 0} | {number: number for number in known}
        self.names: list[str] = list(classes) if known else []
        """What the values 1, 2, … stand for."""

    @property
    def ignored(self) -> int:
        """The value of voxels without annotation; 0 where there was none."""
        return self._numbers.get(IGNORED, 0)

    def numbers(self, codes: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Returns the values of codes `[X, Y, Z]`."""
        found, where = np.unique(codes, return_inverse=True)
        values = [self._number(int(code)) for code in found]
        return np.asarray(values, np.uint8)[where].reshape(codes.shape)

    def _number(self, code: int) -> int:
        if code not in self._numbers:
            self.names += [self._name(code)] if len(self.names) < _MOST else []
            self._numbers[code] = len(self.names)
        return self._numbers[code]

    def _name(self, code: int) -> str:
        if code == IGNORED:
            return "not annotated"
        named = enumerate(self._classes, start=1)
        held = [name for number, name in named if bool(self._heads.belongs(np.asarray(code), number))]
        return " and ".join(held)

"""Small preprocessed cases, for the tests of training, prediction and arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.execution.progress import ProgressFile
from pipeline.storage.cached_case import ARRAYS, CachedCase
from pipeline.storage.tensors import save_arrays

MakeCase = Callable[..., CachedCase]


@pytest.fixture
def make_case(tmp_path: Path) -> MakeCase:
    """Returns a function that writes a case: noise with a bright cube, which is the label (value 1)."""

    def make(
        name: str = "case",
        size: int = 16,
        *,
        image: NDArray | None = None,
        label: NDArray | None = None,
        corner: Sequence[int] = (4, 5, 6),
        classes: Mapping[str, Sequence[int]] | None = None,
        channels: int = 1,
        patient: str | None = None,
        labelled: bool = True,
    ) -> CachedCase:
        generator = np.random.default_rng(sum(map(ord, name)))
        if label is None:
            label = np.zeros((size, size, size), np.int16)
            label[tuple(slice(c, c + size // 3) for c in corner)] = 1
        if image is None:
            image = 2.0 * (label > 0) + generator.normal(0, 0.3, (channels, *label.shape))
        folder = tmp_path / "cases" / name
        arrays = {"image": image.astype(np.float32), "mask": np.ones_like(label, np.uint8)}
        if labelled:
            arrays["label"] = label.astype(np.int16)
        about = {"affine": np.diag([2.0, 2.0, 3.0, 1.0]).tolist(), "channels": ["T1"], "case": name}
        save_arrays(folder / ARRAYS, arrays, about)
        return CachedCase(name, patient or name, folder, classes or {"cube": (1,)})

    return make


class _StopsAfter(ProgressFile):
    """A command that is asked to stop when it has looked so often whether it is."""

    def __init__(self, path: Path, steps: int) -> None:
        super().__init__(path, saves=True)
        self._left = steps

    @property
    def stop_requested(self) -> bool:
        self._left -= 1
        return self._left <= 0


@pytest.fixture
def stops_after(tmp_path: Path) -> Callable[[int], ProgressFile]:
    """Returns a function that makes the progress of a training which is asked to stop after so many steps."""
    return lambda steps: _StopsAfter(tmp_path / "progress", steps)

"""Filter banks on disk: one table per group of layers, written and read in chunks, so that memory stays constant.

The file is an ordinary `.npy` of shape [snapshots, filters of a snapshot] whose fields are the columns of `FilterBank`:
`numpy.load(path, mmap_mode="r")["filters"]` is all filters.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from data.errors import WorkspaceError
from models.filter_bank import PROVENANCE, FilterBank
from models.filter_stream import FilterDraw, draw_filters
from models.filters import KERNEL_VOXELS
from pipeline.storage.atomic import temporary_sibling
from pipeline.storage.tensors import require_finite

CHUNK = 65_536
"""Filters in memory at a time: 7 MB of weights."""
ROW = np.dtype([("filters", "<f4", (KERNEL_VOXELS,)), *((name, "<i4") for name in PROVENANCE)])
"""One filter and where it comes from."""


def write_bank(path: Path, snapshots: Iterable[FilterBank], shape: tuple[int, int]) -> None:
    """Writes the filters of snapshots as they come, one snapshot in memory at a time.

    Args:
        path: of the bank.
        snapshots: the filters of one group of layers in each, ordered by network and time.
        shape: number of snapshots, and of the filters in each.

    Raises:
        ValueError: there are more or fewer filters; the file does not take its name.
    """
    left = shape[0]
    with temporary_sibling(path) as temporary:
        with temporary.open("wb") as stream:
            header = {"descr": npy.dtype_to_descr(ROW), "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(stream, header)
            for snapshot in snapshots:
                rows = np.empty(len(snapshot), ROW)
                for name, column in snapshot.to_tensors().items():
                    rows[name] = column.numpy()
                left -= 1
                if len(rows) != shape[1] or left < 0:
                    raise ValueError(f"{path}: {len(rows)} filters of a snapshot in a bank of {shape}")
                stream.write(rows.tobytes())
        if left:
            raise ValueError(f"{path}: {left} snapshots fewer than announced in a bank of {shape}")


@contextmanager
def _opened(path: Path) -> Iterator[NDArray[np.void]]:
    """The table of a file, of which nothing is read yet.

    Opened for each use: an open file keeps every page that was read in the memory of the process.
    """
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
        if table.dtype != ROW or table.ndim != 2:
            raise ValueError("it is not a table of filters")
    except (OSError, ValueError, EOFError) as error:
        raise WorkspaceError(
            f"{path}: cannot be read ({error})",
            expected="a filter bank of this version",
            fix="delete its folder and run `graft collect-filters` again",
        ) from error
    yield table


class StoredBank:
    """A filter bank on disk, read in chunks.

    Raises:
        WorkspaceError: the file is missing, damaged, or of an older layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as table:
            self._snapshot_rows = table.shape[1]
            firsts = np.array(table[:, 0]) if table.size else table[:0, :0].ravel()
        self.snapshots = [(int(row["network"]), int(row["snapshot"])) for row in firsts]

    def __len__(self) -> int:
        return len(self.snapshots) * self._snapshot_rows

    @property
    def networks(self) -> tuple[int, ...]:
        """Numbers of the source networks, ascending."""
        return tuple(sorted({network for network, _ in self.snapshots}))

    def count(self, networks: Collection[int] | None = None, *, last_snapshots: bool = False) -> int:
        """Returns the number of filters that `chunks` reads."""
        return sum(stop - start for start, stop in self._ranges(networks, last_snapshots))

    def count_above(self, norm_threshold: float) -> int:
        """Returns how many filters have an L2 norm above the threshold.

        Raises:
            WorkspaceError: the file is damaged.
        """
        ranges = self._ranges(None, last_snapshots=False)
        return sum(
            int((self._column(rows, "filters").norm(dim=1) > norm_threshold).sum())
            for rows in self._read(ranges, CHUNK)
        )

    def chunks(
        self, networks: Collection[int] | None = None, *, last_snapshots: bool = False, rows: int = CHUNK
    ) -> Iterator[FilterBank]:
        """Reads the filters in their order.

        Args:
            networks: those to read; by default all.
            last_snapshots: only the last snapshot of each network.
            rows: largest number of filters at a time.

        Raises:
            WorkspaceError: the file is damaged.
        """
        for chunk in self._read(self._ranges(networks, last_snapshots), rows):
            yield FilterBank.from_tensors({name: self._column(chunk, name) for name in ROW.names or ()})

    def load(self, networks: Collection[int] | None = None, *, last_snapshots: bool = False) -> FilterBank:
        """Reads all filters of some networks at once."""
        return FilterBank.concatenate(list(self.chunks(networks, last_snapshots=last_snapshots)))

    def draw(
        self,
        most: int,
        generator: torch.Generator | None,
        networks: Collection[int] | None = None,
        *,
        last_snapshots: bool = False,
        norm_threshold: float | None = None,
    ) -> FilterDraw:
        """Draws filters at random; it needs memory for the sample and one chunk.

        Args:
            most: size of the sample; all filters if there are fewer.
            generator: source of the draw.
            networks: those to draw from; by default all.
            last_snapshots: draw only from the last snapshot of each network.
            norm_threshold: filters with this L2 norm or less are left out; `None` keeps all.

        Raises:
            WorkspaceError: the file is damaged.
            ModelError: there is nothing to draw from.
        """
        return draw_filters(self.chunks(networks, last_snapshots=last_snapshots), most, generator, norm_threshold)

    def _ranges(self, networks: Collection[int] | None, last_snapshots: bool) -> Iterator[tuple[int, int]]:
        """Ranges of rows, joined where they touch: snapshots follow each other and have the same size."""
        last: dict[int, float] = {}
        for network, snapshot in self.snapshots:
            last[network] = max(snapshot, last.get(network, -math.inf))
        start = stop = 0
        for number, (network, snapshot) in enumerate(self.snapshots):
            wanted = networks is None or network in networks
            if not wanted or (last_snapshots and snapshot != last[network]):
                continue
            first = number * self._snapshot_rows
            if first != stop or stop == start:
                if stop > start:
                    yield start, stop
                start = first
            stop = first + self._snapshot_rows
        if stop > start:
            yield start, stop

    def _read(self, ranges: Iterable[tuple[int, int]], most: int) -> Iterator[NDArray[np.void]]:
        """The rows of ranges (first, one after the last), at most so many at a time."""
        for first, last in ranges:
            for start in range(first, last, most):
                yield self._rows(start, min(start + most, last))

    def _rows(self, start: int, stop: int) -> NDArray[np.void]:
        with _opened(self.path) as table:
            return np.array(table.reshape(-1)[start:stop])

    def _column(self, rows: NDArray[np.void], name: str) -> torch.Tensor:
        return require_finite(self.path, name, torch.from_numpy(np.ascontiguousarray(rows[name])))

"""Filter banks on disk: one table per group of layers, written and read in chunks, so that memory stays constant."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from data.errors import WorkspaceError
from models.filter_bank import FilterBank
from models.filter_stream import FilterDraw, draw_filters
from models.filters import KERNEL_VOXELS
from pipeline.storage.streamed_tensors import Column, count_rows, read_chunks, writing_table
from pipeline.storage.tensors import load_about

CHUNK = 65_536
"""Filters in memory at a time: 7 MB of weights."""
COLUMNS = {field.name: Column(torch.int32) for field in fields(FilterBank)} | {
    "filters": Column(torch.float32, (KERNEL_VOXELS,))
}


def write_bank(
    path: Path,
    snapshots: Iterable[FilterBank],
    order: Sequence[tuple[int, int]],
    snapshot_rows: int,
    about: Mapping[str, Any],
) -> None:
    """Writes the filters of snapshots as they come, one snapshot in memory at a time.

    Args:
        path: of the bank.
        snapshots: the filters of one group of layers in each.
        order: network and snapshot number of each, ordered by network and time.
        snapshot_rows: filters of one snapshot.
        about: further facts, JSON-able.
    """
    noted = {**about, "snapshot_rows": snapshot_rows, "snapshots": [list(pair) for pair in order]}
    with writing_table(path, COLUMNS, snapshot_rows * len(order), noted) as append:
        for snapshot in snapshots:
            append(snapshot.to_tensors())


class StoredBank:
    """A filter bank on disk, read in chunks.

    Raises:
        WorkspaceError: the file is missing, damaged, or of an older layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = count_rows(path, "filters")
        about = load_about(path)
        try:
            self._snapshot_rows = int(about["snapshot_rows"])
            self.snapshots = [(int(network), int(snapshot)) for network, snapshot in about["snapshots"]]
        except (KeyError, TypeError, ValueError) as error:
            raise WorkspaceError(
                f"{path}: does not state which snapshots it holds",
                expected="a filter bank of this version",
                fix="delete its folder and run `graft collect-filters` again",
            ) from error

    def __len__(self) -> int:
        return self._rows

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
        parts = read_chunks(self.path, ["filters"], ranges, CHUNK)
        return sum(int((tensors["filters"].norm(dim=1) > norm_threshold).sum()) for tensors in parts)

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
        names = [field.name for field in fields(FilterBank)]
        ranges = self._ranges(networks, last_snapshots)
        yield from map(FilterBank.from_tensors, read_chunks(self.path, names, ranges, rows))

    def load(self, networks: Collection[int] | None = None) -> FilterBank:
        """Reads all filters of some networks at once."""
        return FilterBank.concatenate(list(self.chunks(networks)))

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

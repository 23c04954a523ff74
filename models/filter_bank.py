"""Filters of one group of layers, gathered from many networks, with their provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from data.errors import ModelError
from models.filters import FilterLayer, FilterPositions, get_filters
from models.random_draws import random_rows


@dataclass(frozen=True)
class SourceState:
    """The state dict of one snapshot of one source network.

    Attributes:
        network: number of the source network.
        snapshot: number of the snapshot along its training, rising with time.
        parameters: its state dict.
    """

    network: int
    snapshot: int
    parameters: Mapping[str, Tensor]


PROVENANCE = ("layer", "out_index", "in_index", "network", "snapshot")
"""Columns that say where a filter came from."""
COLUMNS = ("filters", *PROVENANCE)


@dataclass(frozen=True)
class FilterBank:
    """Filters with their provenance.

    Attributes:
        filters: `[F, 27]` float32, raw weights.
        layer: `[F]` int64, index of the layer in `filter_layers(network)`.
        out_index: `[F]` int64, output channel.
        in_index: `[F]` int64, input channel.
        network: `[F]` int64, number of the source network.
        snapshot: `[F]` int64, number of the snapshot along its training.
        starts: `[F, 27]`, what each filter was at the start of its network; None where that is not known.
    """

    filters: Tensor
    layer: Tensor
    out_index: Tensor
    in_index: Tensor
    network: Tensor
    snapshot: Tensor
    starts: Tensor | None = None

    def __post_init__(self) -> None:
        if self.filters.ndim != 2:
            raise ModelError(f"a filter bank of shape {tuple(self.filters.shape)}", expected="(filters, kernel voxels)")
        if self.starts is not None and self.starts.shape != self.filters.shape:
            raise ModelError(f"starts of shape {tuple(self.starts.shape)} for filters of {tuple(self.filters.shape)}")
        for name in PROVENANCE:
            values: Tensor = getattr(self, name)
            if values.shape != self.filters.shape[:1]:
                raise ModelError(
                    f"the column '{name}' of a filter bank has {values.numel()} entries",
                    expected=f"{len(self)}, one for each filter",
                    fix="collect the filters again",
                )

    def __len__(self) -> int:
        return int(self.filters.shape[0])

    def __getitem__(self, rows: Tensor | slice) -> Self:
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        return type(self)(**columns, starts=None if self.starts is None else self.starts[rows])

    @property
    def kernel_voxels(self) -> int:
        """Numbers per filter: 27 for 3×3×3."""
        return int(self.filters.shape[1])

    @property
    def positions(self) -> FilterPositions:
        """Where each filter sits in its network."""
        return FilterPositions(self.layer, self.out_index, self.in_index)

    @property
    def networks(self) -> tuple[int, ...]:
        """The numbers of the source networks, rising."""
        return tuple(torch.unique(self.network).tolist())

    @classmethod
    def from_state(cls, state: SourceState, layers: Sequence[FilterLayer], positions: FilterPositions) -> Self:
        """Gathers the filters that one snapshot has in `layers`, whose positions are `positions`."""
        filters = get_filters(state.parameters, layers).detach().to("cpu", torch.float32).clone()
        network = torch.full((len(filters),), state.network)
        snapshot = torch.full((len(filters),), state.snapshot)
        return cls(filters, positions.layer, positions.out_index, positions.in_index, network, snapshot)

    @classmethod
    def concatenate(cls, banks: Sequence[Self]) -> Self:
        """Joins banks of one kernel size.

        Raises:
            ModelError: if there is none, or the kernel sizes differ.
        """
        if not banks:
            raise ModelError("no source network to collect filters from", fix="run 'graft train-source' first")
        sizes = sorted({bank.kernel_voxels for bank in banks})
        if len(sizes) > 1:
            raise ModelError(f"filter banks with kernels of {sizes} voxels", expected="one kernel size")
        starts = [bank.starts for bank in banks if bank.starts is not None]
        return cls(
            **{name: torch.cat([getattr(bank, name) for bank in banks]) for name in COLUMNS},
            starts=torch.cat(starts) if len(starts) == len(banks) else None,
        )

    def above_norm(self, threshold: float) -> Self:
        """Returns the filters whose L2 norm is above `threshold`."""
        return self[self.filters.norm(dim=1) > threshold]

    def of_network(self, network: int) -> Self:
        """Returns the filters of one source network, all its snapshots."""
        return self[self.network == network]

    def last_snapshots(self) -> Self:
        """Returns the filters of the last snapshot of each network."""
        keep = torch.zeros(len(self), dtype=torch.bool)
        for network in self.networks:
            rows = self.network == network
            keep |= rows & (self.snapshot == self.snapshot[rows].max())
        return self[keep]

    def with_starts(self, starts: FilterBank) -> Self:
        """Returns the same filters with what each was at the start of its network.

        Args:
            starts: the filters of the networks at their start, one for each network and position.

        Raises:
            ModelError: if the start of a filter is not among them.
        """
        found = torch.zeros_like(self.filters)
        for network in self.networks:
            mine, theirs = self.network == network, starts.of_network(network)
            keys, order = theirs.positions.keys().sort()
            wanted = self[mine].positions.keys()
            rows = torch.searchsorted(keys, wanted).clamp(max=max(len(keys) - 1, 0))
            if not len(keys) or not torch.equal(keys[rows], wanted):
                raise ModelError(
                    f"the filters that network {network} started from are not known", fix="collect the filters again"
                )
            found[mine] = theirs.filters[order[rows]]
        return replace(self, starts=found)

    def changes(self) -> Self:
        """Returns what training added to each filter, in place of the filter.

        Raises:
            ModelError: if it is not known what the filters were at the start.
        """
        return replace(self, filters=self.filters - self.known_starts(), starts=None)

    def known_starts(self) -> Tensor:
        """Returns what each filter was at the start of its network, `[F, 27]`.

        Raises:
            ModelError: if that is not known.
        """
        if self.starts is None:
            raise ModelError(
                "what the filters were at the start of their networks is not known",
                expected="a bank with starts",
                fix="give the networks before training as well as after it",
            )
        return self.starts

    def branches(self) -> Self:
        """Returns the last snapshots of networks that branch from one trunk, as if they were snapshots of one network.

        Raises:
            ModelError: if the networks did not start from the same filters, so that their channels do not correspond.
        """
        last = self.last_snapshots()
        keys, rows = torch.unique(last.positions.keys(), return_inverse=True)
        starts, first = last.known_starts(), torch.zeros(len(keys), dtype=torch.int64)
        first = first.scatter_reduce(0, rows, torch.arange(len(rows)), "amin", include_self=False)
        if not torch.equal(starts, starts[first[rows]]):
            raise ModelError(
                f"the networks {', '.join(map(str, self.networks))} each started from weights of their own",
                expected="networks that branch from one trunk, whose channels correspond",
                fix="set `source_training.trunk_steps`, or use a prior that does not know positions",
            )
        return replace(last, network=torch.zeros_like(last.network), snapshot=last.network)

    def subsample(self, count: int, generator: torch.Generator | None) -> Self:
        """Returns `count` filters drawn without replacement, in their order; all of them if there are no more."""
        if len(self) <= count:
            return self
        rows = random_rows(len(self), count, generator).cpu()
        return self[rows.sort().values]

    def to_tensors(self) -> dict[str, Tensor]:
        """Returns the columns by name, without the starts, ready for safetensors (indices as int32)."""
        tensors = {name: getattr(self, name).to(torch.int32).contiguous() for name in PROVENANCE}
        return {"filters": self.filters.contiguous(), **tensors}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Rebuilds a bank from `to_tensors`.

        Raises:
            ModelError: if a column is missing.
        """
        missing = [name for name in COLUMNS if name not in tensors]
        if missing:
            raise ModelError(
                f"a filter bank without {', '.join(missing)}",
                expected=f"the columns {', '.join(COLUMNS)}",
                fix="run 'graft collect-filters' again",
            )
        return cls(tensors["filters"], *(tensors[name].to(torch.int64) for name in PROVENANCE))

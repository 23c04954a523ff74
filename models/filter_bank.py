"""Filters of one group of layers, gathered from many networks, with their provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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
    """

    filters: Tensor
    layer: Tensor
    out_index: Tensor
    in_index: Tensor
    network: Tensor
    snapshot: Tensor

    def __post_init__(self) -> None:
        if self.filters.ndim != 2:
            raise ModelError(f"a filter bank of shape {tuple(self.filters.shape)}", expected="(filters, kernel voxels)")
        for field in fields(self)[1:]:
            values: Tensor = getattr(self, field.name)
            if values.shape != self.filters.shape[:1]:
                raise ModelError(
                    f"the column '{field.name}' of a filter bank has {values.numel()} entries",
                    expected=f"{len(self)}, one for each filter",
                    fix="collect the filters again",
                )

    def __len__(self) -> int:
        return int(self.filters.shape[0])

    def __getitem__(self, rows: Tensor | slice) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

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
        return cls(*(torch.cat([getattr(bank, field.name) for bank in banks]) for field in fields(cls)))

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

    def subsample(self, count: int, generator: torch.Generator | None) -> Self:
        """Returns `count` filters drawn without replacement, in their order; all of them if there are no more."""
        if len(self) <= count:
            return self
        rows = random_rows(len(self), count, generator).cpu()
        return self[rows.sort().values]

    def to_tensors(self) -> dict[str, Tensor]:
        """Returns the columns by name, ready for safetensors (indices as int32)."""
        tensors = {field.name: getattr(self, field.name).to(torch.int32).contiguous() for field in fields(self)[1:]}
        return {"filters": self.filters.contiguous(), **tensors}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Rebuilds a bank from `to_tensors`.

        Raises:
            ModelError: if a column is missing.
        """
        missing = [field.name for field in fields(cls) if field.name not in tensors]
        if missing:
            raise ModelError(
                f"a filter bank without {', '.join(missing)}",
                expected=f"the columns {', '.join(field.name for field in fields(cls))}",
                fix="run 'graft collect-filters' again",
            )
        return cls(tensors["filters"], *(tensors[field.name].to(torch.int64) for field in fields(cls)[1:]))

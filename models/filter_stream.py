"""What can be learned from a stream of filters in chunks: a random sample, and quantiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import ModelError
from models.filter_bank import FilterBank


@dataclass(frozen=True)
class FilterDraw:
    """A random sample of filters.

    Attributes:
        bank: the sample, in the order of the stream.
        kept: filters that could have been drawn: those above the norm threshold.
        seen: all filters of the stream.
    """

    bank: FilterBank
    kept: int
    seen: int

    @property
    def share_kept(self) -> float:
        """Share of the filters that are above the norm threshold (1 for an empty stream)."""
        return self.kept / self.seen if self.seen else 1.0


def draw_filters(
    chunks: Iterable[FilterBank], most: int, generator: torch.Generator | None, norm_threshold: float | None = None
) -> FilterDraw:
    """Draws filters from a stream without replacement, each set of `most` equally likely; one pass, flat memory.

    Every filter gets a uniform random number, and those with the smallest are kept: a reservoir (Efraimidis and
    Spirakis 2006, with equal weights).

    Args:
        chunks: the stream.
        most: size of the sample; all filters where there are no more.
        generator: source of the draw.
        norm_threshold: filters with this L2 norm or less are skipped; None keeps all.

    Raises:
        ModelError: if the stream holds no chunk.
    """
    parts: list[FilterBank] = []
    numbers: list[Tensor] = []
    held = seen = kept = 0
    limit = 1.0
    for chunk in chunks:
        seen += len(chunk)
        if norm_threshold is not None:
            chunk = chunk.above_norm(norm_threshold)
        kept += len(chunk)
        device = "cpu" if generator is None else generator.device
        number = torch.rand(len(chunk), generator=generator, dtype=torch.float64, device=device).cpu()
        if limit < 1.0:
            small = number < limit
            chunk, number = chunk[small], number[small]
        parts.append(chunk)
        numbers.append(number)
        held += len(chunk)
        if held > 2 * most:
            parts, numbers = _smallest(parts, numbers, most)
            held, limit = most, float(numbers[0].max())
    if not parts:
        raise ModelError("there are no filters to draw from", fix="run 'graft collect-filters' again")
    if held > most:
        parts, numbers = _smallest(parts, numbers, most)
    return FilterDraw(FilterBank.concatenate(parts), kept, seen)


def _smallest(parts: list[FilterBank], numbers: list[Tensor], most: int) -> tuple[list[FilterBank], list[Tensor]]:
    """Keeps the filters with the `most` smallest numbers, in their order."""
    joined = torch.cat(numbers)
    rows = torch.topk(joined, most, largest=False).indices.sort().values
    return [FilterBank.concatenate(parts)[rows]], [joined[rows]]


class StreamedQuantiles:
    """Quantiles of a stream of numbers, estimated from every k-th of them.

    Args:
        total: how many numbers there will be.
        most: how many to keep; a stream of no more numbers gives exact quantiles.
    """

    def __init__(self, total: int, most: int = 1_000_000) -> None:
        self.stride = max(1, total // most)
        self._values: list[Tensor] = []
        self._seen = 0

    def add(self, values: Tensor) -> None:
        """Adds the next numbers, `[N]`."""
        first = -self._seen % self.stride
        # Cloned, because a view would keep the whole chunk in memory.
        self._values.append(values[first :: self.stride].float().clone())
        self._seen += len(values)

    @property
    def values(self) -> Tensor:
        """The numbers kept."""
        return torch.cat(self._values) if self._values else torch.zeros(0)

    def quantiles(self, levels: Sequence[float]) -> list[float]:
        """Returns the quantiles at levels from 0 to 1, interpolated linearly; none for an empty stream."""
        values = self.values
        return torch.quantile(values, torch.tensor(levels)).tolist() if len(values) else []

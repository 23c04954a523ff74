"""`collect-filters/GROUP/summary.json`: the filters of a group of layers in numbers."""

from __future__ import annotations

from data.stored_record import StoredRecord


class FilterSummary(StoredRecord):
    """The filters of one group in all snapshots of all source networks."""

    group: str
    """Its name."""
    layers: tuple[str, ...]
    """Parameters of its layers."""
    networks: tuple[int, ...]
    """Source networks of the filters."""
    snapshots: int
    """Snapshots of each network."""
    filters: int
    """Number of filters."""
    norm_quantile_levels: tuple[float, ...]
    """Levels of the quantiles."""
    norm_quantiles: tuple[float, ...]
    """Norms at these levels."""
    norm_quantiles_of_every: int = 1
    """1 if the quantiles are those of all filters; k if of every k-th filter."""
    moved_from_initial: float
    """Median distance from the initialisation, as a share of its norm."""
    moved_quantiles: tuple[float, ...]
    """That distance at the same levels."""
    moved_by_network: dict[str, float]
    """Source network → its median distance."""

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
    """Source networks that the filters are of."""
    snapshots: int
    """Snapshots of each network."""
    filters: int
    """How many there are."""
    norm_quantile_levels: tuple[float, ...]
    """Shares of the filters at which the norms are told."""
    norm_quantiles: tuple[float, ...]
    """Norms at these shares."""
    norm_quantiles_of_every: int = 1
    """1 where the quantiles are those of all filters; else of one filter in so many."""
    moved_from_initial: float
    """Median distance from the initialisation, as a share of its norm."""
    moved_quantiles: tuple[float, ...]
    """That distance at the same shares."""
    moved_by_network: dict[str, float]
    """Source network → its median distance."""

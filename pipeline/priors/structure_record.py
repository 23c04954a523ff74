"""`measure-filters/GROUP/structure.json`: is there anything to learn from the filters of a group of layers?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from data.stored_record import StoredRecord


class OverNetworks(StoredRecord):
    """A number of several networks."""

    mean: float
    """Their mean."""
    low: float
    """The lowest."""
    high: float
    """The highest."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Sums up the values of at least one network."""
        return cls(mean=sum(values) / len(values), low=min(values), high=max(values))


class FilterStructure(StoredRecord):
    """The structure of the filters of one group, at the end of the training of each network."""

    group: str
    """Its name."""
    networks: int
    """Source networks measured."""
    filters: int
    """Filters of the group in each."""
    effective_dimension: OverNetworks
    """Directions in which filters differ, (Σλ)² / Σλ² of the eigenvalues of their covariance; 27 for a random start."""
    intrinsic_dimension: OverNetworks | None = None
    """Dimension of the surface near which filters above the threshold lie (Levina and Bickel); earlier versions did
    not measure it."""
    two_nearest_dimension: OverNetworks | None = None
    """The same from the two nearest neighbours of each alone (TwoNN)."""
    still_start: OverNetworks
    """Share of the filters' energy that is their random start, whatever their scale: 1 if nothing was learned."""
    start_left: OverNetworks
    """Share of the energy of the random start that is still there."""
    norm_threshold: float
    """Filters with this norm or less are not fitted to."""
    under_threshold: OverNetworks
    """Their share."""

    def describe(self) -> str:
        """The numbers in a line."""
        dimension, intrinsic = self.effective_dimension, self.intrinsic_dimension
        still, left, under = (100 * own.mean for own in (self.still_start, self.start_left, self.under_threshold))
        return (
            f"{self.group}: effective dimension {dimension.mean:.1f} ({dimension.low:.1f} to {dimension.high:.1f}), "
            f"{'' if intrinsic is None else f'intrinsic dimension {intrinsic.mean:.1f}, '}"
            f"{still:.0f} % of their energy still the random start, which has {left:.0f} % of its own left, "
            f"{under:.0f} % of filters under the norm {self.norm_threshold:g}"
        )


def little_to_learn(structures: Iterable[FilterStructure], limit: float, *, of_pack: bool = False) -> str | None:
    """Says which groups' filters are still their random start, and what to do; None where there are none.

    Args:
        structures: of all groups.
        limit: largest share of the filters' energy that may be their random start.
        of_pack: whether the networks come from a source pack, and somebody else trains them.
    """
    known = list(structures)
    still = [f"{own.group} ({100 * own.still_start.mean:.0f} %)" for own in known if own.still_start.mean > limit]
    if not still:
        return None
    longer = "train the source networks longer (`source_training.steps_per_cycle`), or with more decay"
    again = f"{longer} (`source_training.optimiser.weight_decay`)"
    fix = "use a pack whose networks were trained longer, or with more decay" if of_pack else again
    where = "every group" if len(still) == len(known) else f"{len(still)} of {len(known)} groups"
    return (
        f"In {where}, more than {100 * limit:g} % of the energy of the source networks' filters is still their random "
        f"start: {', '.join(still)}. There is little to learn here: {fix}."
    )

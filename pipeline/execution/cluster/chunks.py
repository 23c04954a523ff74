"""Which units share a job."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.execution.unit import Unit


def chunked(units: Sequence[Unit], rate: float | None, minutes: float, jobs: int, together: int) -> list[list[Unit]]:
    """Puts short units together into jobs, and gives each long one its own.

    Args:
        units: of one kind.
        rate: seconds for each unit of size, if that is known.
        minutes: how long a job of several units may take; 0 for none of several.
        jobs: at a time: without a rate, so many jobs share the units, but resumable ones are long.
        together: units that a job runs at a time.

    Returns:
        The units of each job, large ones first.
    """
    ordered = sorted(units, key=lambda unit: -unit.size)
    if minutes == 0:
        room = 0.0
    elif rate is not None:
        room = 60 * minutes * together / rate if rate > 0 else float("inf")
    else:
        room = sum(unit.size for unit in ordered) / jobs
    chunks: list[list[Unit]] = []
    size = 0.0
    for unit in ordered:
        alone = rate is None and unit.resumable
        fits = chunks and not alone and size + unit.size <= room * (1 + 1e-9)
        # As many as run at a time take no longer than one.
        if chunks and (fits or len(chunks[-1]) < together):
            chunks[-1].append(unit)
            size += unit.size
        else:
            chunks.append([unit])
            size = unit.size
    return chunks

"""Which arms are the rivals: one rule for the tables, the report and its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.arms.choices import ArmOptions


def rivals(arms: Mapping[str, ArmOptions], chosen: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns the rivals: those of `evaluation.rivals`, else all point estimates without a fitted prior."""
    return tuple(chosen) if chosen is not None else tuple(name for name, arm in arms.items() if arm.is_rival)

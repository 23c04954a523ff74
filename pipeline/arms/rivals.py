"""Which arms the others are compared with: one rule for the tables, the report and its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.arms.choices import ArmOptions


def rivals(arms: Mapping[str, ArmOptions], chosen: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names the non-Bayesian arms: as chosen, else the point estimates without a fitted prior.

    Args:
        arms: name → choices.
        chosen: `evaluation.rivals`; None where the study leaves it to the choices.
    """
    return tuple(chosen) if chosen is not None else tuple(name for name, arm in arms.items() if arm.is_rival)

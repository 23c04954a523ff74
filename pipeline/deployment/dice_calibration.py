"""How the Dice that a prediction expects of itself relates to its real Dice, learned on cases with a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from pipeline.config.options import Options

LEAST_CASES = 8
"""A line through fewer cases says nothing."""


class DiceCalibration(Options):
    """A line from expected Dice to real Dice, by least squares, and how far cases lie from it."""

    cases: int = Field(ge=2)
    """Cases that it was fitted on."""
    slope: float
    """Of the line."""
    intercept: float
    """Of the line."""
    residual: float = Field(ge=0)
    """Standard deviation of the real Dice about the line."""
    correlation: float | None = None
    """Pearson's, between expected and real Dice; none where either does not vary."""

    @classmethod
    def fit(cls, expected: Sequence[float], real: Sequence[float]) -> DiceCalibration | None:
        """Fits the line; `None` for too few cases.

        Args:
            expected: what predictions expected of themselves, each from 0 to 1.
            real: their Dice against the reference.
        """
        x, y = np.asarray(expected, dtype=np.float64), np.asarray(real, dtype=np.float64)
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        if len(x) < LEAST_CASES:
            return None
        varies = x.std() > 1e-6
        slope = float(np.cov(x, y, bias=True)[0, 1] / x.var()) if varies else 0.0
        # A line that falls is chance: a sharper prediction is not a worse one.
        slope = max(slope, 0.0)
        intercept = float(y.mean() - slope * x.mean())
        freedom = max(len(x) - 2, 1)
        residual = math.sqrt(float(((y - intercept - slope * x) ** 2).sum()) / freedom)
        correlation = float(np.corrcoef(x, y)[0, 1]) if varies and y.std() > 1e-6 else None
        return cls(cases=len(x), slope=slope, intercept=intercept, residual=residual, correlation=correlation)

    def __call__(self, expected: float) -> float:
        """Returns the Dice that cases of this expectation had, clipped to 0 … 1."""
        return min(max(self.intercept + self.slope * expected, 0.0), 1.0)

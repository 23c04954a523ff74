"""How the Dice that a prediction expects of itself relates to its real Dice, learned on cases with a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config.options import Options

LEAST_CASES = 5
"""The mean error of fewer cases says nothing."""
LEAST_LINE = 8
"""The slope of a line through fewer cases is mostly noise: they give the mean error alone."""
_STEEPEST = 2.0
"""A steeper line promises more than expected Dice can tell."""


@dataclass(frozen=True)
class DiceEstimate:
    """The one number that is shown.

    Attributes:
        dice: estimate of the real Dice.
        error: standard deviation of the real Dice about it; `None` where it was never checked.
        cases: test cases that it was checked on.
        basis: in words.
    """

    dice: float
    error: float | None
    cases: int
    basis: str

    def words(self, suspect: bool) -> str:
        """Returns e.g. `Dice about 0.66 ± 0.10`, with a warning where the case is suspect."""
        if self.error is None:
            text = f"Dice {self.dice:.2f} by its own account (never checked)"
        else:
            text = f"Dice about {self.dice:.2f} ± {self.error:.2f}"
        return f"{text}, NOT for a suspect case" if suspect else text


class DiceCalibration(Options):
    """How far expected and real Dice lie apart, and a line from one to the other, by least squares."""

    cases: int = Field(ge=2)
    """Test cases that it was fitted on."""
    slope: float
    """Of the line."""
    intercept: float
    """Of the line."""
    residual: float = Field(ge=0)
    """Standard deviation of the real Dice about the line."""
    correlation: float | None = None
    """Pearson's, between expected and real Dice; none where either does not vary."""
    expected_mean: float = 0.0
    """Mean of the expected Dice."""
    difference: float | None = None
    """Mean of real minus expected Dice; none in models of before it was kept."""
    deviation: float = 0.0
    """Standard deviation of real minus expected Dice."""
    shown_slope: float = 1.0
    """Slope of the estimate that is shown: 1, a mere shift, or that of the line, shrunk and limited."""
    shown_error: float = 0.0
    """Standard deviation of the real Dice about it."""
    lowest: float = 0.0
    """Smallest real Dice."""
    highest: float = 1.0
    """Largest real Dice."""

    @classmethod
    def fit(cls, expected: Sequence[float], real: Sequence[float]) -> DiceCalibration | None:
        """Compares the two; `None` for too few cases.

        Args:
            expected: what predictions of held-out cases expected of themselves, each from 0 to 1.
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
        residual = math.sqrt(float(((y - intercept - slope * x) ** 2).sum()) / (len(x) - 2))
        shown = _shown_slope(x, slope, residual)
        about = y - y.mean() - shown * (x - x.mean())
        return cls(
            cases=len(x),
            slope=slope,
            intercept=intercept,
            residual=residual,
            correlation=float(np.corrcoef(x, y)[0, 1]) if varies and y.std() > 1e-6 else None,
            expected_mean=float(x.mean()),
            difference=float((y - x).mean()),
            deviation=float((y - x).std(ddof=1)),
            shown_slope=shown,
            shown_error=math.sqrt(float((about**2).sum()) / (len(x) - (1 if shown == 1 else 2))),
            lowest=float(y.min()),
            highest=float(y.max()),
        )

    def line(self, expected: float) -> float:
        """Returns what the line says, clipped to 0 … 1."""
        return min(max(self.intercept + self.slope * expected, 0.0), 1.0)

    def estimate(self, expected: float) -> DiceEstimate:
        """Estimates the real Dice of a case, within what the test cases had."""
        if self.difference is None:
            return unchecked(expected)
        # Through the means of expected and real Dice, whatever the slope.
        turned = self.expected_mean + self.difference + self.shown_slope * (expected - self.expected_mean)
        dice = min(max(turned, self.lowest), self.highest)
        spread = self.shown_error * math.sqrt(1 + 1 / self.cases)
        how = "the mean error" if self.shown_slope == 1 else f"a line of slope {self.shown_slope:.1f}"
        apart = f"real minus expected Dice {self.difference:+.2f} ± {self.deviation:.2f}"
        return DiceEstimate(
            dice, spread, self.cases, f"expected Dice, corrected by {how} of {self.cases} test cases ({apart})"
        )


def _shown_slope(expected: NDArray[np.float64], slope: float, residual: float) -> float:
    """Returns the slope of the estimate that is shown.

    The slope of least squares is shrunk towards 1, a mere shift, as far as its standard error explains that it differs
    (the positive part of James and Stein's estimator), and limited.

    Args:
        expected: of the test cases.
        slope: of the line by least squares.
        residual: standard deviation about it.
    """
    away = (slope - 1) ** 2
    if len(expected) < LEAST_LINE or away == 0 or expected.std() < 1e-6:
        return 1.0
    variance = residual**2 / float(((expected - expected.mean()) ** 2).sum())
    return min(1 + max(0.0, 1 - variance / away) * (slope - 1), _STEEPEST)


def unchecked(expected: float) -> DiceEstimate:
    """Returns the estimate of a model that does not know how far expected and real Dice lie apart."""
    return DiceEstimate(expected, None, 0, "what the prediction expects of itself; the model knows no error of it")

"""How the Dice that a prediction expects of itself relates to its real Dice, learned on cases with a reference.

The report and `predict` show the same number, made here: an estimate of the real Dice with its error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.options import Options
from pipeline.evaluation.statistics import FEWEST_PATIENTS_FOR_LINE, why_no_interval

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


class DiceFit(Options):
    """How far expected and real Dice lie apart, and a line from one to the other, by least squares."""

    cases: int = Field(ge=2)
    """Test cases that it was fitted on."""
    patients: int | None = None
    """Whose cases they are, each patient weighing the same; none in models of before it was kept."""
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
    def fit(cls, expected: Sequence[float], real: Sequence[float], patients: Sequence[str]) -> DiceFit | None:
        """Compares the two; `None` for too few patients.

        Every patient weighs the same, however many cases they have: cases of one patient are no independent trials.

        Args:
            expected: what predictions of held-out cases expected of themselves, each from 0 to 1.
            real: their Dice against the reference.
            patients: whose case each is.
        """
        x, y = np.asarray(expected, dtype=np.float64), np.asarray(real, dtype=np.float64)
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        _, owner, cases_of = np.unique(np.asarray(patients, dtype=str)[known], return_inverse=True, return_counts=True)
        if why_no_interval(len(cases_of)):
            return None
        weight, count = 1 / cases_of[owner], len(cases_of)
        x_mean, y_mean = float(np.average(x, weights=weight)), float(np.average(y, weights=weight))
        covariance = np.cov(x, y, aweights=weight, ddof=0)
        x_spread, y_spread = np.sqrt(np.diag(covariance))
        varies = x_spread > 1e-6
        slope = float(covariance[0, 1] / covariance[0, 0]) if varies else 0.0
        # A line that falls is chance: a sharper prediction is not a worse one.
        slope = max(slope, 0.0)
        intercept = y_mean - slope * x_mean

        def deviation(residuals: NDArray[np.float64], parameters: int) -> float:
            return math.sqrt(float((weight * residuals**2).sum()) / (count - parameters))

        residual = deviation(y - intercept - slope * x, 2)
        shown = _shown_slope(count, float(x_spread), slope, residual)
        about = y - y_mean - shown * (x - x_mean)
        return cls(
            cases=len(x),
            patients=count,
            slope=slope,
            intercept=intercept,
            residual=residual,
            correlation=float(covariance[0, 1] / (x_spread * y_spread)) if varies and y_spread > 1e-6 else None,
            expected_mean=x_mean,
            difference=y_mean - x_mean,
            deviation=deviation(y - x - (y_mean - x_mean), 1),
            shown_slope=shown,
            shown_error=deviation(about, 1 if shown == 1 else 2),
            lowest=float(y.min()),
            highest=float(y.max()),
        )

    @property
    def error(self) -> float:
        """Standard deviation of the real Dice of another patient's case about its estimate."""
        return self.shown_error * math.sqrt(1 + 1 / (self.patients or self.cases))

    @property
    def real_mean(self) -> float:
        """Mean of the real Dice."""
        return self.intercept + self.slope * self.expected_mean

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
        how = "the mean error" if self.shown_slope == 1 else f"a line of slope {self.shown_slope:.1f}"
        apart = f"real minus expected Dice {self.difference:+.2f} ± {self.deviation:.2f}"
        of = f"{self.cases} test cases" if self.patients is None else f"{self.patients} test patients"
        return DiceEstimate(dice, self.error, self.cases, f"expected Dice, corrected by {how} of {of} ({apart})")


def _shown_slope(patients: int, spread: float, slope: float, residual: float) -> float:
    """Returns the slope of the estimate that is shown.

    The slope of least squares is shrunk towards 1, a mere shift, as far as its standard error explains that it differs
    (the positive part of James and Stein's estimator), and limited.

    Args:
        patients: number of test patients.
        spread: standard deviation of the expected Dice.
        slope: of the line by least squares.
        residual: standard deviation about it.
    """
    away = (slope - 1) ** 2
    if patients < FEWEST_PATIENTS_FOR_LINE or away == 0 or spread < 1e-6:
        return 1.0
    variance = residual**2 / (patients * spread**2)
    return min(1 + max(0.0, 1 - variance / away) * (slope - 1), _STEEPEST)


def unchecked(expected: float) -> DiceEstimate:
    """Returns the estimate of a model that does not know how far expected and real Dice lie apart."""
    return DiceEstimate(expected, None, 0, "the prediction's own estimate, whose error is unknown")

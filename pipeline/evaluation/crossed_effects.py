"""The mean of a difference measured on patients × repeats, both drawn at random: standard error, interval and test.

`d[p, r] = μ + patient[p] + repeat[r] + error[p, r]`, a two-way layout with random effects and one observation for each
cell. This is how radiologists' readings of the same cases are analysed (Dorfman, Berbaum, Metz 1992, "Receiver
operating characteristic rating analysis"; Hillis 2007, "A comparison of denominator degrees of freedom methods for
multiple observer ROC analysis"), with draws of the training patients in place of the readers. A test on the patients'
means over repeats takes the repeats for all there are: with no true difference it finds one the more often, the more
repeats differ. A bootstrap of three repeats knows their spread too little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True)
class CrossedMean:
    """A mean over patients × repeats.

    Attributes:
        mean: of all cells.
        error: its standard error, both patients and repeats being a sample.
        degrees: degrees of freedom of the error.
    """

    mean: float
    error: float
    degrees: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Returns the ends of the interval of Student's t."""
        half = float(stats.t.ppf((1 + confidence) / 2, self.degrees)) * self.error
        return self.mean - half, self.mean + half

    @property
    def p_value(self) -> float:
        """Two-sided p-value of a mean of zero; 1 where every cell is zero."""
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.degrees))


def crossed_mean(values: NDArray[np.float64]) -> CrossedMean:
    """Analyses `[P, R]` values without gaps.

    The variance of the mean is (MS_patients + MS_repeats − MS_error) / PR, at least that of either effect alone;
    degrees of freedom after Satterthwaite 1946, at least those of the smaller effect.

    Args:
        values: `[P, R]`, two patients and two repeats or more.

    Returns:
        The mean with its error.

    Raises:
        ValueError: there are fewer patients or repeats, or a gap.
    """
    patients, repeats = values.shape
    if min(patients, repeats) < 2 or not np.isfinite(values).all():
        raise ValueError(f"{patients} × {repeats} values, two of each or more and no gap are needed")
    mean = values.mean()
    by_patient, by_repeat = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    rest = values - mean - by_patient[:, None] - by_repeat[None, :]
    of_patients = repeats * np.sum(by_patient**2) / (patients - 1)
    of_repeats = patients * np.sum(by_repeat**2) / (repeats - 1)
    of_error = np.sum(rest**2) / ((patients - 1) * (repeats - 1))
    total = max(of_patients + of_repeats - of_error, of_patients, of_repeats)
    smaller = min(patients, repeats) - 1
    if total == 0:
        return CrossedMean(float(mean), 0.0, smaller)
    spread = of_patients**2 / (patients - 1) + of_repeats**2 / (repeats - 1)
    spread += of_error**2 / ((patients - 1) * (repeats - 1))
    return CrossedMean(float(mean), float(np.sqrt(total / values.size)), float(max(total**2 / spread, smaller)))

"""How often tests and intervals of a paired difference find one where there is none, by the spread between repeats.

`python benchmarks/paired_tests.py`: differences of two arms on patients × repeats are drawn with a mean of zero. A
sound method finds a difference at 5 % in one study of twenty, whatever the repeats do.
"""

from __future__ import annotations

import argparse

import numpy as np

from pipeline.evaluation.crossed_effects import crossed_mean
from pipeline.evaluation.statistics import Resamples, crossed_interval, wilcoxon_p


def found(values: np.ndarray, draws: Resamples) -> tuple[bool, bool, bool]:
    """Whether a Wilcoxon test on means over repeats, the crossed bootstrap, and crossed effects see a difference."""
    p_value = wilcoxon_p(values.mean(axis=1))
    bootstrap = crossed_interval(values, draws)
    outside = not bootstrap.low <= 0 <= bootstrap.high
    return p_value is not None and p_value < 0.05, outside, crossed_mean(values).p_value < 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--spread", type=float, default=0.01, help="of patients, and of the error of each cell")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    print("repeats  differ by  Wilcoxon  bootstrap  crossed effects")
    for repeats in (2, 3, 5, 10):
        draws = Resamples.draw(arguments.patients, repeats, resamples=500, seed=0)
        for between in (0.0, 0.004, 0.008):
            shares = np.zeros(3)
            for _ in range(arguments.studies):
                values = arguments.spread * generator.normal(size=(arguments.patients, 1))
                values = values + arguments.spread * generator.normal(size=(arguments.patients, repeats))
                shares += found(values + between * generator.normal(size=(1, repeats)), draws)
            print(f"{repeats:7}  {between:9.3f}  " + "  ".join(f"{share / arguments.studies:8.3f}" for share in shares))


if __name__ == "__main__":
    main()

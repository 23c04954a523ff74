"""Whether the KL of a training had settled at its end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.arms.kl_trend import kl_trends
from pipeline.training.schedule import cosine_cycles
from pipeline.training.training_log import Row

STEPS = 400


def constant(step: int) -> float:
    return 1e-3


def cosine(step: int) -> float:
    return cosine_cycles(step, cycle=STEPS, peak=1e-3, floor=1e-5, warm_up=40)


def trace(
    kl: Callable[[float], float],
    rate: Callable[[int], float] = constant,
    every: int = 10,
    noise: float = 0.0,
    seed: int = 0,
) -> list[Row]:
    """Rows of a training whose KL is a function of the share of its way that is done."""
    rates = np.array([rate(step) for step in range(STEPS)])
    way = np.cumsum(rates) / rates.sum()
    generator = np.random.default_rng(seed)
    return [
        {
            "step": step + 1,
            "rate": float(rates[step]),
            "kl": kl(float(way[step])) + noise * float(generator.normal()),
            "kl_weight": 1.0,
        }
        for step in range(every - 1, STEPS, every)
    ]


@pytest.mark.parametrize("rate", [constant, cosine])
def test_the_drift_is_that_of_a_straight_line_over_the_last_quarter_of_the_way(rate) -> None:
    [trend] = kl_trends(trace(lambda way: 2 + 0.4 * way, rate))
    assert trend.drift == pytest.approx(0.1, rel=0.03)
    assert trend.level == pytest.approx(2 + 0.4 * 0.875, rel=0.02)
    assert trend.relative_drift == trend.drift / trend.level
    assert not trend.settled


@pytest.mark.parametrize("rate", [constant, cosine])
@pytest.mark.parametrize(
    ("kl", "settled"),
    [
        (lambda way: 2.0, True),
        (lambda way: 2 + np.exp(-20 * way), True),  # it fell early, and stands
        (lambda way: 2 + np.exp(-2 * way), False),  # it still falls
        (lambda way: 2 + 0.07 * way, True),  # by less than 1 % of its level
        (lambda way: 2 + 0.09 * way, False),
        (lambda way: -2 - 0.09 * way, False),
        (lambda way: 2 - 0.09 * way, False),
        (lambda way: -2.0, True),
    ],
)
def test_a_kl_has_settled_if_it_moves_by_less_than_a_hundredth(kl, settled: bool, rate) -> None:
    [trend] = kl_trends(trace(kl, rate))
    assert trend.settled is settled


def test_a_rate_that_falls_to_nothing_settles_no_kl() -> None:
    # In steps, the last quarter has 4 % of the way, and the KL seems to stand still.
    falling = trace(lambda way: 2 + 0.4 * way, cosine)
    last = [row["kl"] for row in falling if row["step"] > 0.75 * STEPS]
    assert abs(last[-1] - last[0]) < 0.01 * last[-1]
    assert not kl_trends(falling)[0].settled


def test_chance_is_no_drift() -> None:
    found = [kl_trends(trace(lambda way: 2.0, noise=0.5, seed=seed))[0] for seed in range(300)]
    assert sum(abs(own.relative_drift) > 0.01 for own in found) > 200
    # A test at 5 %, with a standard error of 1.3 %.
    assert 0.01 < sum(not own.settled for own in found) / 300 < 0.09
    assert not kl_trends(trace(lambda way: 2 + 0.2 * way, noise=0.005))[0].settled


def test_a_warm_up_of_the_weight_is_no_drift() -> None:
    rows = trace(lambda way: 2.0)
    for row in rows:
        row["kl_weight"] = row["step"] / STEPS
        row["kl"] *= row["kl_weight"]
    assert kl_trends(rows)[0].settled
    assert kl_trends(rows)[0].level == pytest.approx(2)


def test_each_component_of_a_mixture_has_a_trend_of_its_own() -> None:
    rows = [{**row, "component": 0} for row in trace(lambda way: 2.0)]
    rows += [{**row, "component": 1, "step": row["step"] + STEPS} for row in trace(lambda way: 2 - way)]
    assert [trend.settled for trend in kl_trends(rows)] == [True, False]


def test_too_few_logged_steps_tell_nothing() -> None:
    assert kl_trends(trace(lambda way: way, every=40)) == ()
    assert len(kl_trends(trace(lambda way: way, every=20))) == 1
    assert kl_trends([]) == ()
    assert kl_trends([{"step": k + 1, "rate": 1.0, "loss": 1.0} for k in range(100)]) == ()
    # Values that are not finite are empty fields of the log.
    rows = trace(lambda way: 2.0)
    rows[-1]["kl"] = None
    assert kl_trends(rows)[0].settled

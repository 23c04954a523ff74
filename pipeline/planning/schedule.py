"""What fits into the time: how many trainings a study has, and how many steps each of them can take."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data.errors import ConfigError
from data.plain_number import plain_duration, plain_number
from pipeline.arms.choices import ArmOptions
from pipeline.planning.speed import Speed
from pipeline.planning.study_folds import Pair, StudyFolds

CYCLES = 4
"""Cycles of a source network, each as long as a target training."""
GOOD_STEPS = 250
"""What a training is given where something other than the grid can be given up for it."""
USEFUL_STEPS = 100
"""A training of fewer steps teaches too little to be compared."""
_MOST_STEPS = 1000
_ROUND = 10
_RESERVE = 0.2
"""Share of the budget for measuring and the report, and for what units that run side by side cost each other."""
_VALIDATED = 8
"""Cases that a source network is validated on after each cycle."""
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(h|min|m|s)\s*")
_UNITS = {"h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0}


def read_budget(text: str) -> float:
    """Reads `2h`, `90min` or `1h30min`.

    Returns:
        Seconds.

    Raises:
        ConfigError: it is no duration.
    """
    position, seconds = 0, 0.0
    while match := _PART.match(text, position):
        seconds += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if position < len(text) or seconds <= 0:
        raise ConfigError(
            f"--budget {text}: is not a duration", expected="such as 90min, 2h or 1h30min", fix="correct it"
        )
    return seconds


@dataclass(frozen=True)
class Work:
    """What a study carries out.

    Attributes:
        networks: source networks.
        trainings: of the target, those that arms share counted once.
        passes: over a scan, for the test cases of all arms and to validate the source networks.
        preparation: seconds that preprocessing takes, all scans one after another.
        at_a_time: trainings or predictions that run side by side.
    """

    networks: int
    trainings: int
    passes: int
    preparation: float
    at_a_time: int

    @property
    def rounds(self) -> int:
        """Trainings one after another, each as long as one of the target."""
        return CYCLES * -(-self.networks // self.at_a_time) + -(-self.trainings // self.at_a_time)

    def seconds(self, steps: int, speed: Speed) -> float:
        """How long it takes with so many steps, the reserve included."""
        return (self.rounds * steps * speed.step + self._beside(speed)) / (1 - _RESERVE)

    def _beside(self, speed: Speed) -> float:
        """Seconds of all but the trainings."""
        return (self.preparation + self.passes * speed.prediction) / self.at_a_time

    def steps(self, budget: float, speed: Speed) -> int:
        """The steps of a training that a budget in seconds allows, at most those that a plan ever takes."""
        left = budget * (1 - _RESERVE) - self._beside(speed)
        possible = int(left / (self.rounds * speed.step)) // _ROUND * _ROUND
        return max(0, min(possible, _MOST_STEPS))

    def arithmetic(self, steps: int, speed: Speed) -> list[str]:
        """The sum in words, a line for each part."""
        side = f", {self.at_a_time} at a time" if self.at_a_time > 1 else ""
        of_source = f"{self.networks} networks × {CYCLES} cycles × {steps} steps"
        source = [f"source: {of_source} = {self.networks * CYCLES * steps:,} steps{side}"] if self.networks else []
        return [
            f"a step takes {plain_number(speed.step)} s, a pass over a scan {plain_number(speed.prediction)} s",
            *source,
            f"target: {self.trainings} trainings × {steps} steps = {self.trainings * steps:,} steps{side}",
            f"predictions: {self.passes:,} passes{side}",
            f"preprocessing: {plain_duration(self.preparation / self.at_a_time)}{side}",
            f"with a fifth for measuring and the report: {plain_duration(self.seconds(steps, speed))} in all",
        ]


def count_work(
    arms: Mapping[str, ArmOptions],
    folds: StudyFolds,
    networks: int,
    cases_per_patient: float,
    preparation: float,
    at_a_time: int,
    rates: int = 0,
) -> Work:
    """Counts the trainings and passes of a study with one size and one repeat.

    Where rates are tuned, all folds are taken to choose the same one.

    Args:
        arms: its arms.
        folds: who is learned from and predicted.
        networks: source networks.
        cases_per_patient: scans of each patient.
        preparation: seconds that preprocessing takes.
        at_a_time: units that run side by side.
        rates: peak rates that each arm tries with its first member; none where they are not tuned.
    """
    members: dict[tuple[str, frozenset[str]], int] = {}
    tried: set[tuple[str, frozenset[str]]] = set()
    scans = 0
    for arm in arms.values():
        own, of_arm = arm.of_training(), folds.of_arm(arm.fit_reading)
        learned = own.model_dump_json(exclude={"peak_rate"} if rates else None)
        for patients in {folds.final, *(learned_from for learned_from, _ in of_arm)}:
            members[learned, patients] = max(members.get((learned, patients), 0), arm.members)
        draws = arm.draws if arm.is_bayesian else 1
        scans += arm.members * draws * _scans(of_arm)
        if rates:
            tried |= {(learned, learned_from) for learned_from, _ in folds.tuned}
            # The prediction of one member at the rate that is chosen is there already.
            scans += draws * (rates * _scans(folds.tuned) - (_scans(folds.tuned & of_arm) if arm.members == 1 else 0))
    # So is the training of the first member.
    trainings = sum(members.values()) + sum(rates - (1 if key in members else 0) for key in tried)
    passes = math.ceil(scans * cases_per_patient) + networks * CYCLES * _VALIDATED
    return Work(networks, trainings, passes, preparation, at_a_time)


def _scans(folds: Iterable[Pair]) -> int:
    """Patients that are predicted."""
    return sum(len(tested_on) for _, tested_on in folds)


def budget_that_fits(work: Work, speed: Speed) -> str:
    """The smallest budget for trainings of a useful length, rounded up to minutes, as `--budget` takes it."""
    return f"{math.ceil(work.seconds(USEFUL_STEPS, speed) / 60) or 1}min"

"""The units of target training by their keys, and the order in which they can run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.arms.training_unit import TrainingTask
from pipeline.execution.unit import Unit, is_done
from pipeline.storage.workspace import Workspace


@dataclass
class TargetPlan:
    """The units of target training by their keys, each once.

    Attributes:
        image_models: that trainings may start from.
        gates: image models with what scores of tested scans are usual.
        trainings: members, in all rounds of self-training.
        pseudo_labels: predictions of unlabelled scans by the members of a round, from which those of the next learn.
        predictions: of the test cases and of inner folds.
        rates: peak rates that are tuned.
        rounds: rounds of self-training that are kept.
        readings: how arms read.
        arms: their folders.
    """

    image_models: dict[str, Unit] = field(default_factory=dict)
    gates: dict[str, Unit] = field(default_factory=dict)
    trainings: dict[str, Unit] = field(default_factory=dict)
    pseudo_labels: dict[str, Unit] = field(default_factory=dict)
    predictions: dict[str, Unit] = field(default_factory=dict)
    rates: dict[str, Unit] = field(default_factory=dict)
    rounds: dict[str, Unit] = field(default_factory=dict)
    readings: dict[str, Unit] = field(default_factory=dict)
    arms: dict[str, Unit] = field(default_factory=dict)

    def in_order(self) -> tuple[list[Unit], ...]:
        """Predictions, what is fitted on them, and arms: what comes after the trainings."""
        kinds = (self.predictions, self.rates, self.rounds, self.readings, self.gates, self.arms)
        return tuple(list(kind.values()) for kind in kinds)

    def tasks(self) -> list[TrainingTask]:
        """The inputs of the trainings."""
        return [unit.arguments["task"] for unit in self.trainings.values()]

    def chooses(self) -> list[Unit]:
        """Units whose results the rest of the plan depends on: peak rates and rounds."""
        return [*self.rates.values(), *self.rounds.values()]

    def learning(self, workspace: Workspace) -> list[Unit]:
        """Trainings and pseudo-labels that are finished, or that something unfinished needs.

        A training that nothing needs any more may have been deleted; so may what only finished students learned from.
        """
        own = {unit.name: unit for unit in (*self.trainings.values(), *self.pseudo_labels.values())}
        waiting = [unit for kind in self.in_order() for unit in kind if not is_done(unit, workspace)]
        done = {name: is_done(unit, workspace) for name, unit in own.items()}
        needed: set[tuple[str, str]] = set()
        while waiting:
            names = {name for unit in waiting for name in unit.needs if name in own} - needed
            needed |= names
            waiting = [own[name] for name in names if not done[name]]
        return [unit for name, unit in own.items() if done[name] or name in needed]


def in_levels(units: Iterable[Unit]) -> list[list[Unit]]:
    """Sorts units of different kinds into steps, each of one kind, so that every unit comes after what it needs.

    A step holds the units of its kind in earlier steps, too, so that the last step of a kind knows all of them.
    """
    known = {unit.name: unit for unit in units}
    level: dict[tuple[str, str], int] = {}

    def level_of(name: tuple[str, str]) -> int:
        if name not in level:
            level[name] = 1 + max((level_of(other) for other in known[name].needs if other in known), default=-1)
        return level[name]

    steps: dict[tuple[int, str], list[Unit]] = {}
    for name, unit in known.items():
        steps.setdefault((level_of(name), unit.stage), []).append(unit)
    return [
        [unit for (before, kind), own in sorted(steps.items()) if kind == stage and before <= number for unit in own]
        for number, stage in sorted(steps)
    ]

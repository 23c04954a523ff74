"""The patients that arms learn from and are tested on: sizes × repeats × folds.

A study with test patients has one fold for each size and repeat: a subset of the pool, and all test patients. In
cross-validation, every patient of the pool is tested once in each repeat, by models that learned only from patients of
the other folds. Folds divide patients, never cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data.errors import DataError
from data.splits import draw_folds, nested_subsets
from pipeline.stages.study_plan import StudyPlan


@dataclass(frozen=True)
class Fold:
    """Patients that models learn from, and other patients that these models are tested on."""

    learned_from: tuple[str, ...]
    tested_on: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One size in one repeat.

    Attributes:
        n: number of target patients. In cross-validation of all patients, their total: the models of a fold learn from
            the other folds, the final model from all patients.
        repeat: number of the repeat.
        folds: one, or those of the cross-validation; none where nobody is tested.
        final: patients that the model of the cell learns from; `None` if the cell has no model.
    """

    n: int
    repeat: int
    folds: tuple[Fold, ...]
    final: tuple[str, ...] | None


FEWEST_TO_FIT = 3
"""Training patients that a reading is fitted on; of two, each inner fold would learn from one."""


def without_each(patients: Sequence[str], parts: Iterable[Sequence[str]]) -> list[Fold]:
    """Returns a fold for each part: models that learned from all other patients are tested on it."""
    return [Fold(tuple(p for p in patients if p not in part), tuple(part)) for part in parts]


def reading_folds(patients: Sequence[str], inner_folds: int, repeat: int, seed: int) -> list[Fold]:
    """Divides training patients into the inner folds that a reading is fitted on; none if they are too few."""
    folds = min(inner_folds, len(patients))
    if folds < 2 or len(patients) < FEWEST_TO_FIT:
        return []
    return without_each(patients, draw_folds(patients, folds, repeat, seed))


def final_reading_folds(patients: Sequence[str], folds: Sequence[Fold], inner: Sequence[Fold]) -> list[Fold]:
    """Returns the folds that the reading of a final model is fitted on.

    A cross-validation has predicted all its patients out of fold, so nothing needs to be trained for it.

    Args:
        patients: that the model learns from.
        folds: of its cell.
        inner: folds of these patients that a reading would be fitted on; none if none is.
    """
    tested = {patient for fold in folds for patient in fold.tested_on}
    return list(folds if inner and tested == set(patients) else inner)


def target_cells(plan: StudyPlan, arm: str) -> list[Cell]:
    """Returns the cells of an arm, repeat by repeat; arms with the same size have the same cells.

    Raises:
        DataError: a size is larger than the pool or than what a fold leaves, or there are more folds than patients.
    """
    config = plan.config
    sizes = config.target_training.sizes_of(arm)
    repeats = range(config.target_training.repeats)
    if config.target.cross_validated:
        return [cell for repeat in repeats for cell in _cross_validated(plan, sizes, repeat)]
    pool, test = list(plan.patients("pool")), tuple(plan.patients("test"))
    return [
        Cell(n, repeat, (Fold(subset, test),) if test else (), subset)
        for repeat in repeats
        for n, subset in nested_subsets(pool, sizes, repeat, config.seed).items()
    ]


def _cross_validated(plan: StudyPlan, sizes: Sequence[int], repeat: int) -> list[Cell]:
    config, patients = plan.config, tuple(plan.patients("pool"))
    parts = draw_folds(patients, plan.folds or 0, repeat, config.seed)
    left = [tuple(sorted(set(patients) - set(part))) for part in parts]
    fewest = min(map(len, left))
    smaller = [n for n in sizes if n < len(patients)]
    too_large = [n for n in smaller if n > fewest] + [n for n in sizes if n > len(patients)]
    if too_large:
        raise DataError(
            f"`target_training.sizes` holds {too_large[0]}, but a fold leaves {fewest} of {len(patients)} patients",
            expected=f"sizes from 0 to {fewest}; all {len(patients)} patients except those of a fold are always a size",
            fix="correct `target_training.sizes` or raise `target.folds`",
        )
    subsets = [nested_subsets(rest, smaller, repeat, config.seed) for rest in left]
    cells = [
        Cell(n, repeat, tuple(Fold(own[n], part) for own, part in zip(subsets, parts, strict=True)), None)
        for n in smaller
    ]
    everyone = tuple(Fold(rest, part) for rest, part in zip(left, parts, strict=True))
    # One final model for each arm, because those of several repeats would be alike.
    return [*cells, Cell(len(patients), repeat, everyone, patients if repeat == 0 else None)]

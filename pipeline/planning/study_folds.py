"""Who is learned from and who is predicted in a planned study, with patients that are numbers so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from data.splits import draw_folds
from pipeline.planning.evaluation_design import EvaluationDesign
from pipeline.stages.target_cells import Fold, final_reading_folds, reading_folds, without_each

_SEED = 0
"""Of a planned study: patients are drawn by their order, so numbers are drawn as names are."""

Pair = tuple[frozenset[str], frozenset[str]]
"""Patients that models learn from, and patients that these models predict."""


@dataclass(frozen=True)
class StudyFolds:
    """The folds of a study with one size and one repeat.

    Attributes:
        measured: of every arm.
        fitted: those beside it of an arm whose reading is fitted.
        tuned: those that a peak rate would be tuned on.
        final: patients that the models of the arms learn from.
    """

    measured: frozenset[Pair]
    fitted: frozenset[Pair]
    tuned: frozenset[Pair]
    final: frozenset[str]

    def of_arm(self, fits_reading: bool) -> frozenset[Pair]:
        """The folds of an arm."""
        return self.measured | self.fitted if fits_reading else self.measured


def study_folds(design: EvaluationDesign, inner_folds: int) -> StudyFolds:
    """Draws the folds of a planned study as it will draw them itself.

    Args:
        design: how it is judged.
        inner_folds: folds of training patients that a reading is fitted on.
    """
    learned_from = tuple(f"{number:06d}" for number in range(design.pool or design.patients))
    if design.folds is None:
        test = tuple(f"test {number}" for number in range(design.test))
        outer = [Fold(learned_from, test)] if test else []
    else:
        outer = without_each(learned_from, draw_folds(learned_from, design.folds, 0, _SEED))
    inner = [fold for own in outer for fold in reading_folds(own.learned_from, inner_folds, 0, _SEED)]
    of_final = reading_folds(learned_from, inner_folds, 0, _SEED)
    fitted = [*inner, *final_reading_folds(learned_from, outer, of_final)]
    # Not on the folds of a cross-validation, which are predicted at one rate each.
    return StudyFolds(_pairs(outer), _pairs(fitted), _pairs([*inner, *of_final]), frozenset(learned_from))


def _pairs(folds: Iterable[Fold]) -> frozenset[Pair]:
    return frozenset((frozenset(fold.learned_from), frozenset(fold.tested_on)) for fold in folds)

"""How a study is judged: few annotated patients are cross-validated, of many some are set aside."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from data.errors import DataError
from pipeline.config.datasets import ALL_PATIENTS, LEAVE_ONE_OUT

MOST_IN_FOLDS = 20
"""Patients that are cross-validated; of more, some are set aside."""
_MOST_LEFT_OUT_ONE_BY_ONE = 8
_FOLDS = 5
_TEST_SHARE = 3
"""One of so many patients is set aside."""
_UNTESTED = (
    "a model learns from the one annotated patient, and nobody is left to say how good it is: annotate a second for "
    "a first impression, and 5 or more for an interval"
)
_MOST_TEST = 40
"""Patients set aside: more narrow the intervals little, and each is predicted by every arm."""


@dataclass(frozen=True)
class EvaluationDesign:
    """Who is learned from, and who is tested.

    Attributes:
        patients: annotated patients of the target.
        pool: patients that are learned from, where not all are; the key `target.pool`.
        folds: number of folds; `None` with test patients.
        test: patients set aside; with neither these nor folds nobody is tested.
        why: a sentence.
    """

    patients: int
    pool: int | None
    folds: int | None
    test: int
    why: str

    @property
    def tested(self) -> bool:
        """Whether anybody is tested."""
        return self.folds is not None or self.test > 0

    def with_fewer_folds(self) -> EvaluationDesign:
        """The same with five folds instead of one for each patient."""
        if self.folds is None or self.folds <= _FOLDS:
            return self
        return replace(self, folds=_FOLDS, why=_in_folds(self.patients, _FOLDS))

    def as_options(self) -> dict[str, Any]:
        """The study's key `target`, but for the dataset."""
        if self.folds is None:
            return {"pool": self.pool, "test": self.test}
        who: dict[str, Any] = {"patients": ALL_PATIENTS} if self.pool is None else {"pool": self.pool}
        return {**who, "folds": LEAVE_ONE_OUT if self.folds == self.patients else self.folds}


def evaluation_design(annotated: int, where: object, wanted: int | None = None) -> EvaluationDesign:
    """Chooses how the target is judged.

    Args:
        annotated: patients all of whose cases are annotated.
        where: the dataset, for errors.
        wanted: how many of them are used; all by default.

    Raises:
        DataError: there are none, or fewer than are wanted.
    """
    if annotated == 0:
        raise DataError(
            f"{where}: no patient is annotated", expected="patients all of whose cases have a label", fix="add labels"
        )
    if wanted is not None and wanted > annotated:
        raise DataError(
            f"{where}: --patients asks for {wanted} patients, and {annotated} are annotated",
            expected=f"at most {annotated}",
            fix="lower `--patients`",
        )
    patients = wanted or annotated
    if patients == 1:
        return EvaluationDesign(1, 1, None, 0, _UNTESTED)
    if patients > MOST_IN_FOLDS:
        test = min(patients // _TEST_SHARE, _MOST_TEST)
        why = f"{patients} annotated patients are enough to set {test} aside, who are seen by no model"
        return EvaluationDesign(patients, patients - test, None, test, why)
    pool = None if wanted is None else wanted
    if patients == 2:
        why = "each of the two patients is tested by a model that learned from the other; two give no useful interval"
        return EvaluationDesign(2, pool, 2, 0, why)
    folds = patients if patients <= _MOST_LEFT_OUT_ONE_BY_ONE else _FOLDS
    return EvaluationDesign(patients, pool, folds, 0, _in_folds(patients, folds))


def _in_folds(patients: int, folds: int) -> str:
    how = "one by one" if folds == patients else f"in {folds} folds"
    return f"{patients} annotated patients are cross-validated {how}"

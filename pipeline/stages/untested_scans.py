"""Scans whose labels are not read: of which patients of a study, so that nobody is among them who is tested."""

from __future__ import annotations

from collections.abc import Iterable

from data.errors import DataError
from pipeline.stages.study_plan import StudyPlan
from pipeline.training.image_model_options import Scans

FEWEST_SCANS = 5
"""With fewer, what scans have in common is not to be told from what is one patient's own."""


def untested_patients(plan: StudyPlan, scans: Iterable[Scans]) -> dict[str, list[str]]:
    """Returns the patients of these scans, by role; nobody who is tested, and no role without patients.

    Args:
        plan: of the study.
        scans: where they may come from; those with other channels than the target's are left out.
    """
    tested = plan.patients("test")
    found = {
        own.value: [patient for patient in plan.patients(own.value) if patient not in tested or _elsewhere(own)]
        for own in scans
        if _fits(plan, own)
    }
    return {role: patients for role, patients in found.items() if patients}


def require_scans(plan: StudyPlan, found: dict[str, list[str]], what: str, needs: str, fix: str) -> None:
    """Refuses too few scans.

    Args:
        plan: of the study.
        found: patients by role.
        what: who learns from them, for the message.
        needs: whose scans are counted, for the message.
        fix: what the user can do.

    Raises:
        DataError: names both numbers.
    """
    count = sum(len(plan.patients(role)[patient]) for role, own in found.items() for patient in own)
    if count < FEWEST_SCANS:
        roles = " and ".join(found) or "nowhere"
        everybody = ", and cross-validation tests everybody of the pool" if plan.config.target.cross_validated else ""
        raise DataError(
            f"{what} has {count} scans to learn from ({roles}{everybody})",
            expected=f"at least {FEWEST_SCANS} {needs}",
            fix=fix,
        )


def _elsewhere(scans: Scans) -> bool:
    """Whether the patients of scans are others than those of the target, whatever they are called."""
    return scans is Scans.SOURCE


def _fits(plan: StudyPlan, scans: Scans) -> bool:
    """Whether a study has such scans with the channels of the target."""
    if scans is not Scans.SOURCE:
        return True
    source = plan.config.source_dataset
    return source is not None and tuple(plan.channels[source]) == tuple(plan.channels[plan.config.target.dataset])

"""The source of a study in numbers that are no patient's: counts, quartiles over patients, a mean over networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data.stored_record import read_record
from pipeline.deployment.fingerprint import CaseFacts, cached_facts
from pipeline.packs.pack_record import LEAST_PATIENTS, Quartiles, SourceFacts, SpreadOverPatients
from pipeline.report.study_files import read_history
from pipeline.stages.study_plan import StudyPlan
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.file_names import HISTORY, SAMPLE
from pipeline.storage.stage_names import Stage
from pipeline.training.sample_record import SampleRecord
from pipeline.training.source_network import network_key

_DIGITS = 3
"""Significant digits of what is told: no number of a single patient can be looked up in its list."""


def source_facts(plan: StudyPlan, *, synthetic: bool) -> SourceFacts:
    """Sums up the source of a study.

    Args:
        plan: of the study; its source cases are preprocessed.
        synthetic: whether the scans are synthetic.

    Raises:
        WorkspaceError: a source case is not preprocessed, or a file of a network is missing or damaged.
    """
    patients = plan.patients("source")
    # Said with the stage that makes it, where one is missing.
    plan.digests("source", list(patients))
    cases = {patient: plan.cached("source", patient) for patient in patients}
    everyone = [case for own in cases.values() for case in own]
    spacing = np.median([case.spacing for case in everyone], axis=0)
    x, y, z = (_rounded(step) for step in spacing)
    return SourceFacts(
        patients=len(patients),
        cases=len(everyone),
        synthetic=synthetic,
        spacing=(x, y, z),
        spread=_spread(plan, cases) if len(patients) >= LEAST_PATIENTS else None,
        out_of_bag_dice=_out_of_bag_dice(plan),
        **_translation(plan),
    )


def _translation(plan: StudyPlan) -> dict[str, str]:
    """The kind of the translation of the source, where there is one."""
    source = plan.config.source
    return {"translation": source.translate.kind} if source is not None and plan.config.translates_source else {}


def _spread(plan: StudyPlan, cases: Mapping[str, Sequence[CachedCase]]) -> SpreadOverPatients:
    facts = [[cached_facts(case, plan.source_channels) for case in own] for own in cases.values()]
    shapes = np.array([np.mean([f.shape for f in own], axis=0) for own in facts])
    spacings = np.array([np.mean([f.spacing for f in own], axis=0) for own in facts])
    numbers = {name: list(facts[0][0].after[name]) for name in plan.source_channels}
    return SpreadOverPatients(
        scan_shape=_along_axes(shapes),
        scan_spacing=_along_axes(spacings),
        intensity={
            channel: {name: _over([[f.after[channel][name] for f in own] for own in facts]) for name in names}
            for channel, names in numbers.items()
        },
        mask_ml=_over([[f.mask_ml for f in own] for own in facts]),
        structure_ml=_structures(facts, plan.source_classes),
    )


def _structures(facts: Sequence[Sequence[CaseFacts]], classes: Sequence[str]) -> dict[str, Quartiles]:
    """Class → volume, of those that patients enough have."""
    volumes = {
        name: [[f.structure_ml[name] for f in own if f.structure_ml.get(name)] for own in facts] for name in classes
    }
    known = {name: [own for own in of_patients if own] for name, of_patients in volumes.items()}
    return {name: _over(of_patients) for name, of_patients in known.items() if len(of_patients) >= LEAST_PATIENTS}


def _over(values: Sequence[Sequence[float]]) -> Quartiles:
    """Quartiles over patients of the means over their scans."""
    low, median, high = np.quantile([float(np.mean(own)) for own in values], (0.25, 0.5, 0.75))
    return Quartiles(low=_rounded(low), median=_rounded(median), high=_rounded(high))


def _along_axes(rows: NDArray[np.float64]) -> tuple[Quartiles, Quartiles, Quartiles]:
    x, y, z = (_over([[value] for value in column]) for column in rows.T)
    return x, y, z


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _out_of_bag_dice(plan: StudyPlan) -> float | None:
    """Mean over networks of the last Dice on patients that they were not trained on; None for a single patient."""
    owners = {case: patient for patient, cases in plan.patients("source").items() for case in cases}
    found, measured = [], set()
    for number in range(plan.config.source_training.networks):
        folder = plan.workspace.unit_folder(Stage.TRAIN_SOURCE, network_key(number))
        dice = read_history(folder / HISTORY).get("out_of_bag_dice", np.empty(0))
        dice = dice[np.isfinite(dice)]
        if len(dice):
            found.append(float(dice[-1]))
            measured |= {owners.get(case) for case in read_record(folder / SAMPLE, SampleRecord).validated_on}
    return _rounded(float(np.mean(found))) if len(measured) > 1 else None

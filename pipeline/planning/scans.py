"""Target and source as a plan takes them: read, checked, and each with its structures."""

from __future__ import annotations

from dataclasses import dataclass

from data.case import Case
from data.dataset import Dataset
from data.errors import ConfigError
from data.layouts.detection import read_dataset
from data.modality import Modality
from data.splits import labelled_patients, same_root
from pipeline.planning.checked_dataset import annotated_cases, drawn_values, require_sound
from pipeline.planning.evaluation_design import evaluation_design
from pipeline.planning.fingerprint import Structures
from pipeline.planning.request import PlanRequest
from pipeline.planning.scan_kind import modality_of
from pipeline.planning.source import PlannedSource, source_of_dataset
from pipeline.planning.structures import chosen_channels, drawn_structures, named_structures
from pipeline.stages.resources import Resources


@dataclass(frozen=True)
class PlannedTarget:
    """The target as it was read.

    Attributes:
        dataset: all its cases.
        channels: those that are used.
        structures: what is segmented.
        modality: of the scans.
        how: how that is known.
        annotated: cases of the patients all of whose cases have a label.
        patients: their number.
    """

    dataset: Dataset
    channels: list[str]
    structures: Structures
    modality: Modality
    how: str
    annotated: list[Case]
    patients: int


def read_scans(
    request: PlanRequest, resources: Resources, warnings: list[str]
) -> tuple[PlannedTarget, PlannedSource, int | None]:
    """Reads and checks both datasets.

    Args:
        request: what is asked for.
        resources: processes for the checks.
        warnings: what the checks warn of is added.

    Returns:
        Target, source, and how many target patients are used, where not all are.

    Raises:
        GraftError: a dataset is not usable, or the scans do not tell what they are.
    """
    target, other = read_dataset(request.target), read_dataset(request.source)
    channels, source_channels = chosen_channels(request.channels, target, other)
    modality, how = modality_of(target, channels, request.modality, "--modality")
    given = request.source_modality or request.modality
    source_modality, _ = modality_of(other, source_channels, given, "--source-modality")
    annotated = annotated_cases(target)
    patients, wanted, one_folder = len(labelled_patients(target)), request.patients, same_root(target, other)
    # Before anything is read: one annotated patient, or none, needs no check of the scans.
    evaluation_design(patients, request.target, wanted)
    if one_folder and wanted is None:
        wanted = max(patients // 2, 2)
    structures, of_source = _structures(request, target, other, annotated, one_folder)
    values = {value for own in structures.values() for value in own}
    jobs = resources.jobs or resources.trainings_at_a_time(1)[0]
    if one_folder:
        values |= {value for own in of_source.values() for value in own}
    found = require_sound(target, channels, values, modality, jobs, annotated)
    if not one_folder:
        own = {value for each in of_source.values() for value in each}
        found += require_sound(other, source_channels, own, source_modality, jobs)
    warnings += found
    source = source_of_dataset(
        str(request.source), other, of_source, source_channels, source_modality, (wanted or 0) if one_folder else 0
    )
    return PlannedTarget(target, channels, structures, modality, how, annotated, patients), source, wanted


def _structures(
    request: PlanRequest, target: Dataset, source: Dataset, annotated: list[Case], one_folder: bool
) -> tuple[Structures, Structures]:
    if one_folder and request.foreground is None:
        raise ConfigError(
            f"{request.target}: is target and source at once, and nothing says which structures are the target",
            expected=f"--foreground with some of {', '.join(name for v, name in target.label_names.items() if v)}",
            fix="add `--foreground`; the other structures are the source",
        )
    drawn = drawn_values(annotated)
    own = (
        named_structures(request.foreground, target)
        if request.foreground is not None
        else drawn_structures(target, drawn)
    )
    if request.source_foreground is not None:
        return own, named_structures(request.source_foreground, source, "--source-foreground")
    if one_folder:
        return own, drawn_structures(source, drawn, without=own)
    return own, drawn_structures(source, drawn_values(annotated_cases(source)))

"""Target and source as a plan takes them: read, checked, and each with its structures."""

from __future__ import annotations

from collections.abc import Sequence
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
from pipeline.planning.source import NO_SOURCE, PlannedSource, named_pack, source_of_dataset, source_of_pack
from pipeline.planning.structures import (
    as_label,
    channels_for_pack,
    chosen_channels,
    drawn_structures,
    known_channels,
    named_structures,
)
from pipeline.stages.resources import Resources


@dataclass(frozen=True)
class PlannedTarget:
    """The target as it was read.

    Attributes:
        dataset: all its cases.
        channels: those that are used.
        structures: what is segmented.
        ignored: values of voxels without annotation that the dataset does not declare so.
        modality: of the scans.
        how: how that is known.
        annotated: cases of the patients all of whose cases have a label.
        patients: their number.
    """

    dataset: Dataset
    channels: list[str]
    structures: Structures
    ignored: list[int]
    modality: Modality
    how: str
    annotated: list[Case]
    patients: int

    @property
    def values(self) -> set[int]:
        """Values of the structures in the label maps."""
        return values_of(self.structures)


def read_scans(
    request: PlanRequest, resources: Resources, warnings: list[str]
) -> tuple[PlannedTarget, PlannedSource, int | None]:
    """Reads and checks the target and, where there is one, the source.

    Args:
        request: what is asked for.
        resources: processes for the checks.
        warnings: what the checks warn of is added.

    Returns:
        Target, source, and how many target patients are used, where not all are.

    Raises:
        GraftError: a dataset or the pack is not usable, or the scans do not tell what they are.
    """
    target = read_dataset(request.target)
    # Before anything else is read: too few annotated patients need no check of the scans.
    evaluation_design(len(labelled_patients(target)), request.target, request.patients)
    jobs = resources.jobs or resources.trainings_at_a_time(1)[0]
    pack = None if request.source is None else named_pack(request.source)
    if request.source is not None and pack is None:
        return _beside_dataset(request, target, read_dataset(request.source), str(request.source), jobs, warnings)
    if pack is None or request.source is None:
        request.require_source_dataset("there is no source")
        source, channels, modality = NO_SOURCE, known_channels(request.channels, target), None
    else:
        request.require_source_dataset("the networks of the source pack have learned already")
        source, modality = source_of_pack(request.source, pack), pack.modality
        channels = channels_for_pack(request.channels, target, pack.channels)
    read = _read_target(request, target, channels, modality)
    warnings += require_sound(target, channels, read.values, read.modality, jobs, read.annotated, read.ignored)
    return read, source, request.patients


def _read_target(
    request: PlanRequest, target: Dataset, channels: list[str], of_pack: Modality | None = None
) -> PlannedTarget:
    annotated = annotated_cases(target)
    modality, how = modality_of(target, channels, request.modality, "--modality", of_pack)
    ignored = _ignored(target, request.ignore)
    structures = (
        named_structures(request.foreground, target)
        if request.foreground is not None
        else drawn_structures(target, drawn_values(annotated), ignored=ignored)
    )
    _ignored(target, request.ignore, structures)
    patients = len(labelled_patients(target))
    return PlannedTarget(target, channels, structures, ignored, modality, how, annotated, patients)


def _ignored(dataset: Dataset, named: Sequence[str] | None, structures: Structures | None = None) -> list[int]:
    """Values of the labels that the command line names; of none of the structures."""
    return dataset.ignored_label_values(map(as_label, named or ()), values_of(structures or {}))


def values_of(structures: Structures) -> set[int]:
    """The values of all structures."""
    return {value for own in structures.values() for value in own}


def _beside_dataset(
    request: PlanRequest, target: Dataset, other: Dataset, path: str, jobs: int, warnings: list[str]
) -> tuple[PlannedTarget, PlannedSource, int | None]:
    """Reads and checks a target and a labelled dataset, which may be one folder with two kinds of structures."""
    one_folder, wanted = same_root(target, other), request.patients
    if one_folder and request.foreground is None:
        none = {0, *target.ignored, *_ignored(target, request.ignore)}
        names = ", ".join(name for value, name in target.label_names.items() if value not in none)
        raise ConfigError(
            f"{request.target}: is target and source at once, and nothing says which structures are the target",
            expected=f"--foreground with some of {names}",
            fix="add `--foreground`; the other structures are the source",
        )
    channels, source_channels = chosen_channels(request.channels, target, other)
    read = _read_target(request, target, channels)
    given = request.source_modality or request.modality
    modality, _ = modality_of(other, source_channels, given, "--source-modality")
    named = request.ignore if one_folder and request.source_ignore is None else request.source_ignore
    ignored = _ignored(other, named)
    of_source = _source_structures(request, other, ignored, read if one_folder else None)
    _ignored(other, named, of_source)
    if one_folder:
        wanted = wanted or max(read.patients // 2, 2)
    learned = values_of(of_source)
    # One folder is checked once, for both roles.
    values = read.values | learned if one_folder else read.values
    beside = {*read.ignored, *ignored} if one_folder else read.ignored
    warnings += require_sound(target, channels, values, read.modality, jobs, read.annotated, beside)
    if not one_folder:
        warnings += require_sound(other, source_channels, learned, modality, jobs, ignored=ignored)
    taken = (wanted or 0) if one_folder else 0
    source = source_of_dataset(path, other, of_source, source_channels, modality, taken, ignored)
    return read, source, wanted


def _source_structures(
    request: PlanRequest, source: Dataset, ignored: Sequence[int], same_folder: PlannedTarget | None
) -> Structures:
    if request.source_foreground is not None:
        return named_structures(request.source_foreground, source, "--source-foreground")
    if same_folder is not None:
        drawn = drawn_values(same_folder.annotated)
        return drawn_structures(source, drawn, without=same_folder.structures, ignored=ignored)
    return drawn_structures(source, drawn_values(annotated_cases(source)), ignored=ignored)

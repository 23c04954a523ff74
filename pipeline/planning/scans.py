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
from pipeline.planning.source import NO_SOURCE, PlannedSource, named_pack, source_of_dataset, source_of_pack
from pipeline.planning.structures import (
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

    @property
    def values(self) -> set[int]:
        """Values of the structures in the label maps."""
        return {value for own in self.structures.values() for value in own}


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
    warnings += require_sound(target, channels, read.values, read.modality, jobs, read.annotated)
    return read, source, request.patients


def _read_target(
    request: PlanRequest, target: Dataset, channels: list[str], of_pack: Modality | None = None
) -> PlannedTarget:
    annotated = annotated_cases(target)
    modality, how = modality_of(target, channels, request.modality, "--modality", of_pack)
    structures = (
        named_structures(request.foreground, target)
        if request.foreground is not None
        else drawn_structures(target, drawn_values(annotated))
    )
    return PlannedTarget(target, channels, structures, modality, how, annotated, len(labelled_patients(target)))


def _beside_dataset(
    request: PlanRequest, target: Dataset, other: Dataset, path: str, jobs: int, warnings: list[str]
) -> tuple[PlannedTarget, PlannedSource, int | None]:
    """Reads and checks a target and a labelled dataset, which may be one folder with two kinds of structures."""
    one_folder, wanted = same_root(target, other), request.patients
    if one_folder and request.foreground is None:
        names = ", ".join(name for value, name in target.label_names.items() if value not in (0, *target.ignored))
        raise ConfigError(
            f"{request.target}: is target and source at once, and nothing says which structures are the target",
            expected=f"--foreground with some of {names}",
            fix="add `--foreground`; the other structures are the source",
        )
    channels, source_channels = chosen_channels(request.channels, target, other)
    read = _read_target(request, target, channels)
    given = request.source_modality or request.modality
    modality, _ = modality_of(other, source_channels, given, "--source-modality")
    of_source = _source_structures(request, other, read if one_folder else None)
    if one_folder:
        wanted = wanted or max(read.patients // 2, 2)
    learned = {value for own in of_source.values() for value in own}
    values = read.values | learned if one_folder else read.values
    warnings += require_sound(target, channels, values, read.modality, jobs, read.annotated)
    if not one_folder:
        warnings += require_sound(other, source_channels, learned, modality, jobs)
    taken = (wanted or 0) if one_folder else 0
    return read, source_of_dataset(path, other, of_source, source_channels, modality, taken), wanted


def _source_structures(request: PlanRequest, source: Dataset, same_folder: PlannedTarget | None) -> Structures:
    if request.source_foreground is not None:
        return named_structures(request.source_foreground, source, "--source-foreground")
    if same_folder is not None:
        return drawn_structures(source, drawn_values(same_folder.annotated), without=same_folder.structures)
    return drawn_structures(source, drawn_values(annotated_cases(source)))

"""What a plan takes from the source, whatever the source is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from data.dataset import Dataset
from data.errors import DataError
from data.modality import Modality
from data.splits import labelled_patients
from pipeline.planning.checked_dataset import annotated_cases
from pipeline.planning.fingerprint import Structures
from pipeline.planning.preparation import preparation_seconds
from pipeline.planning.spacing import Spacing

_MOST_PATIENTS = 200
"""Networks that are trained for an hour or two see no more than so many."""


@dataclass(frozen=True)
class PlannedSource:
    """The source as the study names it.

    Attributes:
        dataset: its entry under `datasets`.
        role: the study's key `source`, but for the dataset's name.
        why: why these patients.
        preparation: spacing in mm → seconds that preprocessing its scans takes, one after another.
    """

    dataset: dict[str, Any]
    role: dict[str, Any]
    why: str
    preparation: Callable[[Spacing], float] = lambda spacing: 0.0


def source_of_dataset(
    path: str,
    dataset: Dataset,
    structures: Structures,
    channels: Sequence[str],
    modality: Modality,
    taken: int = 0,
) -> PlannedSource:
    """Plans a labelled dataset as the source.

    Args:
        path: as the user gave it.
        dataset: the scans.
        structures: what the networks learn.
        channels: those that are used.
        modality: of the scans.
        taken: patients of the same folder that are the target's.

    Raises:
        DataError: fewer than two patients are left.
    """
    there = len(labelled_patients(dataset)) - taken
    if there < 2:
        beside = " beside those of the target" if taken else ""
        raise DataError(
            f"{dataset.root}: the source has {max(there, 0)} annotated patients{beside}",
            expected="2 or more, better dozens",
            fix="name another source, or lower `--patients`" if taken else "name another source",
        )
    patients = min(there, _MOST_PATIENTS)
    why = "all annotated patients of the source" if patients == there else f"{patients} of {there} annotated patients"
    if taken:
        why += ", those of the same folder that are not the target's"
    cases = annotated_cases(dataset)
    scans = len(cases) * patients / len(labelled_patients(dataset))

    def preparation(spacing: Spacing) -> float:
        return scans * preparation_seconds(cases[0], channels, modality, spacing)

    return PlannedSource(dataset_entry(path, structures, channels, modality), {"patients": patients}, why, preparation)


def dataset_entry(path: str, structures: Structures, channels: Sequence[str], modality: Modality) -> dict[str, Any]:
    """The entry of a dataset under `datasets`."""
    return {
        "path": path,
        "modality": modality.value,
        "channels": list(channels),
        "foreground": {name: list(values) for name, values in structures.items()},
    }

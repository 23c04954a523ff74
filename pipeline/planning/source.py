"""What a plan takes from its source: a labelled dataset, a source pack, or nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.errors import DataError
from data.modality import Modality
from data.splits import labelled_patients
from models.networks.imported_network import ImportedNetworkOptions
from pipeline.packs.pack_archive import PackError, open_pack
from pipeline.packs.pack_record import PackRecord
from pipeline.packs.pack_weights import require_whole
from pipeline.planning.checked_dataset import annotated_cases
from pipeline.planning.fingerprint import Structures
from pipeline.planning.preparation import preparation_seconds
from pipeline.planning.spacing import Spacing
from preprocessing.chain import default_options

_MOST_PATIENTS = 200
"""Networks that are trained for an hour or two see no more than so many."""
_PACK_SUFFIX = ".pack"
_MANIFEST_SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True)
class PlannedSource:
    """The source as the study names it.

    Attributes:
        role: the study's key `source`; `None` for a study without one.
        why: why it is that.
        structures: names of what its networks learned or learn.
        dataset: its entry under `datasets`, where it is one.
        pack: what a pack holds, which then decides network, patches, chain and grid.
        preparation: spacing in mm → seconds that preprocessing its scans takes, one after another.
    """

    role: dict[str, Any] | None
    why: str
    structures: tuple[str, ...] = ()
    dataset: dict[str, Any] | None = None
    pack: PackRecord | None = None
    preparation: Callable[[Spacing], float] = lambda spacing: 0.0

    @property
    def trains(self) -> bool:
        """Whether the study trains networks on it."""
        return self.dataset is not None


NO_SOURCE = PlannedSource(None, "there is no source: the arms learn from the target alone")


def named_pack(path: Path) -> PackRecord | None:
    """Reads a source pack; `None` if the path is a dataset.

    A pack is known by being an archive, or a file that is no manifest, whatever its name is.

    Raises:
        PackError: it is damaged, of a newer version, or needs code outside Graft.
    """
    if path.is_dir() or (not path.exists() and path.suffix.lower() != _PACK_SUFFIX):
        return None
    if path.suffix.lower() in _MANIFEST_SUFFIXES and not zipfile.is_zipfile(path):
        return None
    pack = open_pack(path)
    if isinstance(pack.record.network, ImportedNetworkOptions):
        raise PackError(
            f"{path}: its networks are built by code outside Graft, `{pack.record.network.factory}`, which runs only "
            "where a study names it",
            expected="a pack with networks of Graft",
            fix="write the study by hand, with `network` as docs/how-to/source-packs.md says",
        )
    require_whole(pack)
    return pack.record


def source_of_pack(path: Path, pack: PackRecord) -> PlannedSource:
    """Plans a pack as the source."""
    patients = f"{pack.source.patients} patient{'s' * (pack.source.patients != 1)}"
    why = f"a pack learned on {patients}; it decides `network`, `source_training`, `filters` and `priors`"
    return PlannedSource({"pack": str(path)}, why, pack.classes, pack=pack)


def source_of_dataset(
    path: str,
    dataset: Dataset,
    structures: Structures,
    channels: Sequence[str],
    modality: Modality,
    taken: int = 0,
    ignored: Sequence[int] = (),
) -> PlannedSource:
    """Plans a labelled dataset as the source.

    Args:
        path: as the user gave it.
        dataset: the scans.
        structures: what the networks learn.
        channels: those that are used.
        modality: of the scans.
        taken: patients of the same folder that are the target's.
        ignored: values of voxels without annotation that the dataset does not declare so.

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
        return scans * preparation_seconds(cases[0], channels, default_options(modality), spacing)

    entry = dataset_entry(path, structures, channels, modality, ignored)
    return PlannedSource({"dataset": "source", "patients": patients}, why, tuple(structures), entry, None, preparation)


def dataset_entry(
    path: str, structures: Structures, channels: Sequence[str], modality: Modality, ignored: Sequence[int] = ()
) -> dict[str, Any]:
    """The entry of a dataset under `datasets`."""
    return {
        "path": path,
        "modality": modality.value,
        "channels": list(channels),
        "foreground": {name: list(values) for name, values in structures.items()},
        **({"ignore": list(ignored)} if ignored else {}),
    }

"""Finds out how a dataset is laid out, and reads it."""

from __future__ import annotations

from pathlib import Path

from data.dataset import Dataset
from data.errors import DataError
from data.input_file import is_there, require_regular_file
from data.layouts.bids import BidsLayout
from data.layouts.csv_manifest import CsvManifestLayout
from data.layouts.dataset_json import DATASET_FILE
from data.layouts.layout import Layout
from data.layouts.msd import MsdLayout
from data.layouts.nnunet import NnunetLayout

# The first that matches is used: nnU-Net before MSD, whose key `training` nnU-Net 1 writes too.
_CSV = CsvManifestLayout()
LAYOUTS: tuple[Layout, ...] = (NnunetLayout(), MsdLayout(), BidsLayout(), _CSV)

_DICOM_SUFFIXES = {".dcm", ".ima", ".dicom"}


def detect_layout(path: Path) -> Layout:
    """Returns the layout of a folder or of a CSV manifest.

    Raises:
        DataError: there is no such path, or it is not in a known layout.
    """
    if not is_there(path):
        raise DataError(
            f"{path}: there is no such folder",
            expected="a dataset folder or a CSV manifest",
            fix="correct the path, or put the dataset there",
        )
    if not path.is_dir():
        require_regular_file(path, "a dataset folder or a CSV manifest")
    for layout in LAYOUTS:
        if layout.matches(path):
            return layout
    if path.is_dir() and _holds_dicom(path):
        raise DataError(
            f"{path}: is a folder of DICOM files",
            expected="NIfTI, MetaImage or NRRD volumes in a known layout",
            fix="convert it to NIfTI, for example with dcm2niix",
        )
    if path.is_dir():
        _CSV.explain(path)
    described = path.is_dir() and (path / DATASET_FILE).is_file()
    unknown = f"{path / DATASET_FILE}: has neither `channel_names` nor `training`"
    raise DataError(
        unknown if described else f"{path}: is not in a known layout",
        expected="; or ".join(layout.description for layout in LAYOUTS),
        fix="arrange the folder that way, or write a CSV manifest with the columns case, one per channel, and label",
    )


def read_dataset(path: Path, labels: bool = True, label_kind: str | None = None) -> Dataset:
    """Detects the layout of a folder (or of a CSV manifest) and reads it.

    Only names and paths are read, and label maps where nothing declares their values. Listed files that do not exist
    stay in the dataset: reading them fails, and `check_dataset` reports them.

    Args:
        path: the folder, or a CSV manifest.
        labels: whether labels are needed; otherwise faults of labels do not matter.
        label_kind: which of several kinds of derivatives of a BIDS dataset are its labels.

    Raises:
        DataError: the path is missing, its layout is unknown, or its description is broken.
    """
    layout = detect_layout(path)
    if label_kind is None:
        return layout.read(path, labels)
    if not isinstance(layout, BidsLayout):
        raise DataError(
            f"{path}: has the layout {layout.name}, which has no kinds of labels to choose {label_kind!r} from",
            expected="a BIDS dataset",
            fix="remove `label_kind` from the study",
        )
    return layout.read(path, labels, label_kind)


def _holds_dicom(root: Path) -> bool:
    """Whether one of the first files of the folder or of its first subfolders is a DICOM file."""
    levels = [sorted(root.glob("*"))[:20], sorted(root.glob("*/*"))[:20], sorted(root.glob("*/*/*"))[:20]]
    for file in (file for level in levels for file in level if file.is_file()):
        if file.suffix.lower() in _DICOM_SUFFIXES or file.name == "DICOMDIR":
            return True
        with file.open("rb") as stream:
            if stream.read(132)[128:] == b"DICM":
                return True
    return False

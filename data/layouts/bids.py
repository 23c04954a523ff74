"""The Brain Imaging Data Structure: the subset for anatomical scans with masks or segmentations in `derivatives`.

Read are `sub-*/[ses-*/]anat/*_SUFFIX.nii[.gz]` and `derivatives/**/sub-*_{dseg,mask}.nii[.gz]`. A case is one session;
the participant is the patient. Gorgolewski et al. 2016, Scientific Data 3, 160044; specification 1.10, "Magnetic
Resonance Imaging" and "Imaging derivatives".
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.case import Case, ImageSource
from data.dataset import Dataset
from data.errors import DataError
from data.image_file import NIFTI_SUFFIXES, image_stem, image_suffix
from data.layouts.patients import group_cases
from data.layouts.undeclared_labels import LABELS_FILE, label_names_of, read_label_table

_log = logging.getLogger(__name__)

_NO_IMAGE = {"dseg", "probseg", "mask", "defacemask"}
# Entities that make another kind of image; the rest (acq, run, rec, …) tells apart repeats of one kind.
_CONTRAST_ENTITIES = ("ce", "part", "echo", "inv")
_NATIVE_SPACES = {"orig", "native", "individual", "scanner"}


@dataclass(frozen=True)
class BidsFile:
    """A file name, taken apart: `sub-01_ses-2_acq-high_T1w.nii.gz`."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def case(self) -> str:
        """The session it belongs to, e.g. `sub-01_ses-2`."""
        return "_".join(f"{key}-{self.entities[key]}" for key in ("sub", "ses") if key in self.entities)

    def describe(self, *keys: str) -> str:
        """The suffix with the given entities before it, or with all but `sub` and `ses`."""
        chosen = [k for k in self.entities if (k in keys if keys else k not in ("sub", "ses"))]
        return "_".join([*(f"{key}-{self.entities[key]}" for key in chosen), self.suffix])


def parse_name(path: Path) -> BidsFile | None:
    """Takes a BIDS file name apart; `None` if it is none."""
    if image_suffix(path) not in NIFTI_SUFFIXES:
        return None
    *parts, suffix = image_stem(path).split("_")
    pairs = [part.partition("-") for part in parts]
    if not pairs or pairs[0][0] != "sub" or not all(value for _, _, value in pairs) or "-" in suffix:
        return None
    return BidsFile(path, {key: value for key, _, value in pairs}, suffix)


class BidsLayout:
    """`sub-*/anat` or `sub-*/ses-*/anat`, masks and segmentations in `derivatives`."""

    name = "bids"
    description = "BIDS: sub-*/[ses-*/]anat/*_T1w.nii.gz, labels in derivatives/*/sub-*/…_dseg.nii.gz or _mask.nii.gz"

    def matches(self, root: Path) -> bool:
        """Whether the folder has a participant with an anatomical scan."""
        return root.is_dir() and any(any(root.glob(pattern)) for pattern in ("sub-*/anat", "sub-*/ses-*/anat"))

    def read(self, root: Path) -> Dataset:
        """Reads the dataset; see `Layout.read`."""
        channels = _channels([*root.glob("sub-*/anat/*"), *root.glob("sub-*/ses-*/anat/*")])
        if not channels:
            raise DataError(
                f"{root}: no anatomical scan has a BIDS name",
                expected="sub-01/anat/sub-01_T1w.nii.gz and the like",
                fix="check the names with the BIDS validator",
            )
        labels, masks, tables = _derivatives(root, channels)
        cases = [
            Case(
                name=name,
                patient=name.split("_")[0],
                channels={channel: ImageSource(sources[channel]) for channel in sorted(sources)},
                label=labels.get(name),
                brain_mask=masks.get(name),
            )
            for name, sources in channels.items()
        ]
        grouped, has_patients = group_cases(root, cases, grouped_by_layout=True)
        names = tuple(sorted({channel for case in cases for channel in case.channels}))
        return Dataset(root, self.name, grouped, names, _label_names(root, grouped, tables), has_patients)


def _channels(paths: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """Case → channel → path. A channel is the suffix with contrast entities; with all, where that is ambiguous."""
    files = [file for path in sorted(paths) if (file := parse_name(path)) and file.suffix not in _NO_IMAGE]
    short = {file.path: file.describe(*_CONTRAST_ENTITIES) for file in files}
    counts = Counter((file.case, short[file.path]) for file in files)
    ambiguous = {channel for (_, channel), count in counts.items() if count > 1}
    channels: dict[str, dict[str, Path]] = {}
    for file in files:
        name = short[file.path] if short[file.path] not in ambiguous else file.describe()
        existing = channels.setdefault(file.case, {}).setdefault(name, file.path)
        if existing != file.path:
            raise DataError(
                f"{file.path}: the same image as {existing}", expected="one of them", fix="remove the other"
            )
    return channels


def _is_native(file: BidsFile, channels: Mapping[str, Path]) -> bool:
    """Whether a mask lies on the grid of a scan of its session and not on that of a template."""
    space = file.entities.get("space")
    return space is None or space in _NATIVE_SPACES or any(space == c.split("_")[-1] for c in channels)


def _derivatives(
    root: Path, channels: Mapping[str, Mapping[str, Path]]
) -> tuple[dict[str, Path], dict[str, Path], list[Path]]:
    """Finds label and brain mask of each case, and the tables that may name the labels."""
    labels: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    masks: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    derivatives = root / "derivatives"
    for path in sorted(derivatives.rglob("sub-*")):
        file = parse_name(path)
        if file is None or file.suffix not in ("dseg", "mask") or "task" in file.entities or path.is_dir():
            continue
        if file.case not in channels or not _is_native(file, channels[file.case]):
            continue
        pipeline = path.relative_to(derivatives).parts[0]
        is_brain = file.suffix == "mask" and file.entities.get("desc") == "brain"
        kinds = masks if is_brain else labels
        kinds[pipeline, file.describe()].setdefault(file.case, path)
    if len(labels) > 1:
        offers = "; ".join(f"{p}: {what} ({len(files)} cases)" for (p, what), files in labels.items())
        raise DataError(
            f"{derivatives}: several derivatives could be the label: {offers}",
            expected="one kind of label",
            fix="keep one of them there, or choose with a CSV manifest",
        )
    if len(masks) > 1:
        _log.warning("%s: several brain masks are offered; the kind with most cases is taken", derivatives)
    brain = max(masks.values(), key=len, default={})
    label_files = next(iter(labels.values()), {})
    folders = {folder for path in label_files.values() for folder in path.parents if derivatives in folder.parents}
    return label_files, brain, sorted({table for folder in folders for table in folder.glob("*dseg.tsv")})


def _label_names(root: Path, cases: Iterable[Case], tables: list[Path]) -> dict[int, str]:
    """Names from `dseg.tsv` (columns index, name), of a mask from its entity `label`, else as for any layout."""
    if (root / LABELS_FILE).is_file():
        return label_names_of(root, cases)
    if tables:
        names: dict[int, str] = {}
        for table in tables:
            names.update(read_label_table(table, value_column="index", delimiter="\t"))
        return dict(sorted(names.items()))
    labels = [file for case in cases if case.label is not None and (file := parse_name(case.label))]
    if labels and labels[0].suffix == "mask":
        return {0: "background", 1: labels[0].entities.get("label", labels[0].entities.get("desc", "foreground"))}
    return label_names_of(root, cases)

"""Which scans to predict: image files, folders of them, or datasets in any layout."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.case import Case, ImageSource
from data.checks.finding import Level
from data.dataset import Dataset
from data.errors import DataError
from data.image_file import SUFFIXES, image_parts, image_stem, image_suffix, read_header
from data.layouts.detection import LAYOUTS, detect_layout
from data.layouts.nnunet import NUMBERED
from data.names import RULE, alike, name_fault, printable

logger = logging.getLogger(__name__)

BIDS = "bids"
_SHOWN = 10
_SYNONYMS = {"t1w": "t1", "t2w": "t2", "pdw": "pd"}


@dataclass(frozen=True)
class InputCase:
    """One scan to predict.

    Attributes:
        name: of the case.
        case: its files, with channels named and ordered as in the model; `None` if it cannot be predicted.
        fault: why it cannot be predicted.
        bids: root of the BIDS dataset that it comes from, if any.
    """

    name: str
    case: Case | None
    fault: str = ""
    bids: Path | None = None


def collect_cases(inputs: Sequence[Path], channels: Sequence[str], *, unannotated: bool = False) -> list[InputCase]:
    """Finds the scans to predict.

    A file is a case. Several channels are files `CASE_0000.nii.gz`, `CASE_0001.nii.gz` (nnU-Net's names, in the order
    of the model's channels) or the frames of one 4D file. A folder is a dataset if it has a known layout, otherwise
    all image files in it are cases. A CSV manifest is a dataset.

    Args:
        inputs: files and folders.
        channels: the model's channels.
        unannotated: leave out cases of datasets that have a label.

    Returns:
        The cases, each once, sorted by name; unusable ones carry their fault.

    Raises:
        DataError: a folder holds nothing to predict, a dataset is broken, or two inputs share a name.
    """
    found: list[InputCase] = []
    files: list[Path] = []
    for path in inputs:
        try:
            if os.path.isdir(path) or path.suffix.lower() == ".csv":
                images = _images(path) if os.path.isdir(path) else []
                if images and not any(layout.matches(path) for layout in LAYOUTS):
                    files += images
                    _log_skipped(path, images)
                else:
                    dataset = detect_layout(path).read(path, labels=unannotated)
                    found += _dataset_cases(_without_labelled(dataset) if unannotated else dataset, channels)
            else:
                files.append(path)
        except OSError as error:
            # An unreadable path is one bad case and does not stop the others.
            fault = DataError(
                f"{path}: cannot be read ({error.strerror})", fix="change its permissions, or leave it out"
            )
            found.append(InputCase(path.name, None, str(fault)))
    found += [_plainly_named(case) for case in _file_cases(files, channels)]
    if twice := alike(case.name for case in found):
        both = f"both named {twice[0]!r}" if twice[0] == twice[1] else f"named {twice[0]!r} and {twice[1]!r}"
        raise DataError(
            f"two inputs are {both}",
            expected="names that differ in more than capital letters, because results are named after them",
            fix="predict them into two folders, or name them in a CSV manifest",
        )
    return sorted(found, key=lambda case: case.name)


def _images(folder: Path) -> list[Path]:
    """The images of a folder, each once; an image in several files is represented by its header file.

    Something that is named like an image but is not one (a folder, or a link to a file that was not fetched) counts as
    a case that cannot be read.
    """
    return _each_once(sorted(p for p in folder.iterdir() if image_suffix(p) and not p.name.startswith(".")))


def _each_once(files: Sequence[Path]) -> list[Path]:
    """Drops files that are parts of an image whose header is also among the files."""
    whole = [parts for parts in map(image_parts, files) if parts[0] in files]
    halves = {part for parts in whole for part in parts[1:]}
    return [file for file in dict.fromkeys(files) if file not in halves]


def _log_skipped(folder: Path, images: Sequence[Path]) -> None:
    """Logs the files of a folder that are not predicted."""
    known = {part for image in images for part in image_parts(image)}
    skipped = sorted(printable(p.name) for p in folder.iterdir() if p not in known and not p.name.startswith("."))
    if skipped:
        names = ", ".join(skipped[:_SHOWN]) + (f" and {len(skipped) - _SHOWN:,} more" if len(skipped) > _SHOWN else "")
        kinds = ", ".join(SUFFIXES)
        logger.warning("%s: skipped %s; Graft reads only %s files", folder, names, kinds)


def _dataset_cases(dataset: Dataset, channels: Sequence[str]) -> list[InputCase]:
    for finding in dataset.findings:
        if finding.level is not Level.INFO:
            logger.warning("%s: %s (%s)", dataset.root, finding.found, finding.fix)
    bids = dataset.root if dataset.layout == BIDS else None
    named = [named_case(case, channels, bids) for case in dataset.cases]
    return [_briefly_named(case) for case in named] if bids else named


def _without_labelled(dataset: Dataset) -> Dataset:
    return dataclasses.replace(dataset, cases=tuple(case for case in dataset.cases if case.label is None))


def _briefly_named(case: InputCase) -> InputCase:
    """Marks a case whose results would get too long a name: they start with the entities of the scan."""
    fault = case.case and name_fault(bids_folder_and_prefix(case.case)[1])
    return dataclasses.replace(case, case=None, fault=_odd_file_name(case, fault)) if fault else case


def _plainly_named(case: InputCase) -> InputCase:
    """Marks a case with an odd file name, after which its results would be named."""
    fault = name_fault(case.name)
    return InputCase(case.name, None, _odd_file_name(case, fault)) if fault else case


def _odd_file_name(case: InputCase, fault: str) -> str:
    return str(DataError(f"{printable(case.name)}: the file name {fault}", expected=RULE, fix="rename the file"))


def named_case(case: Case, channels: Sequence[str], bids: Path | None = None) -> InputCase:
    """Selects the model's channels, in its order, from a case whose channels have names.

    Args:
        case: its channels may be named in upper or lower case, or as in BIDS.
        channels: the model's.
        bids: root of the BIDS dataset that the case comes from.
    """
    own = {_plain(name): source for name, source in case.channels.items()}
    if absent := [name for name in channels if _plain(name) not in own]:
        fault = DataError(
            f"case {case.name} has the channels {', '.join(case.channels) or 'none'}",
            expected=f"the model's: {', '.join(channels)}",
            fix=f"add {', '.join(absent)}, or give the files in a CSV manifest with these columns",
        )
        return InputCase(case.name, None, str(fault), bids)
    sources = {name: own[_plain(name)] for name in channels}
    return InputCase(case.name, _without_label(case, sources), bids=bids)


def _plain(channel: str) -> str:
    name = channel.strip().lower()
    return _SYNONYMS.get(name, name)


def _without_label(case: Case, sources: Mapping[str, ImageSource]) -> Case:
    # A label would only be checked against the grid of the scan; a broken one must not stop a prediction.
    return dataclasses.replace(case, channels=dict(sources), label=None)


def _file_cases(files: Iterable[Path], channels: Sequence[str]) -> list[InputCase]:
    found = []
    grouped: dict[Path, list[Path]] = {}
    for file in _each_once(list(files)):
        first = _first_channel(file)
        if first is None:
            found.append(_unnumbered_case(file, channels))
        elif first not in grouped:
            grouped[first] = _numbered_files(first)
    for first, parts in grouped.items():
        name = image_stem(first).removesuffix("_0000")
        found.append(_unnamed_case(name, [ImageSource(part) for part in parts], channels))
    return found


def _first_channel(file: Path) -> Path | None:
    """The file of channel 0 if this file is named like a channel in nnU-Net, else `None`."""
    match = NUMBERED.fullmatch(image_stem(file))
    if match is None:
        return None
    first = file.with_name(f"{match['case']}_0000{image_suffix(file)}")
    return first if os.path.isfile(first) else None


def _numbered_files(first: Path) -> list[Path]:
    """The files of all channels, in order."""
    case = image_stem(first).removesuffix("_0000")
    parts = (p for p in _images(first.parent) if image_suffix(p) == image_suffix(first))
    return [p for p in parts if (m := NUMBERED.fullmatch(image_stem(p))) and m["case"] == case]


def _unnumbered_case(file: Path, channels: Sequence[str]) -> InputCase:
    """One file: a channel, or all channels as frames."""
    name = image_stem(file)
    if len(channels) == 1:
        return _unnamed_case(name, [ImageSource(file)], channels)
    frames: Sequence[int | None] = (None,)
    if image_suffix(file) and os.path.isfile(file):
        try:
            shape = read_header(file).volume_shape
        except DataError as error:
            return InputCase(name, None, str(error))
        frames = range(shape[3]) if len(shape) == 4 else (None,)
    return _unnamed_case(name, [ImageSource(file, frame) for frame in frames], channels)


def _unnamed_case(name: str, sources: Sequence[ImageSource], channels: Sequence[str]) -> InputCase:
    if len(sources) != len(channels):
        fault = DataError(
            f"{sources[0].path}: the scan has {len(sources)} channel{'s' if len(sources) != 1 else ''}",
            expected=f"{len(channels)}, the model's: {', '.join(channels)}",
            fix="give CASE_0000, CASE_0001, … in that order, or a CSV manifest with a column for each channel",
        )
        return InputCase(name, None, str(fault))
    return InputCase(name, Case(name, name, dict(zip(channels, sources, strict=True))))


def bids_folder_and_prefix(case: Case) -> tuple[str, str]:
    """Returns where the results of a BIDS session go, e.g. `sub-01/ses-1/anat`, and how their names begin.

    The names keep the entities of the first channel's file, on whose grid the results lie.
    """
    reference = next(iter(case.channels.values())).path
    prefix = image_stem(reference).rpartition("_")[0]
    folders = [part for part in prefix.split("_") if part.startswith(("sub-", "ses-"))]
    return "/".join([*folders, reference.parent.name]), prefix

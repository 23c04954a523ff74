"""Which files of a BIDS dataset are scans, and which scan of a session is which channel.

A channel is a suffix that the BIDS schema has for images (rules/files/raw/anat.yaml and pet.yaml, version 1.10; CT as
in the extension proposal 24). Everything else beside the scans, above all masks, is never an input.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data.checks.finding import Finding, Level
from data.errors import DataError
from data.image_file import image_suffix
from data.layouts.bids_file import BidsFile, parse_name
from data.natural_order import natural

DATATYPES = ("anat", "ct", "pet")
OTHER_DATATYPES = ("func", "dwi", "fmap", "perf")

_WEIGHTED = (
    *("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "PDT2", "angio", "T2star", "FLASH", "PD"),
)
_MAPS = (
    *("T1map", "T2map", "T2starmap", "R1map", "R2map", "R2starmap", "PDmap", "MTRmap", "MTsat", "UNIT1", "T1rho"),
    *("MWFmap", "MTVmap", "Chimap", "S0map", "M0map"),
)
_COLLECTIONS = ("MESE", "MEGRE", "VFA", "IRT1", "MP2RAGE", "MPM", "MTS", "MTR")
SCAN_SUFFIXES = frozenset((*_WEIGHTED, *_MAPS, *_COLLECTIONS, "ct", "pet"))
"""Suffixes of images that become channels."""
MASK_SUFFIXES = frozenset(("dseg", "mask", "roi", "seg", "lesion", "msk", "label", "labels", "segmentation"))
"""Suffixes of label maps: the first two are the standard's, the others are what people write."""
_SERIES = frozenset(("bold", "cbv", "sbref", "dwi", "epi", "asl", "m0scan"))

# Entities that make another kind of image; the rest (acq, run, rec, …) distinguish repeats of one kind.
_CONTRAST_ENTITIES = ("ce", "trc", "echo", "flip", "inv", "mt", "part")
_SHOWN = 3

Channels = dict[str, dict[str, BidsFile]]
"""Case → channel → scan."""


def session_folders(root: Path, datatypes: Sequence[str]) -> Iterator[Path]:
    """The folders of these datatypes, in order: `sub-*/anat`, `sub-*/ses-*/anat`."""
    for subject in sorted(root.glob("sub-*")):
        for session in (subject, *sorted(subject.glob("ses-*"))):
            for datatype in datatypes:
                folder = session / datatype
                if folder.is_dir():
                    yield folder


def is_mask(file: BidsFile) -> bool:
    """Whether a file holds labels, not intensities."""
    return file.suffix in (*MASK_SUFFIXES, "probseg", "defacemask") or "label" in file.entities


def find_scans(root: Path) -> tuple[list[BidsFile], list[BidsFile], list[Finding]]:
    """Finds the scans, the masks that lie beside them, and what else was noticed there.

    Raises:
        DataError: there is no scan.
    """
    scans: list[BidsFile] = []
    masks: list[BidsFile] = []
    others: dict[str, list[Path]] = defaultdict(list)
    findings: list[Finding] = []
    for folder in session_folders(root, DATATYPES):
        home = "_".join(folder.relative_to(root).parts[:-1])
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not image_suffix(path):
                continue
            file = parse_name(path)
            if file is not None and file.suffix == "CT":
                file = replace(file, suffix="ct")  # Both are written; it is one channel.
            if file is None:
                others[""].append(path)
            elif is_mask(file):
                masks.append(file)
            elif file.suffix not in SCAN_SUFFIXES or file.words:
                others[file.suffix].append(path)
            elif file.case != home and not file.case.startswith(f"{home}_"):
                found = f"{path.relative_to(root)} is named after {file.case} and not used"
                fix = f"move it to the folder of {file.case}, or rename it"
                findings.append(Finding(Level.ERROR, home, "misplaced_scan", found, fix))
            else:
                scans.append(file)
    findings += [_not_a_scan(root, suffix, paths) for suffix, paths in sorted(others.items())]
    if not scans:
        raise _no_scan(root, masks, findings)
    return scans, masks, findings


def _not_a_scan(root: Path, suffix: str, paths: Sequence[Path]) -> Finding:
    if suffix in _SERIES:
        kind = f"a `{suffix}` image is a series or a field map, not a 3D scan"
        fix = "to use it, make one 3D image of it; otherwise move it to the folder of its datatype"
    elif suffix:
        kind = f"`{suffix}` is not a BIDS suffix for scans"
        fix = "if it is a scan, rename it (T1w, T2w, FLAIR and so on); labels belong in derivatives/"
    else:
        kind = "not a BIDS name for a NIfTI file"
        fix = "rename it as in sub-01_T1w.nii.gz, and convert other formats to NIfTI"
    return Finding(Level.WARNING, None, "not_a_scan", f"{kind}: {some_files(root, paths)} not used", fix)


def some_files(root: Path, paths: Sequence[Path]) -> str:
    """`3 files, such as A and B,`: how many, and the first of them."""
    shown = " and ".join(str(path.relative_to(root)) for path in paths[: _SHOWN - 1])
    if len(paths) >= _SHOWN:
        return f"{len(paths)} files, such as {shown}, are"
    return f"{shown} {'is' if len(paths) == 1 else 'are'}"


def _no_scan(root: Path, masks: Sequence[BidsFile], findings: Sequence[Finding]) -> DataError:
    expected = "sub-01/anat/sub-01_T1w.nii.gz and the like"
    if findings:
        return DataError(f"{root}: there is no scan; {findings[0].found}", expected=expected, fix=findings[0].fix)
    if masks:
        found = f"{root}: there is no scan, only masks; {some_files(root, [mask.path for mask in masks])} not used"
        return DataError(found, expected=expected, fix="put the scans there")
    kinds = sorted({folder.name for folder in session_folders(root, OTHER_DATATYPES)})
    if kinds and not any(session_folders(root, DATATYPES)):
        found = f"{root}: holds no images but those of {' and '.join(kinds)}"
        return DataError(found, expected=f"3D scans: {expected}", fix="add them, or write a CSV manifest")
    return DataError(f"{root}: there is no scan", expected=expected, fix="check the names with the BIDS validator")


def choose_channels(
    root: Path, scans: Sequence[BidsFile], is_labelled: Callable[[BidsFile], bool]
) -> tuple[Channels, list[Finding]]:
    """Assigns the scans of each session to channels.

    A channel is the suffix with its contrast entities. Of several runs one is used: the labelled one, else the first.
    Scans that differ otherwise (`acq-mprage`, `acq-spgr`) are channels of their own where most sessions have several of
    them; otherwise each session uses one: the labelled one, else the kind that most sessions have.

    Args:
        root: of the dataset.
        scans: all of them.
        is_labelled: whether a label names exactly this scan, e.g. by its run.

    Raises:
        DataError: two files are the same scan.
    """
    groups: dict[str, dict[str, list[BidsFile]]] = defaultdict(lambda: defaultdict(list))
    for scan in scans:
        groups[scan.only(_CONTRAST_ENTITIES)][scan.case].append(scan)
    channels: Channels = {scan.case: {} for scan in scans}
    findings: list[Finding] = []
    for name, sessions in sorted(groups.items()):
        _refuse_twins(sessions)
        variants = {case: {scan.without(("run",)) for scan in found} for case, found in sessions.items()}
        common = Counter(variant for found in variants.values() for variant in found)
        separate = 2 * sum(len(found) > 1 for found in variants.values()) > len(sessions)

        def rank(scan: BidsFile, common: Mapping[str, int] = common) -> tuple[bool, int, list[tuple[int, str]]]:
            return not is_labelled(scan), -common[scan.without(("run",))], natural(scan.path.name)

        left: list[BidsFile] = []
        for case, found in sessions.items():
            for scan in sorted(found, key=rank):
                channel = scan.without(("run",)) if separate else name
                if channels[case].setdefault(channel, scan) is not scan:
                    left.append(scan)
        if left:
            findings.append(_repeats(root, name, left, channels))
        elif not separate:
            findings += _mixture(name, [scan for found in sessions.values() for scan in found])
    return {case: dict(sorted(found.items())) for case, found in channels.items()}, findings


def _refuse_twins(sessions: Mapping[str, Sequence[BidsFile]]) -> None:
    for found in sessions.values():
        seen: dict[str, BidsFile] = {}
        for scan in found:
            first = seen.setdefault(scan.without(()), scan)
            if first is not scan:
                raise DataError(
                    f"{scan.path}: the same image as {first.path}", expected="one of them", fix="remove the other"
                )


def _repeats(root: Path, name: str, left: Sequence[BidsFile], channels: Channels) -> Finding:
    cases = sorted({scan.case for scan in left})
    taken = next(scan for scan in channels[left[0].case].values() if scan.only(_CONTRAST_ENTITIES) == name)
    found = (
        f"{name}: {len(cases)} session{'s have' if len(cases) > 1 else ' has'} several scans, of which one is used "
        f"({taken.path.name} of {taken.case}); {some_files(root, [scan.path for scan in left])} not used"
    )
    fix = "if you meant others, move these away, or choose the scans with a CSV manifest"
    return Finding(Level.WARNING, None, "repeated_scan", found, fix)


def _mixture(name: str, scans: Sequence[BidsFile]) -> Iterator[Finding]:
    """Reports a channel that is not the same kind of scan in all sessions."""
    kinds = Counter(scan.without(("run",)) for scan in scans)
    if len(kinds) > 1:
        counts = ", ".join(f"{kind} in {count} of {len(scans)} sessions" for kind, count in sorted(kinds.items()))
        fix = "if these are different contrasts, choose the cases or use a CSV manifest"
        yield Finding(Level.INFO, None, "mixed_scans", f"{name}: {counts}; used as one channel", fix)

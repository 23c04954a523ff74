"""Labels and brain masks of a BIDS dataset: which derivatives they are, and which belongs to which scan.

A *kind* is what a file is: its pipeline, suffix and the entities `label`, `desc`, `seg` and the like. Entities of the
scan (`run`, `acq`, …) and of the grid (`space`, `res`) do not count; they say which scan of a session it belongs to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.checks.finding import Finding, Level
from data.errors import DataError
from data.layouts.bids_file import GRID_ENTITIES, SCAN_ENTITIES, BidsFile, closeness, parse_name
from data.layouts.bids_scans import MASK_SUFFIXES, OTHER_DATATYPES, Channels, some_files
from data.natural_order import natural

DERIVATIVES = "derivatives"
OWN_DESCRIPTION = "graft"
"""The entity `desc` of masks that `graft predict` wrote."""


@dataclass(frozen=True)
class Kind:
    """What a derivative is, e.g. `manual: label-lesion_mask`."""

    pipeline: str
    what: str
    own: bool

    def __str__(self) -> str:
        return f"{self.pipeline}: {self.what}" if self.pipeline else self.what


Kinds = Mapping[Kind, Sequence[BidsFile]]


def find_derivatives(root: Path) -> tuple[Kinds, Kinds]:
    """Finds the files that could be labels, and the brain masks, by kind."""
    labels: dict[Kind, list[BidsFile]] = defaultdict(list)
    brains: dict[Kind, list[BidsFile]] = defaultdict(list)
    derivatives = root / DERIVATIVES
    for path in sorted(derivatives.rglob("sub-*")):
        file = parse_name(path)
        if file is None or file.suffix not in MASK_SUFFIXES or path.parent.name in OTHER_DATATYPES or path.is_dir():
            continue
        folders = path.relative_to(derivatives).parts[:-1]
        depth = next((i for i, part in enumerate(folders) if part.startswith("sub-")), len(folders))
        own = file.entities.get("desc") == OWN_DESCRIPTION
        kind = Kind("/".join(folders[:depth]), file.without((*SCAN_ENTITIES, *GRID_ENTITIES)), own)
        is_brain = file.suffix == "mask" and file.entities.get("desc") == "brain"
        (brains if is_brain else labels)[kind].append(file)
    return labels, brains


def usable_kinds(kinds: Kinds, scans: Iterable[BidsFile]) -> Kinds:
    """The kinds with at least one file that belongs to a scan."""
    sessions = _by_subject(scans)
    return {kind: files for kind, files in kinds.items() if any(_cases(file, sessions) for file in files)}


def choose_label(root: Path, usable: Kinds, named: str | None) -> Kind | None:
    """Chooses the kind that is the label; Graft's own predictions only if there is no other, or if they are named.

    Args:
        root: of the dataset.
        usable: kinds with files that belong to scans.
        named: the kind that the user names (`manual: dseg`, or just `manual` or `dseg`), if any.

    Raises:
        DataError: several kinds could be the label, or the name fits none or several.
    """
    if named is None:
        offered = [kind for kind in usable if not kind.own] or list(usable)
        found = "several derivatives could be the label"
    else:
        offered = [kind for kind in usable if named in (str(kind), kind.pipeline, kind.what)]
        found = f"{'several' if offered else 'no'} derivatives are the label kind {named!r}"
    if len(offered) > 1 or (named is not None and not offered):
        listed = offered or list(usable)
        offers = "; ".join(f"{kind} ({_cases_of(usable[kind])})" for kind in listed)
        example = f' (for example `label_kind: "{listed[-1]}"`)' if listed else ""
        raise DataError(
            f"{root / DERIVATIVES}: {found}: {offers or 'there is none'}",
            expected="one kind of label",
            fix=f"name it as `label_kind` of the dataset in the study{example}, or list the labels in a CSV manifest",
        )
    return next(iter(offered), None)


def _cases_of(files: Sequence[BidsFile]) -> str:
    count = len({file.case for file in files})
    return f"{count} case{'s' if count != 1 else ''}"


def brain_mask_kind(usable: Kinds) -> Kind | None:
    """The kind of brain mask that most cases have."""
    return min(usable, key=lambda kind: (-len(usable[kind]), kind.own, str(kind)), default=None)


def assign(files: Sequence[BidsFile], channels: Channels) -> tuple[dict[str, list[BidsFile]], list[BidsFile]]:
    """Assigns to each case the file of one kind that belongs to its scans.

    Returns:
        Case → the closest file, several where they are equally close; and, for cases without one, the files that
        belong to no scan that is used.
    """
    sessions = _by_subject(scan for found in channels.values() for scan in found.values())
    candidates: dict[str, list[tuple[int, BidsFile]]] = defaultdict(list)
    homeless = []
    for file in files:
        cases = _cases(file, sessions)
        if len(cases) == 1:
            candidates[next(iter(cases))].append((next(iter(cases.values())), file))
        else:
            homeless.append(file)
    assigned = {case: _closest(found) for case, found in candidates.items()}
    return assigned, [file for file in homeless if file.case not in assigned]


def _by_subject(scans: Iterable[BidsFile]) -> dict[str, dict[str, list[BidsFile]]]:
    sessions: dict[str, dict[str, list[BidsFile]]] = defaultdict(lambda: defaultdict(list))
    for scan in scans:
        sessions[scan.entities["sub"]][scan.case].append(scan)
    return sessions


def _cases(file: BidsFile, sessions: Mapping[str, Mapping[str, Sequence[BidsFile]]]) -> dict[str, int]:
    """The cases to whose scans a file may belong, with its closeness to the closest of them."""
    found = {}
    for case, scans in sessions.get(file.entities["sub"], {}).items():
        shared = [number for scan in scans if (number := closeness(file, scan)) is not None]
        if shared:
            found[case] = max(shared)
    return found


def require_one(labels: Mapping[str, Sequence[BidsFile]]) -> dict[str, BidsFile]:
    """The label of each case.

    Raises:
        DataError: several are equally close to the scans of a case.
    """
    for case, found in labels.items():
        if len(found) > 1:
            raise DataError(
                f"{case}: both {found[0].path} and {found[1].path} could be its label",
                expected="one label of a kind for each session",
                fix="name them after the scan that is used, or move one of them out of derivatives/",
            )
    return {case: found[0] for case, found in labels.items()}


def _closest(candidates: Sequence[tuple[int, BidsFile]]) -> list[BidsFile]:
    """The files that share most entities with the scans; of one segmentation on several grids the shortest name."""

    def order(candidate: tuple[int, BidsFile]) -> tuple[int, int, list[tuple[int, str]]]:
        shared, file = candidate
        return -shared, sum(key in file.entities for key in GRID_ENTITIES), natural(file.path.name)

    (most, first), *others = sorted(candidates, key=order)
    equal = [other for shared, other in others if shared == most]
    # The same file on another grid is not a rival; another scan, or the same name in another folder or format, is.
    return [
        first,
        *(
            other
            for other in equal
            if other.without(GRID_ENTITIES) != first.without(GRID_ENTITIES) or other.without(()) == first.without(())
        ),
    ]


def label_findings(
    root: Path, kind: Kind | None, kinds: Kinds, homeless: Sequence[BidsFile], masks: Sequence[BidsFile]
) -> list[Finding]:
    """Reports what a user should know about the choice: unused labels, masks beside the scans, predicted labels."""
    findings = []
    if kind is None:
        homeless = [file for files in kinds.values() for file in files]
    if homeless:
        found = f"labels that belong to none of the scans: {some_files(root, [f.path for f in homeless])} not used"
        fix = "name each after its scan (sub-01_ses-1_dseg.nii.gz), on the grid of the scan, or add the scan"
        findings.append(Finding(Level.WARNING, None, "label_without_scan", found, fix))
    if kind is not None and kind.own:
        found = f"the labels ({kind}) are masks that Graft predicted"
        fix = "if there are masks drawn by hand, put them into derivatives/ too; they then become the labels"
        findings.append(Finding(Level.INFO, None, "predicted_labels", found, fix))
    if masks:
        found = f"masks beside the scans are never inputs: {some_files(root, [mask.path for mask in masks])} not used"
        if kind is None:
            fix = f"to use them as labels, move them to {DERIVATIVES}/manual/sub-…/anat/, names unchanged"
            findings.append(Finding(Level.WARNING, None, "mask_beside_scan", found, fix))
        else:
            fix = f"no action is needed: the labels are {DERIVATIVES}/{kind}"
            findings.append(Finding(Level.INFO, None, "mask_beside_scan", found, fix))
    return findings

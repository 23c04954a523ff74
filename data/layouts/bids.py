"""The Brain Imaging Data Structure: the subset for 3D scans with masks or segmentations in `derivatives`.

Read are `sub-*/[ses-*/]{anat,ct,pet}/*_SUFFIX.nii[.gz]` and `derivatives/**/sub-*_{dseg,mask}.nii[.gz]`. A case is one
session; the participant is the patient. Gorgolewski et al. 2016, Scientific Data 3, 160044; specification 1.10,
"Magnetic Resonance Imaging" and "Imaging derivatives".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from data.case import Case, ImageSource
from data.checks.finding import Finding
from data.dataset import Dataset
from data.input_file import is_there
from data.layouts.bids_file import BidsFile, closeness
from data.layouts.bids_labels import (
    DERIVATIVES,
    assign,
    brain_mask_kind,
    choose_label,
    find_derivatives,
    label_findings,
    require_one,
    usable_kinds,
)
from data.layouts.bids_scans import DATATYPES, OTHER_DATATYPES, choose_channels, find_scans, session_folders
from data.layouts.patients import group_cases
from data.layouts.undeclared_labels import LABELS_FILE, label_names_of, read_label_table

# Entities by which a label names one of several scans of a session.
_TELLING_ENTITIES = ("acq", "rec", "run", "proc", "chunk")


class BidsLayout:
    """Scans in `sub-*/anat` or `sub-*/ses-*/anat`, masks and segmentations in `derivatives`."""

    name = "bids"
    description = "BIDS: sub-*/[ses-*/]anat/*_T1w.nii.gz, labels in derivatives/*/sub-*/…_dseg.nii.gz or _mask.nii.gz"

    def matches(self, root: Path) -> bool:
        """Whether the folder has a participant with images."""
        return root.is_dir() and any(session_folders(root, (*DATATYPES, *OTHER_DATATYPES)))

    def read(self, root: Path, labels: bool = True, label_kind: str | None = None) -> Dataset:
        """Reads the dataset; see `Layout.read`."""
        scans, masks, findings = find_scans(root)
        kinds, brains = find_derivatives(root)
        usable, usable_brains = usable_kinds(kinds, scans), usable_kinds(brains, scans)
        kind = choose_label(root, usable, label_kind) if labels else None
        drawn = usable[kind] if kind else ()
        channels, chosen = choose_channels(root, scans, _named_by(drawn))
        findings += chosen
        assigned, homeless = assign(drawn, channels)
        own_label = require_one(assigned)
        brain_kind = brain_mask_kind(usable_brains)
        own_brain, _ = assign(usable_brains[brain_kind] if brain_kind else (), channels)
        if labels:
            findings += label_findings(root, kind, kinds, homeless, masks)
        cases = [
            Case(
                name=name,
                patient=name.split("_")[0],
                channels={channel: ImageSource(scan.path) for channel, scan in found.items()},
                label=own_label[name].path if name in own_label else None,
                brain_mask=own_brain[name][0].path if name in own_brain else None,
            )
            for name, found in channels.items()
        ]
        grouped, has_patients = group_cases(root, cases, grouped_by_layout=True)
        channel_names = tuple(sorted({channel for case in cases for channel in case.channels}))
        names, undeclared = _label_names(root, grouped, list(own_label.values())) if labels else ({}, [])
        noticed = (*findings, *undeclared)
        return Dataset(root, self.name, grouped, channel_names, names, has_patients, noticed)


def _named_by(labels: Sequence[BidsFile]) -> Callable[[BidsFile], bool]:
    """Returns the test whether a label names a scan, and not another one of its session."""
    by_subject: dict[str, list[BidsFile]] = defaultdict(list)
    for label in labels:
        by_subject[label.entities["sub"]].append(label)

    def named(scan: BidsFile) -> bool:
        return any(
            any(key in label.entities and key in scan.entities for key in _TELLING_ENTITIES)
            and closeness(label, scan) is not None
            for label in by_subject[scan.entities["sub"]]
        )

    return named


def _label_names(root: Path, cases: Sequence[Case], labels: Sequence[BidsFile]) -> tuple[dict[int, str], list[Finding]]:
    """Names from `dseg.tsv` (columns index, name), for a mask from its entities, else as for any layout."""
    tables = [] if is_there(root / LABELS_FILE) else _tables(root / DERIVATIVES, labels)
    if tables:
        names: dict[int, str] = {}
        for table in tables:
            names.update(read_label_table(table, value_column="index", delimiter="\t"))
        return dict(sorted(names.items())), []
    first = labels[0] if labels else None
    single = first is not None and first.suffix != "dseg" and (first.suffix == "mask" or "label" in first.entities)
    if first is not None and single and not (root / LABELS_FILE).is_file():
        return {0: "background", 1: first.entities.get("label", first.entities.get("desc", "foreground"))}, []
    return label_names_of(root, cases)


def _tables(derivatives: Path, labels: Sequence[BidsFile]) -> list[Path]:
    """The table `…_dseg.tsv` of each label by BIDS' inheritance: the nearest above whose entities the label has."""

    @cache
    def tables_in(folder: Path) -> list[Path]:
        return sorted(table for table in folder.glob("*dseg.tsv") if not table.name.startswith("."))

    def table_of(label: BidsFile) -> Path | None:
        for folder in label.path.parents:
            fitting = [table for table in tables_in(folder) if _applies(table, label)]
            if fitting or folder == derivatives:
                return max(fitting, key=lambda table: table.name.count("-"), default=None)
        return None

    return sorted({table for label in labels if (table := table_of(label))})


def _applies(table: Path, label: BidsFile) -> bool:
    pairs = (part.partition("-") for part in table.stem.split("_")[:-1] if "-" in part)
    return all(label.entities.get(key) == value for key, _, value in pairs)

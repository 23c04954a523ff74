"""BIDS file names, parsed, and which derivative was made from which scan.

Specification 1.10, "Entities" and the schema's rules/entities.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.image_file import NIFTI_SUFFIXES, image_stem, image_suffix

SCAN_ENTITIES = (
    *("ses", "task", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir", "run", "mod"),
    *("echo", "flip", "inv", "mt", "part", "proc", "chunk"),
)
"""Entities that a derivative inherits from the scan that it was made from."""
GRID_ENTITIES = ("space", "cohort", "res", "den")
"""Entities that say on which grid a derivative lies. All others say what it is."""

_NATIVE_SPACES = ("orig", "native", "individual", "scanner")


@dataclass(frozen=True)
class BidsFile:
    """A parsed file name: `sub-01_ses-2_acq-high_T1w.nii.gz`.

    Attributes:
        path: the file.
        entities: `{"sub": "01", "ses": "2", "acq": "high"}`.
        suffix: `T1w`; empty where the name ends in an entity.
        words: parts that are not entities, as the `T1w` of `sub-01_T1w_desc-lesion_mask.nii.gz`.
    """

    path: Path
    entities: Mapping[str, str]
    suffix: str
    words: tuple[str, ...] = ()

    @property
    def case(self) -> str:
        """The session it belongs to, e.g. `sub-01_ses-2`."""
        return "_".join(f"{key}-{self.entities[key]}" for key in ("sub", "ses") if key in self.entities)

    def only(self, keys: tuple[str, ...]) -> str:
        """The suffix, preceded by those of the given entities that the file has."""
        return "_".join([*(f"{key}-{value}" for key, value in self.entities.items() if key in keys), self.suffix])

    def without(self, keys: tuple[str, ...]) -> str:
        """The suffix, preceded by all entities but `sub`, `ses` and the given ones."""
        return self.only(tuple(key for key in self.entities if key not in ("sub", "ses", *keys)))


def parse_name(path: Path) -> BidsFile | None:
    """Parses a BIDS file name; `None` if it is not one."""
    if image_suffix(path) not in NIFTI_SUFFIXES or not path.name.startswith("sub-"):
        return None
    *parts, suffix = image_stem(path).split("_")
    if "-" in suffix:
        parts, suffix = [*parts, suffix], ""
    entities: dict[str, str] = {}
    words = []
    for part in parts:
        key, dash, value = part.partition("-")
        if not dash:
            words.append(part)
        elif not key or not value or key in entities:
            return None
        else:
            entities[key] = value
    return BidsFile(path, entities, suffix, tuple(words))


def closeness(derivative: BidsFile, scan: BidsFile) -> int | None:
    """Returns how closely a derivative matches a scan that it may have been made from, on its grid.

    A derivative may omit entities of the scan, and a scan those that all scans of a study share.

    Returns:
        How many entities the two share, or `None` if they contradict each other.
    """
    if derivative.entities.get("sub") != scan.entities.get("sub"):
        return None
    shared = [key for key in SCAN_ENTITIES if key in derivative.entities and key in scan.entities]
    if any(_plain(derivative.entities[key]) != _plain(scan.entities[key]) for key in shared):
        return None
    if derivative.words and scan.suffix not in derivative.words:
        return None
    space = derivative.entities.get("space")
    own = (*_NATIVE_SPACES, scan.suffix, scan.entities.get("space", ""))
    if space is not None and space.lower() not in {name.lower() for name in own}:
        return None
    return len(shared) + len(derivative.words)


def _plain(value: str) -> str:
    # `run-1` and `run-01` are one run.
    return str(int(value)) if value.isdecimal() else value

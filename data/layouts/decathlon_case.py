"""Cases of MSD and nnU-Net: each is its own patient, and brain masks lie in a folder that Graft adds to the layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data.case import Case, ImageSource
from data.image_file import SUFFIXES
from data.names import check_name

MASK_FOLDER = "masksTr"


def decathlon_case(root: Path, name: str, channels: Mapping[str, ImageSource], label: Path | None) -> Case:
    """Returns a case, with the brain mask `masksTr/CASE` of any image suffix if there is such a file.

    Raises:
        DataError: the name of the case cannot be part of a path.
    """
    check_name("case", name, root)
    candidates = (root / MASK_FOLDER / f"{name}{suffix}" for suffix in SUFFIXES)
    mask = next((path for path in candidates if path.is_file()), None)
    return Case(name=name, patient=name, channels=channels, label=label, brain_mask=mask)

"""Records of `graft preprocess --model`: the model that scans were prepared for, and how to undo the preparation."""

from __future__ import annotations

from typing import Any

from data.stored_record import StoredRecord


class PreparedFor(StoredRecord):
    """The model that scans were prepared for."""

    study: str
    """Its study."""
    arm: str
    """Its arm."""
    sha256: str
    """Digest of its checksums."""


class PreparedFolder(StoredRecord):
    """`prepared.json` of a folder."""

    model: PreparedFor
    """The model that its scans were prepared for."""


class PreparedScan(StoredRecord):
    """`records/NAME/record.json` of a scan."""

    model: str
    """Digest of the model's checksums."""
    affine: list[list[float]]
    """Of the prepared scan, to RAS+ millimetres."""
    records: list[dict[str, Any]]
    """What each step did, so that it can be undone."""
    suspect: tuple[str, ...]
    """Why the result is implausible."""
    sources: dict[str, str]
    """Channel → name of its file."""

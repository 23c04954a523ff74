"""`sample.json` of a source network or of the trunk: the patients that it was trained and validated on."""

from __future__ import annotations

from data.stored_record import StoredRecord


class SampleRecord(StoredRecord):
    """The bootstrap sample of a source network."""

    drawn: tuple[str, ...]
    """Patients, as often as they were drawn."""
    out_of_bag: tuple[str, ...]
    """Patients that were never drawn; for a branch, not for its trunk either."""
    validated_on: tuple[str, ...] = ()
    """Their cases that it was validated on."""

"""`record.json` of a preprocessed case: what every step did."""

from __future__ import annotations

from pydantic import ConfigDict

from data.stored_record import ListRecord, StoredRecord
from preprocessing.step import Record


class StepRecord(StoredRecord):
    """What one step did, and beside these fields what the step needs to undo it."""

    model_config = ConfigDict(extra="allow")

    step: str
    """Name of the step."""
    suspect: tuple[str, ...] = ()
    """Why its outcome is implausible."""


class ChainRecord(ListRecord):
    """What all steps did."""

    steps: tuple[StepRecord, ...]
    """In their order."""

    def records(self) -> list[Record]:
        """What each step needs to undo it."""
        return [step.model_dump() for step in self.steps]

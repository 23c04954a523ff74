"""`provenance.json`: commands, versions, inputs and run times of a study. Every key may be missing."""

from __future__ import annotations

from pydantic import Field

from data.stored_record import StoredRecord


class Machine(StoredRecord):
    """Where it ran."""

    cpu: str | None = None
    """Model of the processor."""
    cpu_count: int | None = None
    """Its cores."""
    memory_gb: float | None = None
    """Main memory."""
    platform: str | None = None
    """Operating system."""
    device: str | None = None
    """Device that networks were trained on; before any training, the requested one."""


class InputFacts(StoredRecord):
    """A dataset."""

    root: str = ""
    """Its folder, as the configuration names it."""
    layout: str = ""
    """Its layout."""
    cases: int = 0
    """Number of cases."""
    sha256: str = ""
    """Digest of all its files."""


class StageFacts(StoredRecord):
    """A stage, over all commands that worked on it."""

    wall_seconds: float = 0.0
    """Wall time."""
    work_seconds: float = 0.0
    """Time of all units together."""
    peak_memory_gb: float | None = None
    """Memory of the largest process."""
    units: int | None = None
    """Units of the stage."""
    units_done: int | None = None
    """Units that the last command did."""
    units_reused: int | None = None
    """Units that it found done."""
    units_failed: int = 0
    """Units that failed."""
    device: str | None = None
    """Device that it trained on."""
    precision: str | None = None
    """Precision that it trained in."""


class Provenance(StoredRecord):
    """The whole file."""

    graft_version: str | None = None
    """Version of the program."""
    git_commit: str = ""
    """Commit of the checkout, if it ran from one."""
    command: str | None = None
    """The last command."""
    seed: int | None = None
    """Of the study."""
    started: str | None = None
    """When the first command began, ISO 8601."""
    finished: str | None = None
    """When the last stage ended."""
    machine: Machine = Machine()
    """Where it ran."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Package → version."""
    inputs: dict[str, InputFacts] = Field(default_factory=dict)
    """Dataset → facts."""
    stages: dict[str, StageFacts] = Field(default_factory=dict)
    """Stage → facts."""

"""`provenance.json`: what ran, with which versions, on which inputs, for how long. Every key may be missing."""

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
    """What networks were trained on; as asked for, before any was."""


class InputFacts(StoredRecord):
    """A dataset."""

    root: str = ""
    """Its folder, as the configuration names it."""
    layout: str = ""
    """How its files are laid out."""
    cases: int = 0
    """Number of cases."""
    sha256: str = ""
    """Digest of all its files."""


class StageFacts(StoredRecord):
    """A stage, over all commands that worked on it."""

    wall_seconds: float = 0.0
    """Time that passed."""
    work_seconds: float = 0.0
    """Time of all units together."""
    peak_memory_gb: float | None = None
    """Memory of the largest process."""
    units: int | None = None
    """Units of the stage."""
    units_done: int | None = None
    """Those that the last command did."""
    units_reused: int | None = None
    """Those that it found done."""
    units_failed: int = 0
    """Those that failed."""
    device: str | None = None
    """What it trained on."""
    precision: str | None = None
    """What it trained in."""


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

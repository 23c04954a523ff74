"""The workspace: the folder of one study. Every stage reads and writes here and nowhere else."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import WorkspaceError
from pipeline.storage.digest import FileDigests


class Workspace:
    """Paths of one study's folder.

    Args:
        root: the folder; made if it is missing.

    Raises:
        WorkspaceError: the path is a file or cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkspaceError(
                f"{root}: the workspace cannot be made ({error.strerror})",
                expected="a folder that can be written",
                fix="name another with --workspace",
            ) from error
        self.file_digests = FileDigests(root / "file-digests.json")

    def unit_folder(self, stage: str, key: str) -> Path:
        """The folder of a unit, e.g. `infer/dwp/n05/repeat-0`."""
        return self.root / stage / key

    def synthetic_folder(self, cohort: str) -> Path:
        """Where the raw scans of a synthetic cohort lie."""
        return self.root / "synthetic" / cohort

    @property
    def resolved_config(self) -> Path:
        """The configuration with every default written out."""
        return self.root / "config.resolved.yaml"

    @property
    def provenance(self) -> Path:
        """What ran, with which versions, on which inputs, for how long."""
        return self.root / "provenance.json"

    @property
    def results(self) -> Path:
        """The folder of the tables."""
        return self.root / "results"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the workspace for one command; the system frees it however the command ends.

        Raises:
            WorkspaceError: another command holds it.
        """
        try:
            stream = (self.root / ".lock").open("a")
        except OSError as error:
            raise WorkspaceError(
                f"{self.root}: the workspace cannot be written ({error.strerror})",
                expected="a folder that can be written",
                fix="name another with --workspace",
            ) from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WorkspaceError(
                    f"{self.root}: another graft command is at work in this workspace",
                    expected="one command at a time",
                    fix="wait for it, or name another workspace with --workspace",
                ) from error
            yield

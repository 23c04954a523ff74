"""The workspace: the folder of one study, in which every stage reads and writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, islice
from pathlib import Path

from data.errors import WorkspaceError
from pipeline.storage.digest import FileDigests
from pipeline.storage.file_names import CONFIG, FILE_DIGESTS, PROVENANCE, RESULTS
from pipeline.storage.lock import only_command
from pipeline.storage.shared_memory import remove_shared_memory


class Workspace:
    """Paths of one study's folder, which is made if it is missing.

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
        self.file_digests = FileDigests(root / FILE_DIGESTS)

    def unit_folder(self, stage: str, key: str) -> Path:
        """The folder of a unit, e.g. `infer/dwp/n05/repeat-0`.

        A unit replaces its folder, so this is the last defence against names that lead elsewhere (`data.names` is the
        first): the folder of a unit is never the workspace itself or anything outside it.

        Raises:
            WorkspaceError: the folder would lie elsewhere, by its name or through a link.
        """
        folder = self.root / stage / key
        steps = [*(stage.split("/") if stage else ()), *key.split("/")]
        plain = all(step not in ("", ".", "..") for step in steps)
        ways = accumulate(steps, os.path.join, initial=os.fspath(self.root))
        # The workspace itself may be a link; `resolve` would follow it again for each of thousands of units.
        if not plain or any(os.path.islink(way) for way in islice(ways, 1, None)):
            raise WorkspaceError(
                f"{folder}: does not lie in {self.root}",
                expected="a folder inside it, not a link to another place",
                fix="rename what it is named after, or remove the link",
            )
        return folder

    def synthetic_folder(self, cohort: str) -> Path:
        """The folder of a synthetic cohort's raw scans."""
        return self.root / "synthetic" / cohort

    @property
    def resolved_config(self) -> Path:
        """The configuration with every default written out."""
        return self.root / CONFIG

    @property
    def provenance(self) -> Path:
        """Commands, versions, inputs and run times."""
        return self.root / PROVENANCE

    @property
    def results(self) -> Path:
        """The folder of the tables."""
        return self.root / RESULTS

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Reserves the workspace for one command, and removes what a killed one left in shared memory.

        Raises:
            WorkspaceError: another command holds it.
        """
        with only_command(self.root, remove_shared_memory):
            yield

"""What a node has of the command's machine: the workspace, and the same Graft."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from data.errors import GraftError
from data.parallel import go_to
from pipeline.execution.provenance import graft_version
from pipeline.storage.atomic import write_json

_PACKAGES = ("data", "models", "preprocessing", "pipeline")


class NodeError(GraftError):
    """A node cannot run units of the study."""


@dataclass(frozen=True)
class NodeFacts:
    """What a machine says of itself.

    Attributes:
        host: its name.
        version: of Graft.
        code: digest of its code.
        place: folder of the code.
        sees: whether it sees the file that the command wrote into the workspace.
    """

    host: str
    version: str
    code: str
    place: str
    sees: bool

    @classmethod
    def here(cls, known: Path) -> NodeFacts:
        """The facts of this machine; `known` is a file that the command wrote into the workspace."""
        place = Path(__file__).parents[3]
        return cls(socket.gethostname(), graft_version(), _code_digest(place), str(place), known.is_file())

    def require_same(self, other: NodeFacts, workspace: Path) -> None:
        """Refuses a node that differs from the command's machine in what matters.

        Raises:
            NodeError: it does not see the workspace, or has another Graft.
        """
        if not other.sees:
            raise not_shared(other.host, workspace)
        if (self.version, self.code) != (other.version, other.code):
            same = "the same version with other code" if self.version == other.version else f"version {other.version}"
            raise NodeError(
                f"the node {other.host} has another Graft ({same}, in {other.place})",
                expected=f"version {self.version} with the code of {self.place}",
                fix="install the same one there, or name its Python in `execution.submitit.python`",
            )


def not_shared(host: str, workspace: Path) -> NodeError:
    """The error about a node that does not see the workspace."""
    return NodeError(
        f"{workspace}: the node {host} does not see this workspace",
        expected="a folder on a disk that all nodes share",
        fix="name one with --workspace",
    )


@cache
def _code_digest(place: Path) -> str:
    found = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((place / package).rglob("*.py")):
            found.update(f"{path.relative_to(place)}\0".encode())
            found.update(path.read_bytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Probe:
    """The first job: it looks at its node and writes what it finds.

    Attributes:
        known: file that the command wrote into the workspace.
        answer: file that it writes.
        folder: where relative paths begin.
    """

    known: Path
    answer: Path
    folder: str | None

    def __call__(self) -> None:
        """Writes the facts of the node."""
        go_to(self.folder)
        write_json(self.answer, asdict(NodeFacts.here(self.known)))

    def read(self, patience: float = 0.0) -> NodeFacts | None:
        """The facts that it wrote; waits for the disk to show them."""
        until = time.monotonic() + patience
        while True:
            try:
                return NodeFacts(**json.loads(self.answer.read_text()))
            except (OSError, ValueError, TypeError):
                if time.monotonic() >= until:
                    return None
            time.sleep(0.5)

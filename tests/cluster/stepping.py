"""A command for tests, in a process of its own: units that take steps, save them, and log each step."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from pipeline.execution.backend_options import SubmititOptions
from pipeline.execution.cluster.submitit_backend import SubmititBackend
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stopping import StopRequestedError
from pipeline.execution.unit import Unit
from pipeline.execution.units import Execution, run_units
from pipeline.storage.workspace import Workspace

STAGE = "stepping"


def take_steps(folder: Path, progress: ProgressFile, *, number: int, steps: int, seconds: float, log: Path) -> None:
    """Like a training: each step changes the state, which is saved after it."""
    state = folder / "state.json"
    done, value = json.loads(state.read_text()) if state.exists() else (0, number)
    for step in range(done, steps):
        time.sleep(seconds)
        value = (1103515245 * value + 12345) % 2**31
        # As one write each: the process may be killed between any two.
        (folder / "new").write_text(json.dumps([step + 1, value]))
        os.replace(folder / "new", state)
        with log.open("a") as stream:
            stream.write(f"{number} {step}\n")
        progress((step + 1) / steps)
        if progress.stop_requested and step + 1 < steps:
            raise StopRequestedError("stopped")
    state.unlink()
    (folder / "value.txt").write_text(str(value))


def units(root: Path, count: int, steps: int, seconds: float) -> list[Unit]:
    """Units that can be resumed."""
    return [
        Unit(
            STAGE,
            f"unit-{number}",
            {"number": number, "steps": steps},
            take_steps,
            {"number": number, "steps": steps, "seconds": seconds, "log": root / "steps.log"},
            resumable=True,
        )
        for number in range(count)
    ]


def main() -> None:
    """Runs the units that the arguments describe, and prints how each ended."""
    root, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    workspace = Workspace(root)
    own = units(root, settings["count"], settings["steps"], settings["seconds"])
    with workspace.lock():
        run = run_units(STAGE, own, workspace, Execution(1, 1, SubmititBackend(SubmititOptions(**settings["options"]))))
    print(json.dumps([[outcome.key, outcome.state, outcome.message] for outcome in run.outcomes]))


if __name__ == "__main__":
    main()

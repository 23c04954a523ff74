"""A command for tests, in a process of its own: units that take steps, save them, and log each step.

Its units are pretended or real trainings.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from models.networks.residual_unet import ResidualUNetOptions
from models.posteriors.mixture import MixtureOptions
from pipeline.arms.choices import L2, ArmOptions
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.training_unit import TrainingSettings, TrainingTask, train_member
from pipeline.execution.backend_options import SubmititOptions
from pipeline.execution.cluster.submitit_backend import SubmititBackend
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stopping import StopRequestedError
from pipeline.execution.unit import Unit
from pipeline.execution.units import Execution, run_units
from pipeline.storage.cached_case import ARRAYS, CachedCase
from pipeline.storage.tensors import save_arrays
from pipeline.storage.workspace import Workspace
from pipeline.training.augmentation import AugmentationOptions
from pipeline.training.patches import PatchOptions

CHECKPOINT_STEPS = 50
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


def training_task(root: Path) -> TrainingTask:
    """A mixture of two components on a case of noise with a bright cube, which lies in the workspace."""
    case = CachedCase("a", "a", root / "case", {"cube": (1,)})
    label = np.zeros((16, 16, 16), np.int16)
    label[4:9, 5:10, 6:11] = 1
    image = (2.0 * label + np.random.default_rng(0).normal(0, 0.3, label.shape))[None].astype(np.float32)
    arrays = {"image": image, "label": label, "mask": np.ones_like(label, np.uint8)}
    if not case.path.exists():
        save_arrays(root / "case" / ARRAYS, arrays, {"affine": np.eye(4).tolist(), "channels": ["T1"], "case": "a"})
    arm = ArmOptions(prior=L2, posterior=MixtureOptions(components=2))
    network = ResidualUNetOptions(channels=(4, 6), encoder_blocks=(0, 1))
    return TrainingTask(arm, TargetNetwork.of(network, case), 0, 1, 0, {"a": [case]}, (), (), {}, {}, {})


def training_settings(steps: int) -> TrainingSettings:
    """So many steps for each component."""
    options = TargetTrainingOptions(arms=["random"], steps=steps)
    patches = PatchOptions(size=(8, 8, 8), batch=1)
    return TrainingSettings(options, patches, AugmentationOptions(), 3, "cpu", checkpoint_steps=CHECKPOINT_STEPS)


class LoggedProgress(ProgressFile):
    """Notes each step of a training, and makes it slower."""

    def __init__(self, progress: ProgressFile, steps: int, log: Path) -> None:
        super().__init__(progress._path, saves=True)
        self._steps = steps
        self._log = log

    def __call__(self, fraction: float) -> None:
        time.sleep(0.12)
        with self._log.open("a") as stream:
            stream.write(f"{round(fraction * self._steps)}\n")
        super().__call__(fraction)


def train(folder: Path, progress: ProgressFile, *, task: TrainingTask, steps: int, log: Path) -> None:
    """Trains a member, and logs each step."""
    logged = LoggedProgress(progress, steps * task.arm.components, log)
    train_member(folder, logged, task=task, settings=training_settings(steps))


def trainings(root: Path, steps: int) -> list[Unit]:
    """A training of `infer`, of so many steps for each of two components."""
    arguments = {"task": training_task(root), "steps": steps, "log": root / "steps.log"}
    return [Unit(STAGE, "unit-0", {"steps": steps}, train, arguments, resumable=True)]


def main() -> None:
    """Runs the units that the arguments describe, and prints how each ended."""
    root, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    workspace = Workspace(root)
    if settings["training"]:
        own = trainings(root, settings["steps"])
    else:
        own = units(root, settings["count"], settings["steps"], settings["seconds"])
    with workspace.lock():
        run = run_units(STAGE, own, workspace, Execution(1, 1, SubmititBackend(SubmititOptions(**settings["options"]))))
    print(json.dumps([[outcome.key, outcome.state, outcome.message] for outcome in run.outcomes]))


if __name__ == "__main__":
    main()

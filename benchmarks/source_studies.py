"""What benchmarks of trainings share: studies of one dataset whose target is never trained, and running stages."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.report.study_files import folders, read_history
from pipeline.storage.file_names import HISTORY
from pipeline.storage.stage_names import Stage


def parser(description: str | None, output: str) -> argparse.ArgumentParser:
    """Options of the data and of the sizes; the caller adds its own."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--dataset", type=Path)
    found.add_argument("--foreground", nargs="+", default=["Anterior"], help="names of labels")
    found.add_argument("--output", type=Path, default=Path(output))
    found.add_argument("--modality", default="mr")
    found.add_argument("--patients", type=int, default=50)
    found.add_argument("--networks", type=int, default=1)
    found.add_argument("--seed", type=int, default=0)
    return found


def write_study(arguments: argparse.Namespace, name: str, spacing: float, **sections: Any) -> Path:
    """Writes a study; its target, which needs two patients, is never trained."""
    path: Path = arguments.output / f"{name}.yaml"
    about = {"path": str(arguments.dataset.resolve()), "modality": arguments.modality}
    values = {
        "name": name,
        "workspace": str(arguments.output / name),
        "seed": arguments.seed,
        "datasets": {"data": {**about, "foreground": arguments.foreground}},
        "source": {"dataset": "data", "patients": arguments.patients},
        "target": {"dataset": "data", "pool": 1, "test": 1},
        "preprocessing": {"resampling": {"spacing": [spacing] * 3}},
        "target_training": {"arms": ["random", "dwp"], "sizes": [1], "repeats": 1, "steps": 1},
        **sections,
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def source_training(arguments: argparse.Namespace, cycles: int, steps: int, **further: Any) -> dict[str, Any]:
    """The section of a training that is judged on all of its out-of-bag cases."""
    return {
        "networks": arguments.networks,
        "cycles": cycles,
        "steps_per_cycle": steps,
        "warm_up": min(50, max(steps // 4, 1)),
        # All of them: few cases say nothing about a thousandth.
        "validation_cases": 1000,
        **further,
    }


def command(stage: Stage, path: Path, jobs: int = 1) -> None:
    """Runs a stage of a study, with some units at a time."""
    print(f"$ graft {stage} {path} --jobs {jobs}", flush=True)
    subprocess.run([sys.executable, "-m", "pipeline.cli", stage, str(path), "--jobs", str(jobs)], check=True)


def prepare(path: Path) -> Path:
    """Checks and preprocesses the cases of a study; returns its workspace."""
    for stage in (Stage.CHECK, Stage.PREPROCESS):
        command(stage, path)
    return path.with_suffix("")


def run_stages(path: Path, prepared: Path, stages: Sequence[Stage], jobs: int = 1) -> Path:
    """Runs stages of a study from a copy of an earlier workspace; returns its workspace."""
    workspace = path.with_suffix("")
    if not workspace.is_dir():
        unfinished = path.with_name(f".{workspace.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(prepared, unfinished)
        unfinished.rename(workspace)
    for stage in stages:
        command(stage, path, jobs)
    return workspace


def out_of_bag_dice(workspace: Path) -> float:
    """Mean over the networks, at the end of their trainings."""
    found = []
    for folder in folders(workspace / Stage.TRAIN_SOURCE):
        measured = read_history(folder / HISTORY)["out_of_bag_dice"]
        found.append(float(measured[np.isfinite(measured)][-1]))
    return float(np.mean(found))

"""What benchmarks of studies share: how they begin, and stages that are run as a user types them."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.storage.stage_names import Stage


def parser_of_studies(description: str | None, output: str) -> argparse.ArgumentParser:
    """Options of every benchmark that runs studies of a dataset; the caller adds its own."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--dataset", type=Path)
    found.add_argument("--output", type=Path, default=Path(output))
    found.add_argument("--modality", default="mr")
    found.add_argument("--spacing", type=float, default=2.0, help="mm")
    found.add_argument("--patch", type=int, nargs=3, default=[24, 32, 24])
    found.add_argument("--batch", type=int, default=4)
    found.add_argument("--jobs", type=int, default=1)
    found.add_argument("--seed", type=int, default=0)
    return found


def arguments_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Reads the command line and makes the folder of the output; ends the program where no dataset is named."""
    found = parser.parse_args()
    if found.dataset is None:
        parser.exit(message=f"{parser.prog}: name --dataset\n")
    found.output = found.output.resolve()
    found.output.mkdir(parents=True, exist_ok=True)
    return found


def dataset_of(arguments: argparse.Namespace, foreground: Any) -> dict[str, Any]:
    """The dataset with some of its structures, as a study names it."""
    return {"path": str(arguments.dataset.resolve()), "modality": arguments.modality, "foreground": foreground}


def source_training(networks: int, cycles: int, steps: int, **further: Any) -> dict[str, Any]:
    """The section of source networks with some steps in each cycle."""
    warm_up = min(50, max(steps // 4, 1))
    return {"networks": networks, "cycles": cycles, "steps_per_cycle": steps, "warm_up": warm_up, **further}


def write_study(arguments: argparse.Namespace, name: str, values: dict[str, Any]) -> Path:
    """Writes a study whose workspace stands beside its file."""
    path: Path = arguments.output / f"{name}.yaml"
    named = {"name": name, "workspace": str(path.with_suffix("")), "seed": arguments.seed, **values}
    path.write_text(yaml.safe_dump(named, sort_keys=False))
    return path


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

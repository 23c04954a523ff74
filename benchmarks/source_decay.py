"""Which weight decay of the source networks leaves filters with structure, at no cost in Dice?

`python benchmarks/source_decay.py --dataset DIR --foreground NAME --output DIR` trains the same source network
(patients, seed, steps) once for each kind and strength of decay, and prints for each: Dice on out-of-bag patients,
and group by group the effective dimension of its filters, how much of them is still their random start, and the share
under the norm threshold. A decay is a better default where the Dice is not lower and the effective dimension and the
start are.

Decoupled decay acts by its product with the rates: weights that the data does not push shrink to exp(−Σ rate ·
decay), which is printed too. For other numbers of steps or rates it is this product that carries over, not the
strength.

Every step is a command as a user types it, and a run that was stopped goes on. Without a dataset there is nothing to
do.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data.stored_record import read_record
from pipeline.config.reading import read_config
from pipeline.priors.structure_record import FilterStructure
from pipeline.report.filter_files import group_folders
from pipeline.report.study_files import folders, read_history
from pipeline.storage.file_names import HISTORY, STRUCTURE, STRUCTURES
from pipeline.storage.stage_names import Stage
from pipeline.training.optimiser import Decay, DecayedWeights
from pipeline.training.schedule import cosine_cycles

DECAYS = (
    "decoupled:1e-4", "decoupled:1", "decoupled:3", "decoupled:3:kernels", "decoupled:10", "l2:1e-3", "l2:1e-4"
)  # fmt: skip
HEAD = ("decay", "exp(−Σ rate · decay)", "Dice", "group", "dimension", "still start", "start left", "under threshold")


def study(arguments: argparse.Namespace, name: str, **optimiser: Any) -> Path:
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
        "preprocessing": {"resampling": {"spacing": [arguments.spacing] * 3}},
        "network": {
            "name": "residual_unet",
            "channels": arguments.channels,
            "encoder_blocks": arguments.blocks,
        },
        "patches": {"size": arguments.patch, "batch": arguments.batch, "foreground_share": 0.0},
        "source_training": {
            "networks": arguments.networks,
            "cycles": arguments.cycles,
            "steps_per_cycle": arguments.steps,
            "warm_up": min(50, arguments.steps // 4),
            "optimiser": optimiser,
            # All of them: few cases say nothing about a thousandth.
            "validation_cases": 1000,
        },
        "target_training": {"arms": ["random", "dwp"], "sizes": [1], "repeats": 1, "steps": 1},
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def command(stage: Stage, path: Path) -> None:
    """Runs a stage of a study."""
    print(f"$ graft {stage} {path}", flush=True)
    subprocess.run([sys.executable, "-m", "pipeline.cli", stage, str(path), "--jobs", "1"], check=True)


def trained(arguments: argparse.Namespace, prepared: Path, name: str, **optimiser: Any) -> Path:
    """Trains the networks with one optimiser, from a copy of the prepared cases; returns the workspace."""
    workspace: Path = arguments.output / name
    if not workspace.is_dir():
        unfinished = arguments.output / f".{name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(prepared, unfinished)
        unfinished.rename(workspace)
    path = study(arguments, name, **optimiser)
    for stage in (Stage.TRAIN_SOURCE, Stage.COLLECT_FILTERS):
        command(stage, path)
    return workspace


def kept_by_decay(path: Path) -> float:
    """Share of its length that a weight without gradient keeps under decoupled decay."""
    options = read_config(path).source_training
    rates = (
        cosine_cycles(
            step,
            cycle=options.steps_per_cycle,
            peak=options.peak_rate,
            floor=options.floor_rate,
            warm_up=options.warm_up,
        )
        for step in range(options.cycles * options.steps_per_cycle)
    )
    return math.prod(1 - rate * options.optimiser.weight_decay for rate in rates)


def rows(workspace: Path, name: str, kept: str) -> list[tuple[str, ...]]:
    """Rows of the table, a group each; what is true of all groups stands in the first."""
    dice = []
    for folder in folders(workspace / Stage.TRAIN_SOURCE):
        measured = read_history(folder / HISTORY)["out_of_bag_dice"]
        dice.append(float(measured[np.isfinite(measured)][-1]))
    found: list[tuple[str, ...]] = []
    for folder in group_folders(workspace, STRUCTURES):
        own = read_record(folder / STRUCTURE, FilterStructure)
        shares = (own.still_start, own.start_left, own.under_threshold)
        texts = (f"{100 * share.mean:.1f} %" for share in shares)
        first = ("", "", "") if found else (name, kept, f"{np.mean(dice):.3f}")
        found.append((*first, own.group, f"{own.effective_dimension.mean:.1f}", *texts))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--foreground", nargs="+", default=["Anterior"], help="names of labels")
    parser.add_argument("--output", type=Path, default=Path("source-decay"))
    parser.add_argument("--decays", nargs="+", default=DECAYS, metavar="KIND:STRENGTH[:WEIGHTS]")
    parser.add_argument("--modality", default="mr")
    parser.add_argument("--patients", type=int, default=50)
    parser.add_argument("--spacing", type=float, default=2.0, help="mm")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--blocks", type=int, nargs="+", default=[0, 2, 2, 5])
    parser.add_argument("--patch", type=int, nargs=3, default=[24, 32, 24])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--networks", type=int, default=1)
    parser.add_argument("--cycles", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200, help="in each cycle of a source network")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.dataset is None:
        print("source decay: name --dataset")
        return
    arguments.output = arguments.output.resolve()
    arguments.output.mkdir(parents=True, exist_ok=True)
    prepared = study(arguments, "prepared")
    for stage in (Stage.CHECK, Stage.PREPROCESS):
        command(stage, prepared)
    table = [HEAD, ("---",) * len(HEAD)]
    for text in arguments.decays:
        kind, strength, *which = text.split(":")
        name = text.replace(":", "-")
        decayed = which[0] if which else DecayedWeights.ALL.value
        optimiser = {"decay": kind, "weight_decay": float(strength), "decayed": decayed}
        workspace = trained(arguments, arguments.output / "prepared", name, **optimiser)
        path = arguments.output / f"{name}.yaml"
        kept = f"{kept_by_decay(path):.3g}" if kind == Decay.DECOUPLED else "–"
        table += rows(workspace, text.replace(":", " "), kept)
        print("\n".join(f"| {' | '.join(row)} |" for row in table), flush=True)


if __name__ == "__main__":
    main()

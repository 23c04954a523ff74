"""Does a start from scans without labels help the target, and which objective helps most?

`python benchmarks/self_supervised.py --dataset DIR --source NAME --target NAME --output DIR` trains an image model for
every objective on the scans of source and pool, labels unused, and learns n patients of the target from each. Beside
them, on the same patients: `random`, which knows nothing, and `fine_tune`, whose start has seen labels of the source.

- `--from-source`: every objective once more, from a source network on; does it add to what labels gave?
- `--unlabelled N`: so many further patients, whose labels are withheld. They help image models alone.
- `--rates`: peak rates are tuned out of fold, the same ones for every arm. A start that wants another rate than
  `fine_tune` is judged at its own.

Two tables: Dice on the test patients, with paired differences to `random` and `fine_tune`; and what it costs, in
seconds of work for a start (an image model, or source network 0) and for a training on the target.

Every step is a command as a user types it, and a run that was stopped goes on. Without a dataset there is nothing to
do.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from result_tables import case_rows, dice_table
from study_runs import arguments_of, command, source_training
from transfer_studies import parser_of_transfer, transfer_study, tuning

from models.image_models.objectives import OBJECTIVE_NAMES
from pipeline.arms.arm_record import TRAININGS
from pipeline.execution.unit import MARKER
from pipeline.report.study_files import StudyFiles
from pipeline.storage.file_names import IMAGE_MODELS
from pipeline.storage.owned_folder import read_manifest
from pipeline.storage.stage_names import Stage
from pipeline.training.source_network import network_key

REFERENCES = ("random", "fine_tune")
"""Arms that the others are compared with."""
STAGES = (Stage.CHECK, Stage.PREPROCESS, Stage.TRAIN_SOURCE, Stage.INFER, Stage.EVALUATE)
"""No arm has a prior, so none of filters."""


def image_models(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The image models; an arm of the same name starts from each."""
    plain = {name: {"objective": name, "steps": arguments.image_steps} for name in arguments.objectives}
    going_on = {f"{name}_from_source": {**own, "from_source": True} for name, own in plain.items()}
    return plain | (going_on if arguments.from_source else {})


def study(arguments: argparse.Namespace) -> Path:
    """Writes the study."""
    models = image_models(arguments)
    starts = {name: {"preset": "self_supervised", "image_model": name} for name in models}
    unlabelled = {"unlabelled": {"cases": arguments.unlabelled, "withhold_labels": True}}
    sections = {
        "target": unlabelled if arguments.unlabelled else {},
        # As many steps for the source network as for an image model.
        "source_training": source_training(1, 1, arguments.image_steps),
        "image_models": models,
        "target_training": {
            "arms": {**{name: {} for name in REFERENCES}, **starts},
            "steps": arguments.target_steps,
            **tuning(arguments.rates),
        },
    }
    return transfer_study(arguments, "self-supervised", sections)


def time_table(workspace: Path, models: dict[str, dict[str, Any]]) -> str:
    """Seconds of work for the start of each arm, and for one training on the target."""
    starts = {name: workspace / IMAGE_MODELS / name for name in models}
    starts["fine_tune"] = workspace / Stage.TRAIN_SOURCE / network_key(0)
    lines = ["| arm | start, s | training, s |", "|---|---|---|"]
    units = StudyFiles(workspace).units
    for arm in dict.fromkeys(unit.arm for unit in units):
        folders = [workspace / TRAININGS / key for unit in units if unit.arm == arm for key in unit.record.trainings]
        seconds = np.mean([work(folder) for folder in folders])
        start = f"{work(starts[arm]):.0f}" if arm in starts else "–"
        lines.append(f"| {arm} | {start} | {seconds:.0f} |")
    return "\n".join(lines)


def work(folder: Path) -> float:
    """Seconds that a finished unit took."""
    marker = read_manifest(folder / MARKER)
    return float("nan") if marker is None else float(marker["seconds"])


def main() -> None:
    parser = parser_of_transfer(__doc__, "self-supervised")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVE_NAMES, default=list(OBJECTIVE_NAMES))
    parser.add_argument("--from-source", action="store_true", help="also go on from a source network")
    parser.add_argument("--unlabelled", type=int, default=0, help="further scans, whose labels are withheld")
    parser.add_argument("--image-steps", type=int, default=1000, help="of each image model, and of the source network")
    parser.add_argument("--target-steps", type=int, default=250)
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="peak rates to tune out of fold")
    arguments = arguments_of(parser)
    path = study(arguments)
    for stage in STAGES:
        command(stage, path, arguments.jobs)
    workspace = path.with_suffix("")
    print(dice_table(case_rows(workspace), arguments.n, REFERENCES, arguments.seed))
    print(f"\n{time_table(workspace, image_models(arguments))}", flush=True)


if __name__ == "__main__":
    main()

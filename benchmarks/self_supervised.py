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
import yaml
from source_studies import command
from target_studies import case_rows, dice_table

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
    path: Path = arguments.output / "study.yaml"
    about = {"path": str(arguments.dataset.resolve()), "modality": arguments.modality}
    models = image_models(arguments)
    starts = {name: {"preset": "self_supervised", "image_model": name} for name in models}
    unlabelled = {"cases": arguments.unlabelled, "withhold_labels": True}
    values = {
        "name": "self_supervised",
        "workspace": str(arguments.output / "study"),
        "seed": arguments.seed,
        "datasets": {
            "source": {**about, "foreground": arguments.source},
            "target": {**about, "foreground": arguments.target},
        },
        "source": {"dataset": "source", "patients": arguments.patients},
        "target": {
            "dataset": "target",
            "pool": arguments.pool,
            "test": arguments.test,
            **({"unlabelled": unlabelled} if arguments.unlabelled else {}),
        },
        "preprocessing": {"resampling": {"spacing": [arguments.spacing] * 3}},
        "network": {"name": "residual_unet", "channels": arguments.channels, "encoder_blocks": arguments.blocks},
        "patches": {"size": arguments.patch, "batch": arguments.batch},
        # As many steps for the source network as for an image model.
        "source_training": {
            "networks": 1,
            "cycles": 1,
            "steps_per_cycle": arguments.image_steps,
            "warm_up": min(50, arguments.image_steps // 4),
        },
        "image_models": models,
        "target_training": {
            "arms": {**{name: {} for name in REFERENCES}, **starts},
            "sizes": [arguments.n],
            "reference_sizes": [],
            "repeats": arguments.repeats,
            "steps": arguments.target_steps,
            **({"tune": "inner_folds", "tuned_rates": arguments.rates} if arguments.rates else {}),
        },
        "computing": {"precision": arguments.precision},
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--source", nargs="+", default=["Anterior"], help="names of labels")
    parser.add_argument("--target", nargs="+", default=["Posterior"], help="names of labels")
    parser.add_argument("--output", type=Path, default=Path("self-supervised"))
    parser.add_argument("--modality", default="mr")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVE_NAMES, default=list(OBJECTIVE_NAMES))
    parser.add_argument("--from-source", action="store_true", help="also go on from a source network")
    parser.add_argument("--patients", type=int, default=50, help="of the source")
    parser.add_argument("--pool", type=int, default=20)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--unlabelled", type=int, default=0, help="further scans, whose labels are withheld")
    parser.add_argument("--n", type=int, default=5, help="patients of the target that are learned from")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--spacing", type=float, default=2.0, help="mm")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--blocks", type=int, nargs="+", default=[0, 2, 2, 5])
    parser.add_argument("--patch", type=int, nargs=3, default=[24, 32, 24])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--image-steps", type=int, default=1000, help="of each image model, and of the source network")
    parser.add_argument("--target-steps", type=int, default=250)
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="peak rates to tune out of fold")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.dataset is None:
        print("self-supervised: name --dataset")
        return
    arguments.output = arguments.output.resolve()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = study(arguments)
    for stage in STAGES:
        command(stage, path, arguments.jobs)
    workspace = path.with_suffix("")
    print(dice_table(case_rows(workspace), arguments.n, REFERENCES, arguments.seed))
    print(f"\n{time_table(workspace, image_models(arguments))}", flush=True)


if __name__ == "__main__":
    main()

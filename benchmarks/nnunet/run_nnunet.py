"""One step of nnU-Net with one thread, and what it cost; runs in an environment that has nnU-Net.

`python run_nnunet.py plan|train|predict OPTIONS.json` reads what to do, and writes seconds of processor time and the
largest memory to `OPTIONS.cost.json`. The commands of nnU-Net take all cores, whatever the environment says.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch


def plan(options: dict[str, Any]) -> None:
    """Plans and preprocesses a dataset, with the plans of another one if it is named."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.experiment_planning.plans_for_pretraining.move_plans_between_datasets import (
        move_plans_between_datasets,
    )

    number = options["dataset"]
    extract_fingerprints([number], num_processes=1)
    if options.get("plans_of") is None:
        plan_experiments([number])
        name = "nnUNetPlans"
    else:
        name = "sourcePlans"
        move_plans_between_datasets(options["plans_of"], number, "nnUNetPlans", name)
    preprocess([number], name, configurations=["3d_fullres"], num_processes=[1])


def train(options: dict[str, Any]) -> None:
    """Trains on all scans of a dataset."""
    from nnunetv2.run.run_training import run_training

    run_training(
        options["dataset"],
        "3d_fullres",
        "all",
        trainer_class_name="ShortTrainer",
        plans_identifier=options["plans"],
        pretrained_weights=options.get("weights"),
        device=torch.device("cpu"),
    )


def predict(options: dict[str, Any]) -> None:
    """Predicts scans with the mirrored copies that nnU-Net takes by default, and keeps their probabilities."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(options["model"], use_folds=("all",))
    predictor.predict_from_files_sequential(
        [[path] for path in options["scans"]], options["output"], save_probabilities=True
    )


def main() -> None:
    torch.set_num_threads(1)
    path = Path(sys.argv[2])
    {"plan": plan, "train": train, "predict": predict}[sys.argv[1]](json.loads(path.read_text()))
    own, of_children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {
        "seconds": own.ru_utime + own.ru_stime + of_children.ru_utime + of_children.ru_stime,
        "largest_mb": max(own.ru_maxrss, of_children.ru_maxrss) / 1024,
    }
    path.with_suffix(".cost.json").write_text(json.dumps(cost))


if __name__ == "__main__":
    main()

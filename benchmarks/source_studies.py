"""What benchmarks of source networks share: studies of one dataset whose target is never trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from study_runs import dataset_of, parser_of_studies, source_training, write_study

from pipeline.report.study_files import folders, read_history
from pipeline.storage.file_names import HISTORY
from pipeline.storage.stage_names import Stage

ALL_CASES = 1000
"""Out-of-bag cases that a network is measured on: few say nothing about a thousandth."""


def parser_of_sources(description: str | None, output: str) -> argparse.ArgumentParser:
    """Options of the data and of the sizes; the caller adds its own."""
    found = parser_of_studies(description, output)
    found.add_argument("--foreground", nargs="+", default=["Anterior"], help="names of labels")
    found.add_argument("--patients", type=int, default=50)
    found.add_argument("--networks", type=int, default=1)
    return found


def source_study(
    arguments: argparse.Namespace, name: str, cycles: int = 1, steps: int = 1, *, training: Any = None, **sections: Any
) -> Path:
    """Writes a study of source networks that are judged on all of their out-of-bag cases.

    Its target, which needs two patients, is never trained.

    Args:
        arguments: of the command line.
        name: of the study.
        cycles: of each network.
        steps: of each cycle.
        training: further options of the networks' training.
        sections: further sections of the study, or others than these.
    """
    values = {
        "datasets": {"data": dataset_of(arguments, arguments.foreground)},
        "source": {"dataset": "data", "patients": arguments.patients},
        "target": {"dataset": "data", "pool": 1, "test": 1},
        "preprocessing": {"resampling": {"spacing": [arguments.spacing] * 3}},
        "patches": {"size": arguments.patch, "batch": arguments.batch, "foreground_share": 0.0},
        "source_training": source_training(
            arguments.networks, cycles, steps, validation_cases=ALL_CASES, **(training or {})
        ),
        "target_training": {"arms": ["random", "dwp"], "sizes": [1], "repeats": 1, "steps": 1},
        **sections,
    }
    return write_study(arguments, name, values)


def out_of_bag_dice(workspace: Path) -> float:
    """Mean over the networks, at the end of their trainings."""
    found = []
    for folder in folders(workspace / Stage.TRAIN_SOURCE):
        measured = read_history(folder / HISTORY)["out_of_bag_dice"]
        found.append(float(measured[np.isfinite(measured)][-1]))
    return float(np.mean(found))

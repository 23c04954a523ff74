"""Does `graft adapt` tell the truth? Its estimate from eight patients against forty that it never saw.

`python benchmarks/adapt_accuracy.py --dataset DIR --output DIR --budget 60min`, where `--dataset` is MSD Task04
(hippocampus) with a `patients.csv`. Its patients are divided into 50 for the source (the anterior part), 8 for the
target and 40 for the test (the posterior part). A study of the source alone gives a pack; `graft adapt` starts from it;
`graft predict` segments the test patients. Without a dataset there is nothing to do.

Every step is a command as a user types it, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import yaml

import graft
from data.image_file import read_label
from data.layouts.detection import detect_layout
from data.random_streams import random_stream
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.tables import SummaryRow

SOURCE, TARGET, TEST = 50, 8, 40
CLASS, VALUE = "posterior", 2


def split(dataset: Path, output: Path, seed: int) -> None:
    """Copies three datasets of disjoint patients."""
    if (output / "test").is_dir():
        return
    with (dataset / "patients.csv").open(newline="") as stream:
        patient_of = {row["case"]: row["patient"] for row in csv.DictReader(stream)}
    names = sorted(set(patient_of.values()))
    drawn = [names[k] for k in random_stream(seed, "adapt-accuracy").permutation(len(names))]
    parts = {"source": drawn[:SOURCE], "target": drawn[SOURCE:][:TARGET], "test": drawn[SOURCE + TARGET :][:TEST]}
    about = json.loads((dataset / "dataset.json").read_text())
    for name, patients in parts.items():
        folder = output / f".{name}"
        entries = []
        for entry in about["training"]:
            if patient_of.get(Path(entry["image"]).name.split(".")[0]) in patients:
                entries.append(entry)
                for path in entry.values():
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(dataset / path, folder / path)
        shutil.copy(dataset / "patients.csv", folder)
        (folder / "dataset.json").write_text(json.dumps({**about, "training": entries, "test": []}))
        folder.rename(output / name)


def source_study(output: Path, networks: int, steps: int) -> Path:
    """Writes the study whose source becomes the pack; its target is never trained."""
    path = output / "source.yaml"
    common = {"modality": "mr", "channels": ["MRI"]}
    study = {
        "name": "hippocampus-source",
        "workspace": str(output / "source-study"),
        "datasets": {
            "source": {"path": str(output / "source"), **common, "foreground": {"anterior": [1]}},
            "target": {"path": str(output / "target"), **common, "foreground": {CLASS: [VALUE]}},
        },
        "source": {"dataset": "source", "patients": SOURCE},
        "target": {"dataset": "target", "patients": "all", "folds": 5},
        "preprocessing": {"resampling": {"spacing": [1.0, 1.0, 1.0]}},
        "network": {"name": "residual_unet", "channels": [8, 16, 32, 64], "encoder_blocks": [0, 2, 2, 5]},
        "patches": {"size": [40, 56, 40], "batch": 4, "foreground_share": 0.0},
        "augmentation": {"flip_axes": []},
        "source_training": {"networks": networks, "cycles": 4, "steps_per_cycle": steps, "warm_up": 50},
        "target_training": {"arms": ["fine_tune", "dwp"], "repeats": 1, "steps": 1},
    }
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def command(*words: str | Path) -> float:
    """Runs a command of Graft; returns its seconds."""
    shown = " ".join(map(str, words))
    print(f"$ graft {shown}", flush=True)
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "pipeline.cli", *map(str, words)], check=True)
    return time.monotonic() - begin


def dice_of_patients(test: Path, predictions: Path) -> dict[str, float]:
    """Patient → mean Dice over the patient's scans."""
    scores = defaultdict(list)
    for case in detect_layout(test).read(test).cases:
        assert case.label is not None
        reference = case.read_label().array == VALUE
        mask = read_label(predictions / case.name / f"{case.name}.nii.gz").array == VALUE
        scores[case.patient].append(graft.metrics.dice(mask, reference))
    return {patient: float(np.mean(values)) for patient, values in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--output", type=Path, default=Path("adapt-accuracy"))
    parser.add_argument("--budget", default="60min")
    parser.add_argument("--networks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=450, help="in each of four cycles of a source network")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.dataset is None:
        print("adapt accuracy: name --dataset")
        return
    output: Path = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    split(arguments.dataset, output, arguments.seed)
    pack = output / "hippocampus.pack"
    if not pack.exists():
        study = source_study(output, arguments.networks, arguments.steps)
        for stage in ("check", "preprocess", "train-source", "collect-filters", "fit-priors"):
            command(stage, study)
        command("pack", output / "source-study", "--output", pack)
    model = output / "my-model"
    words = ["adapt", output / "target", "--source", pack, "--foreground", CLASS, "--budget", arguments.budget]
    seconds = command(*words, "--output", model)
    predictions = output / "predictions"
    command("predict", model, output / "test", "--output", predictions, "--set", "pictures=false")
    arm = json.loads((model / "model.json").read_text())["arm_name"]
    rows = read_rows(output / "my-model-study/results/summary.csv", SummaryRow)
    [estimate] = [row for row in rows if (row.arm, row.n, row.metric) == (arm, TARGET, "dice")]
    found = list(dice_of_patients(output / "test", predictions).values())
    inside = estimate.ci_low <= np.mean(found) <= estimate.ci_high
    print(f"\npack: {pack.stat().st_size / 1e6:.1f} MB; adapt took {seconds / 60:.1f} min of {arguments.budget}")
    print(f"cross-validated Dice of {arm}: {estimate.mean:.3f} [{estimate.ci_low:.3f}, {estimate.ci_high:.3f}]")
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    print(f"Dice on {len(found)} separate patients: {np.mean(found):.3f} ± {error:.3f} (standard error)")
    print(f"inside the interval: {'yes' if inside else 'no'}")


if __name__ == "__main__":
    main()

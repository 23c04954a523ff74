"""Is a temperature that an arm fits on its own training patients as good as one fitted on test patients?

`python benchmarks/fitted_temperature.py --task hippocampus --output DIR`, after `benchmarks/adapt_accuracy.py` with the
same `--output`: its pack, its 8 patients of the target and its 40 test patients, at 1 mm, n = 5, two repeats.
`python benchmarks/fitted_temperature.py --task oasis --dataset DIR --output DIR`: thalamus and caudate → putamen of 21
whole brains at 2 mm, n = 5, two repeats of the same five, 8 test patients.

`NAME+temperature` is scaled with a temperature and a correlation from the other half of the test patients: nobody has
these, so it is what a fit could reach. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from adapt_accuracy import CLASS, VALUE, command

from pipeline.evaluation.calibration_tables import CalibrationRow
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.tables import SummaryRow

RAW = "fine_tune"
PAIRS = {"fine_tune_fitted": "fine_tune+temperature", "swag_calibrated": "swag+temperature"}
"""Arm that fits its temperature → the same networks with the temperature of test patients."""


def annotated(output: Path) -> Path:
    """Puts the target and the test patients of `adapt_accuracy.py` into one dataset."""
    root, entries, lines = output / "annotated", list[Any](), ["case,patient"]
    for part in (output / "target", output / "test"):
        about = json.loads((part / "dataset.json").read_text())
        entries += about["training"]
        cases = {Path(entry["image"]).name.split(".")[0] for entry in about["training"]}
        with (part / "patients.csv").open(newline="") as stream:
            lines += [f"{row['case']},{row['patient']}" for row in csv.DictReader(stream) if row["case"] in cases]
        for path in (path for entry in about["training"] for path in entry.values()):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(part / path, root / path)
    (root / "dataset.json").write_text(json.dumps({**about, "training": entries}))
    (root / "patients.csv").write_text("\n".join(lines) + "\n")
    return root


def hippocampus(output: Path) -> dict[str, Any]:
    """The study that starts from the pack."""
    data = {"path": str(annotated(output)), "modality": "mr", "channels": ["MRI"], "foreground": {CLASS: [VALUE]}}
    return {
        "datasets": {"target": data},
        "source": {"pack": str(output / "hippocampus.pack")},
        "target": {"dataset": "target", "pool": 8, "test": 40},
        "preprocessing": {"resampling": {"spacing": [1.0, 1.0, 1.0]}},
        "patches": {"size": [40, 56, 40], "batch": 4, "foreground_share": 0.0},
        "augmentation": {"flip_axes": []},
        "target_training": {"steps": 250},
    }


def oasis(dataset: Path) -> dict[str, Any]:
    """The study with a source of its own."""
    data = {"path": str(dataset.resolve()), "modality": "mr_brain"}
    return {
        "datasets": {
            "source": {**data, "foreground": ["thalamus", "caudate"]},
            "target": {**data, "foreground": ["putamen"]},
        },
        "source": {"dataset": "source", "patients": 8},
        "target": {"dataset": "target", "pool": 5, "test": 8},
        "preprocessing": {"resampling": {"spacing": [2.0, 2.0, 2.0]}},
        "network": {"name": "residual_unet", "channels": [8, 16, 32, 64]},
        "patches": {"size": [40, 40, 40], "batch": 2, "foreground_share": 0.5},
        "augmentation": {"flip_axes": [0]},
        "source_training": {"networks": 2, "cycles": 4, "steps_per_cycle": 100, "warm_up": 25},
        "target_training": {"steps": 150},
    }


def compared(task: str, study: dict[str, Any], workspace: Path) -> dict[str, Any]:
    """The study with the arms that are compared."""
    arms = {
        "random": {},
        RAW: {},
        "fine_tune_fitted": {"preset": RAW, "fit_reading": True, "voxel_correlation": 0.1},
        "swag": {},
        "swag_calibrated": {},
    }
    training = {**study["target_training"], "arms": arms, "sizes": [5], "repeats": 2}
    scaled = [name.removesuffix("+temperature") for name in PAIRS.values()]
    evaluation = {"calibration": {"temperature_scaled": scaled}}
    about = {"name": f"{task}-fitted-temperature", "workspace": str(workspace)}
    return {**about, **study, "target_training": training, "evaluation": evaluation}


def tell(results: Path) -> None:
    """Prints the figures of a finished study."""
    rows = read_rows(results / "calibration_summary.csv", SummaryRow)
    means = {(row.arm, row.metric): row for row in rows}
    print(f"\n{'arm':24} {'Dice':>6} {'ECE':>22} {'T':>6} {'covered':>18} {'width ml':>9}")
    dice = {row.arm: row.mean for row in read_rows(results / "summary.csv", SummaryRow) if row.metric == "dice"}
    cases = read_rows(results / "calibration.csv", CalibrationRow)
    for arm in dict.fromkeys(row.arm for row in rows):
        error = means[arm, "ece"]
        own = [row for row in cases if row.arm == arm]
        held = means.get((arm, "volume_coverage"))
        covered = f"{held.mean:.2f} [{held.ci_low:.2f}, {held.ci_high:.2f}]" if held else "–"
        width = means.get((arm, "volume_width_ml"))
        temperatures = sorted({round(row.temperature, 2) for row in own if row.temperature == row.temperature})
        print(
            f"{arm:24} {dice.get(arm, float('nan')):6.3f} {error.mean:6.3f} [{error.ci_low:.3f}, {error.ci_high:.3f}]"
            f" {temperatures[0] if temperatures else '':>6} {covered:>18} {f'{width.mean:.3f}' if width else '':>9}"
        )
    raw = means[RAW, "ece"].mean
    for fitted, reached in PAIRS.items():
        found, best = means[fitted, "ece"].mean, means[reached, "ece"].mean
        print(f"{fitted}: ECE {found - best:+.3f} to {reached}; {found / raw:.2f} of raw {RAW}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("hippocampus", "oasis"))
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--output", type=Path, default=Path("fitted-temperature"))
    arguments = parser.parse_args()
    output: Path = arguments.output.resolve()
    if arguments.task is None or (arguments.task == "oasis") == (arguments.dataset is None):
        print("fitted temperature: name --task, and --dataset for oasis alone")
        return
    output.mkdir(parents=True, exist_ok=True)
    study = hippocampus(output) if arguments.task == "hippocampus" else oasis(arguments.dataset)
    workspace = output / f"{arguments.task}-study"
    path = output / f"{arguments.task}.yaml"
    path.write_text(yaml.safe_dump(compared(arguments.task, study, workspace), sort_keys=False))
    command("run", path)
    tell(workspace / "results")


if __name__ == "__main__":
    main()

"""Does the label audit find annotations that are wrong? A positive control: some are spoilt on purpose.

`python benchmarks/label_audit.py --dataset DATASET --values 2 --source PACK` takes annotated patients of a dataset,
spoils the annotation of some in five ways, cross-validates, and asks at which place of the list they stand. Without a
dataset and a pack there is nothing to do. Printed is the area under the ROC curve of each way to rank (0.5 is chance),
and how many of the first k are spoilt. The same models give all rankings.

Everything is written to `--output`; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

import graft
from data.dataset import Dataset
from data.image_file import write_volume
from data.layouts.detection import detect_layout
from data.random_streams import random_stream
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.label_audit import LABEL_AUDIT, AuditRow

Mask = NDArray[np.bool_]


def shifted(mask: Mask, rng: np.random.Generator) -> Mask:
    """Drawn beside the structure: three voxels along one axis."""
    return np.roll(mask, 3 * int(rng.choice([-1, 1])), axis=int(rng.integers(3)))


def half(mask: Mask, rng: np.random.Generator) -> Mask:
    """Given up halfway: slices beyond the middle of one axis are empty."""
    axis = int(rng.integers(3))
    slices = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
    kept = np.zeros(mask.shape[axis], bool)
    kept[: int(np.median(slices)) + 1] = True
    return mask & kept.reshape([-1 if a == axis else 1 for a in range(3)])


def thick(mask: Mask, rng: np.random.Generator) -> Mask:
    """Another protocol: one voxel larger on all sides."""
    return np.asarray(ndimage.binary_dilation(mask))


def thin(mask: Mask, rng: np.random.Generator) -> Mask:
    """Another protocol: one voxel smaller on all sides."""
    return np.asarray(ndimage.binary_erosion(mask))


def spotted(mask: Mask, rng: np.random.Generator) -> Mask:
    """A slip of the brush: a ball of the structure's size elsewhere."""
    centre = rng.integers(0, mask.shape)
    far = np.linalg.norm(np.indices(mask.shape).T - centre, axis=-1).T
    return mask | (far <= (3 * mask.sum() / (4 * np.pi)) ** (1 / 3))


SPOILT: tuple[Callable[[Mask, np.random.Generator], Mask], ...] = (shifted, half, thick, thin, spotted)


def spoil(source: Path, target: Path, values: list[int], patients: int, wrong: int, seed: int) -> dict[str, str]:
    """Copies some patients of a dataset and spoils the annotations of some cases; returns case → how."""
    record = target / "spoilt.json"
    if record.is_file():
        return dict(json.loads(record.read_text()))
    shutil.rmtree(target, ignore_errors=True)
    dataset = detect_layout(source).read(source)
    rng = random_stream(seed, "label-audit")
    names = sorted(dataset.by_patient())
    chosen = {names[k] for k in rng.permutation(len(names))[:patients]}
    # One case of each patient: the two sides of one head would be spoilt and whole.
    cases = {case.patient: case for case in dataset.cases if case.patient in chosen and case.label is not None}
    spoilt = [sorted(cases)[k] for k in rng.permutation(len(cases))[:wrong]]
    how = {}
    (target / "scans").mkdir(parents=True)
    with (target / "cohort.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "patient", *next(iter(cases.values())).channels, "label"])
        for patient, case in sorted(cases.items()):
            label = case.read_label()
            mask = np.isin(label.array, values)
            if patient in spoilt:
                change = SPOILT[spoilt.index(patient) % len(SPOILT)]
                mask, how[case.name] = change(mask, rng), change.__name__
            path = target / "scans" / f"{case.name}-label.nii.gz"
            write_volume(label.with_array(mask.astype(np.uint8)), path)
            images = [own.path.resolve() for own in case.channels.values()]
            writer.writerow([case.name, patient, *images, path.resolve()])
    record.write_text(json.dumps(how))
    return how


def study(folder: Path, dataset: Dataset, arguments: argparse.Namespace) -> graft.Study:
    """The cross-validated study of the spoilt cohort."""
    raw: dict[str, Any] = {
        "name": "label-audit",
        "workspace": str(folder / "workspace"),
        "datasets": {
            "target": {
                "path": str(folder / "cohort/cohort.csv"),
                "modality": arguments.modality,
                "channels": list(dataset.cases[0].channels),
                "foreground": {"structure": [1]},
            }
        },
        "source": {"pack": str(arguments.source.resolve())},
        "target": {"dataset": "target", "patients": "all", "folds": 5},
        "preprocessing": {"resampling": {"spacing": arguments.spacing}},
        "patches": {"size": arguments.patch, "batch": 4, "foreground_share": 0.0},
        "augmentation": {"flip_axes": []},
        "target_training": {"arms": [arguments.arm], "repeats": 1, "steps": arguments.steps, "inner_folds": 2},
    }
    return graft.Study(raw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--source", type=Path, help="a source pack")
    parser.add_argument("--values", type=int, nargs="+", default=[1], help="of the structure in the label maps")
    parser.add_argument("--modality", default="mr")
    parser.add_argument("--spacing", type=float, nargs=3, default=[1.0, 1.0, 1.0])
    parser.add_argument("--patch", type=int, nargs=3, default=[40, 56, 40])
    parser.add_argument("--patients", type=int, default=25)
    parser.add_argument("--wrong", type=int, default=5)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arm", default="swag_calibrated")
    parser.add_argument("--output", type=Path, default=Path("label-audit"))
    arguments = parser.parse_args()
    if arguments.dataset is None or arguments.source is None:
        print("label audit: name --dataset and --source")
        return
    dataset = detect_layout(arguments.dataset).read(arguments.dataset)
    cohort = arguments.output / "cohort"
    how = spoil(arguments.dataset, cohort, arguments.values, arguments.patients, arguments.wrong, arguments.seed)
    own = study(arguments.output, dataset, arguments)
    own.run()
    rows = read_rows(own.workspace / "results" / LABEL_AUDIT, AuditRow)
    rankings: dict[str, Callable[[AuditRow], float]] = {
        "surprise": lambda row: row.surprise,
        "1 − Dice": lambda row: 1 - row.dice,
        "expected Dice − Dice": lambda row: row.expected_dice - row.dice,
        "left out + extra, ml": lambda row: row.left_out_ml + row.extra_ml,
    }
    bad = [row.case in how for row in rows]
    print(f"{len(rows)} annotations, {sum(bad)} spoilt; {arguments.steps} steps, arm {arguments.arm}\n")
    print(f"| ranked by | area under ROC | spoilt among the first {sum(bad)} |\n|---|---|---|")
    for name, score in rankings.items():
        values = np.array([score(row) for row in rows])
        # The area is the probability that a spoilt annotation is above a whole one (Mann & Whitney).
        pairs = sum(bad) * (len(bad) - sum(bad))
        area = stats.mannwhitneyu(values[bad], values[np.logical_not(bad)]).statistic / pairs
        first = np.argsort(-values, kind="stable")[: sum(bad)]
        print(f"| {name} | {area:.3f} | {int(np.asarray(bad)[first].sum())} |")
    out = [row for row in rows if row.stands_out == 1]
    print(f"\n{len(out)} stand out, of which {sum(row.case in how for row in out)} are spoilt.")
    print("\n| place | case | spoilt | surprise | Dice | expected Dice |\n|---|---|---|---|---|---|")
    for place, row in enumerate(rows, start=1):
        if row.case in how or place <= 8:
            name = how.get(row.case, "")
            print(f"| {place} | {row.case} | {name} | {row.surprise:.3f} | {row.dice:.3f} | {row.expected_dice:.3f} |")


if __name__ == "__main__":
    main()

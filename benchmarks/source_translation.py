"""How much of a gap of contrast does each translation of the source close, with no label of the target?

`python benchmarks/source_translation.py --dataset DIR --output DIR` makes the gap: the source patients' contrast is
inverted and blurred, and the target is the dataset as it is, of other patients. With `--from T1 --to FLAIR`, source and
target are instead two channels of the dataset as they are, again of different patients.

Source networks learn from the same source patients without a translation (source only), with each of `--kinds`, and, as
an upper bound, in the contrast of the target. All are measured on the same test patients, whom no training and no
translation has seen: mean Dice over networks, structures and patients, and the share of the gap between source only and
upper bound that is recovered. A translation may use scans of the pool, without labels.

Every step is a command as a user types it, and a run that was stopped goes on. Without a dataset there is nothing to
do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from study_runs import arguments_of, dataset_of, parser_of_studies, prepare, run_stages, source_training, write_study

from data.case import Case
from data.image_file import write_volume
from data.layouts.detection import read_dataset
from data.random_streams import random_stream
from data.stored_record import read_record
from data.volume import Volume
from models.networks.factory import build_network
from pipeline.config.reading import read_config
from pipeline.execution.unit import read_marker
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.report.study_files import folders
from pipeline.stages.study_plan import read_plan
from pipeline.storage.file_names import TRANSLATIONS
from pipeline.storage.stage_names import Stage
from pipeline.storage.tensors import load_tensors
from pipeline.storage.workspace import Workspace
from pipeline.training.source_network import snapshot_name
from pipeline.training.translation_record import ABOUT, TranslationRecord
from pipeline.training.validation import mean_dice

SOURCE_ONLY, UPPER = "source_only", "upper_bound"
KINDS = ("histogram", "fourier", "random_contrast")
STAGES = (Stage.CHECK, Stage.PREPROCESS, Stage.TRAIN_SOURCE)


def chosen_patients(arguments: argparse.Namespace) -> tuple[list[Case], list[Case], list[Case]]:
    """Cases of source, pool and test, of different patients."""
    patients = read_dataset(arguments.dataset).by_patient()
    names = sorted(name for name, cases in patients.items() if all(case.label for case in cases))
    order = [names[i] for i in random_stream(arguments.seed, "patients").permutation(len(names))]
    ends = np.cumsum([arguments.patients, arguments.pool, arguments.test])
    if len(names) < ends[-1]:
        raise SystemExit(f"{arguments.dataset} has {len(names)} annotated patients; {ends[-1]} are asked for")
    first, second, third = (order[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True))
    return tuple([case for name in part for case in patients[name]] for part in (first, second, third))  # type: ignore[return-value]


def inverted(volume: Volume, blur: float) -> Volume:
    """The volume with its contrast inverted between the 1st and 99th percentile, and smoothed by `blur` mm."""
    low, high = np.percentile(volume.array, [1, 99])
    array = np.clip(low + high - volume.array, low, high)
    return volume.with_array(ndimage.gaussian_filter(array, blur / volume.spacing).astype(np.float32))


def write_gap(cases: list[Case], folder: Path, arguments: argparse.Namespace) -> Path:
    """Writes the source patients with the other contrast as an MSD dataset; what is there stays."""
    description = json.loads((arguments.dataset / "dataset.json").read_text())
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    training = []
    for case in cases:
        image, label = f"imagesTr/{case.name}.nii.gz", f"labelsTr/{case.name}.nii.gz"
        training.append({"image": f"./{image}", "label": f"./{label}"})
        if not (folder / label).exists():
            [source] = case.channels.values()
            write_volume(inverted(source.read(), arguments.blur), folder / image)
            write_volume(case.read_label(), folder / label)
    patients = "".join(f"{case.name},{case.patient}\n" for case in cases)
    (folder / "patients.csv").write_text(f"case,patient\n{patients}")
    about = {**description, "training": training, "numTraining": len(training)}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def sections(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sections of all studies; they differ in the source alone."""
    source, pool, test = chosen_patients(arguments)
    target = dataset_of(arguments, arguments.foreground)
    if arguments.from_channel:
        here, target = {**target, "channels": [arguments.from_channel]}, {**target, "channels": [arguments.to_channel]}
    else:
        here = {**target, "path": str(write_gap(source, arguments.output / "gap", arguments))}
    names = [[case.name for case in cases] for cases in (source, pool, test)]
    return {
        "datasets": {"source": here, "target": target},
        "source": {"dataset": "source", "cases": names[0]},
        "target": {"dataset": "target", "pool_cases": names[1], "test_cases": names[2]},
        "preprocessing": {"resampling": {"spacing": [arguments.spacing] * 3}},
        "network": {"name": "residual_unet", "channels": arguments.channels, "encoder_blocks": arguments.blocks},
        "patches": {"size": arguments.patch, "batch": arguments.batch},
        "source_training": source_training(arguments.networks, 1, arguments.steps, validation_cases=1),
        # Judged before any arm learns from the target.
        "target_training": {"arms": ["random", "fine_tune"], "sizes": [1], "reference_sizes": []},
        "computing": {"precision": "float32"},
    }


def studies(arguments: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Writes the studies: name and file."""
    common = sections(arguments)
    arms = {SOURCE_ONLY: {}, **{kind: {"translate": {"kind": kind, **arguments.set}} for kind in arguments.kinds}}
    arms[UPPER] = {"dataset": "target"}
    for name, changes in arms.items():
        own = {**common, "source": {**common["source"], **changes}}
        yield name, write_study(arguments, name, own)


def target_dice(path: Path) -> float:
    """Mean Dice of the source networks of a study on its test patients."""
    config = read_config(path)
    workspace = Workspace(config.workspace_folder)
    plan = read_plan(config, workspace)
    cases = [case for patient in plan.patients("test") for case in plan.cached("test", patient)]
    found = []
    for folder in folders(workspace.root / Stage.TRAIN_SOURCE):
        network = build_network(config.network, cases[0].channels, plan.source_outputs)
        network.load_state_dict(load_tensors(folder / snapshot_name(config.source_training.cycles - 1)))
        found.append(mean_dice(network.eval(), cases, config.patches.size, SlidingWindowOptions(), "cpu"))
    return float(np.mean(found))


def seconds(workspace: Path, kind: str) -> float:
    """Work of all units of a kind."""
    markers = [read_marker(folder) for folder in folders(workspace / kind)]
    return sum(float(marker["seconds"]) for marker in markers if marker is not None)


def distances(workspace: Path) -> str:
    """Kernel distance of source patches to the target, before and after the translation."""
    found = [read_record(folder / ABOUT, TranslationRecord).distances for folder in folders(workspace / TRANSLATIONS)]
    return "".join(f"{own.before:.3f} → {own.after:.3f}" for own in found if own is not None)


def table(found: dict[str, tuple[float, Path]]) -> str:
    """Dice, share of the gap that is recovered, kernel distances and cost."""
    lower, upper = found[SOURCE_ONLY][0], found[UPPER][0]
    lines = ["| source images | Dice on the target | gap recovered | kernel distance | translation, s | training, s |"]
    lines.append("|---" * 6 + "|")
    for name, (dice, workspace) in found.items():
        share = (dice - lower) / (upper - lower) if upper > lower else float("nan")
        cost = f"{seconds(workspace, TRANSLATIONS):.0f} | {seconds(workspace, Stage.TRAIN_SOURCE):.0f}"
        lines.append(f"| {name} | {dice:.3f} | {share:.0%} | {distances(workspace)} | {cost} |")
    return "\n".join(lines)


def main() -> None:
    """Trains and measures."""
    options = parser_of_studies(__doc__, "source-translation")
    options.add_argument("--foreground", nargs="+", default=["Anterior"], help="names of labels")
    options.add_argument("--patients", type=int, default=40, help="of the source")
    options.add_argument("--networks", type=int, default=1)
    options.add_argument("--from", dest="from_channel", help="channel that is the source; by default contrast is made")
    options.add_argument("--to", dest="to_channel", help="channel that is the target")
    options.add_argument("--blur", type=float, default=1.0, help="mm, of the source that is made")
    options.add_argument("--kinds", nargs="*", default=KINDS)
    options.add_argument("--set", type=json.loads, default={}, help="further options of the translations, as JSON")
    options.add_argument("--pool", type=int, default=10)
    options.add_argument("--test", type=int, default=20)
    options.add_argument("--channels", nargs="+", type=int, default=[8, 16, 32])
    options.add_argument("--blocks", nargs="+", type=int, default=[0, 1, 1])
    options.add_argument("--steps", type=int, default=400)
    arguments = arguments_of(options)
    if (arguments.from_channel is None) != (arguments.to_channel is None):
        options.error("--from and --to need each other")
    found: dict[str, tuple[float, Path]] = {}
    prepared: Path | None = None
    for name, path in studies(arguments):
        # The others start from a copy of what the first one preprocessed.
        prepared = prepared or prepare(path)
        workspace = run_stages(path, prepared, STAGES, arguments.jobs)
        found[name] = (target_dice(path), workspace)
        print(f"{name}: Dice {found[name][0]:.3f}", flush=True)
    print(f"\n{table(found)}", flush=True)


if __name__ == "__main__":
    main()

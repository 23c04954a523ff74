"""Is Graft better than the tool that a user would pick instead? nnU-Net, on the same patients for the same time.

`python benchmarks/peers.py --dataset DIR --source NAME --target NAME --nnunet PYTHON --output DIR`, where PYTHON is the
interpreter of an environment with nnU-Net: its pins and Graft's exclude each other. Both learn the source for
`--source-minutes` of one core, and then n patients of the target for each of `--minutes`: nnU-Net from scratch, and
from the network that it trained on the source itself (with the source's plans, as its documentation says); Graft with
`--arms`. An arm of several trainings shares its minutes among them, those that fit its reading included. Both have
their defaults otherwise; nnU-Net learns from all scans at once (fold `all`), because five folds would divide its time
by five. The number of steps is counted from a few timed ones, without what the other processes do that load batches.

An environment without torchvision will do: install torch first, `nnunetv2`, `dynamic-network-architectures` and `timm`
without their dependencies, then the rest of these, and move `nnunetv2/training/nnUNetTrainer/primus` aside.

Dice and HD95 of the masks in the scans' own space, ECE near the boundary, and time and memory to predict. Every step
of Graft is a command as a user types it, and a run that was stopped goes on. Without a dataset there is nothing to do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from result_tables import case_rows, dice_table
from study_runs import arguments_of, prepare, run_stages, source_training
from transfer_studies import parser_of_transfer, transfer_study

from data.case import Case
from data.layouts.detection import detect_layout
from pipeline.arms.arm_record import read_arm
from pipeline.arms.choices import ArmOptions
from pipeline.arms.presets import PRESETS
from pipeline.config.reading import read_config
from pipeline.evaluation.calibration import band_sample, expected_calibration_error
from pipeline.evaluation.calibration_tables import CALIBRATION, CalibrationRow
from pipeline.evaluation.case_evaluation import TrainedArm, evaluate_case
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.options import CalibrationOptions
from pipeline.evaluation.tables import CaseRow
from pipeline.planning.speed import measure_speed
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace

SCRIPTS = Path(__file__).parent / "nnunet"
INNER_FOLDS = 3
SOURCES = (Stage.TRAIN_SOURCE, Stage.COLLECT_FILTERS, Stage.FIT_PRIORS)
TIMED = 8
"""Iterations that nnU-Net's are timed from, beside as many of a second run that its start is known from."""
ARMS = ("random", "fine_tune", "swag_calibrated", "multi_swag_calibrated")
UNTRAINED_STEPS = 100
"""Of a study whose arms are not trained: enough for any of them to be planned."""
CLASS = "structure"


@dataclass(frozen=True)
class Outcome:
    """What was measured of one tool.

    Attributes:
        rows: of the test cases.
        ece: of each test patient.
    """

    rows: list[CaseRow]
    ece: dict[str, float]


def study(arguments: argparse.Namespace, name: str, steps: int, source_steps: int, arms: Sequence[str]) -> Path:
    """Writes a study of some arms."""
    networks = max(PRESETS[arm].members for arm in arguments.arms)
    sections = {
        "datasets": {
            "source": {"foreground": {CLASS: arguments.source}},
            "target": {"foreground": {CLASS: arguments.target}},
        },
        "patches": {"foreground_share": 0.0},
        "augmentation": {"flip_axes": []},
        "source_training": source_training(networks, 2, source_steps // (2 * networks)),
        "target_training": {"arms": list(arms), "steps": steps, "inner_folds": INNER_FOLDS},
        "evaluation": {"space": "native"},
        "execution": {"threads": 1},
    }
    return transfer_study(arguments, name, sections)


def trainings(arm: ArmOptions) -> int:
    """Trainings that an arm is made of, those that its reading is fitted with included."""
    return arm.members * (1 + (INNER_FOLDS if arm.fit_reading else 0))


def seconds_per_step(arguments: argparse.Namespace, path: Path) -> float:
    """Of Graft's network, timed once."""
    timed = arguments.output / "graft-step.json"
    if not timed.is_file():
        config = read_config(path)
        speed = measure_speed(
            config.network, 1, 2, config.patches, arguments.patch, config.sliding_window, "cpu", threads=1
        )
        timed.write_text(json.dumps(speed.step))
    return float(json.loads(timed.read_text()))


class NNUNet:
    """nnU-Net in an environment of its own; every step is done once.

    Args:
        python: its interpreter.
        folder: of all its files.
    """

    def __init__(self, python: Path, folder: Path) -> None:
        self._python, self._folder = python, folder
        self._folders = {name: folder / name for name in ("raw", "preprocessed", "results")}
        for own in (*self._folders.values(), folder / "steps"):
            own.mkdir(parents=True, exist_ok=True)

    def dataset(self, number: int, cases: Sequence[Case], values: Sequence[int]) -> None:
        """Writes a dataset whose only structure has some values of the cases' labels."""
        root = self._folders["raw"] / self.name(number)
        if (root / "dataset.json").is_file():
            return
        for part in ("imagesTr", "labelsTr"):
            (root / part).mkdir(parents=True, exist_ok=True)
        for case in cases:
            [image] = case.channels.values()
            shutil.copy(image.path, root / "imagesTr" / f"{case.name}_0000.nii.gz")
            label = nibabel.load(case.label)
            mask = np.isin(np.asanyarray(label.dataobj), values).astype(np.uint8)
            nibabel.save(nibabel.Nifti1Image(mask, label.affine), root / "labelsTr" / f"{case.name}.nii.gz")
        about = {
            "channel_names": {"0": "MRI"}, "labels": {"background": 0, CLASS: 1}, "numTraining": len(cases),
            "file_ending": ".nii.gz",
        }  # fmt: skip
        (root / "dataset.json").write_text(json.dumps(about))

    @staticmethod
    def name(number: int) -> str:
        """Of a dataset."""
        return f"Dataset{number:03d}_Peer"

    def step(self, kind: str, name: str, options: dict[str, Any], **environment: str) -> dict[str, float]:
        """Runs a step in one core and returns what it cost."""
        path = self._folder / "steps" / f"{name}.json"
        cost = path.with_suffix(".cost.json")
        if not cost.is_file():
            path.write_text(json.dumps(options))
            own = {f"nnUNet_{key}": str(folder) for key, folder in self._folders.items()}
            own |= {"nnUNet_extTrainer": str(SCRIPTS), "nnUNet_compile": "f", "nnUNet_n_proc_DA": "1"}
            own |= {"OMP_NUM_THREADS": "1", **environment}
            command = [str(self._python), str(SCRIPTS / "run_nnunet.py"), kind, str(path)]
            print(f"$ nnU-Net {kind} {name}", flush=True)
            with path.with_suffix(".log").open("w") as log:
                subprocess.run(command, check=True, env={**os.environ, **own}, stdout=log, stderr=log)
        found: dict[str, float] = json.loads(cost.read_text())
        return found

    def model(self, number: int, plans: str) -> Path:
        """Folder of what was trained last on a dataset."""
        return self._folders["results"] / self.name(number) / f"ShortTrainer__{plans}__3d_fullres"

    def train(self, name: str, number: int, plans: str, minutes: float, weights: Path | None = None) -> Path:
        """Trains on a dataset for some minutes of one core and returns the model."""
        kept = self._folder / "models" / name
        if not kept.is_dir():
            iterations = self._iterations(number, plans, minutes)
            options = {"dataset": self.name(number), "plans": plans, "weights": str(weights) if weights else None}
            self.step("train", name, options, PEER_ITERATIONS=str(iterations))
            kept.parent.mkdir(exist_ok=True)
            shutil.move(self.model(number, plans), kept)
        return kept

    def _iterations(self, number: int, plans: str, minutes: float) -> int:
        """As many as fit: from the difference between a short run and one of twice as many iterations."""
        seconds = []
        for iterations in (TIMED, 2 * TIMED):
            options = {"dataset": self.name(number), "plans": plans}
            name = f"timed-{number}-{plans}-{iterations}"
            # In one epoch: each has costs of its own, which would be counted as those of iterations.
            asked = {"PEER_ITERATIONS": str(iterations), "PEER_EPOCHS": "1"}
            seconds.append(self.step("train", name, options, **asked)["seconds"])
        return max(round(60 * minutes * TIMED / (seconds[1] - seconds[0])), 1)


def measured(
    plan: StudyPlan, folder: Path, cases: Sequence[Case], values: Sequence[int], trained: TrainedArm
) -> Outcome:
    """Measures the masks and probabilities that nnU-Net wrote."""
    options, rows, samples = CalibrationOptions(), list[CaseRow](), dict[str, list[Any]]()
    for case in cases:
        predicted = nibabel.load(folder / f"{case.name}.nii.gz")
        prediction = np.asanyarray(predicted.dataobj).astype(np.int16)
        reference = np.isin(np.asanyarray(nibabel.load(case.label).dataobj), values).astype(np.int16)
        x, y, z = (float(size) for size in nibabel.affines.voxel_sizes(predicted.affine))
        rows += evaluate_case(
            prediction, reference, {CLASS: 1}, (x, y, z), trained=trained, case=case.name, patient=case.patient,
            options=plan.config.evaluation,
        )  # fmt: skip
        with np.load(folder / f"{case.name}.npz") as stored:
            # Axes as SimpleITK has them.
            probability = stored["probabilities"][1:].transpose(0, 3, 2, 1)
        samples.setdefault(case.patient, []).append(
            band_sample(
                probability, prediction, reference, (x, y, z), case=case.name, patient=case.patient, band=options.band,
                clamp=options.clamp,
            )
        )  # fmt: skip
    ece = {}
    for patient, own in samples.items():
        probability, truth = (
            np.concatenate(part) for part in zip(*(sample.of_class(1) for sample in own), strict=True)
        )
        ece[patient] = expected_calibration_error(probability, truth)
    return Outcome(rows, ece)


def main() -> None:
    own = {"pool": 40, "repeats": 1, "spacing": 1.0, "patch": [40, 56, 40]}
    parser = parser_of_transfer(__doc__, "peers", **own)
    parser.add_argument("--nnunet", type=Path, help="interpreter of an environment with nnU-Net")
    parser.add_argument("--minutes", type=float, nargs="+", default=[30, 60], help="of one core, on the target")
    parser.add_argument("--source-minutes", type=float, default=60, help="of one core, on the source")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(PRESETS), metavar="NAME")
    arguments = arguments_of(parser)
    if arguments.nnunet is None:
        parser.exit(message=f"{parser.prog}: name --nnunet\n")
    Peers(arguments).compare()


class Peers:
    """The comparison."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        first = study(arguments, "prepared", UNTRAINED_STEPS, 8, arguments.arms[:1])
        self._step = seconds_per_step(arguments, first)
        self._source_steps = round(60 * arguments.source_minutes / self._step)
        self._prepared = prepare(study(arguments, "prepared", UNTRAINED_STEPS, self._source_steps, arguments.arms[:1]))
        config = read_config(first)
        self._plan = read_plan(config, Workspace(self._prepared))
        dataset = detect_layout(arguments.dataset).read(arguments.dataset)
        self._cases = {case.name: case for case in dataset.cases}
        self._values = {role: dataset.label_values(getattr(arguments, role)) for role in ("source", "target")}
        # As the virtual environment names it: a link would be followed to an interpreter without packages.
        self._nnunet = NNUNet(arguments.nnunet.absolute(), arguments.output / "nnunet")

    def compare(self) -> None:
        """Runs whatever is yet to run, and prints the tables after each budget."""
        study_of_sources = self._study("sources", UNTRAINED_STEPS, self._arguments.arms)
        sources = run_stages(study_of_sources, self._prepared, SOURCES, self._arguments.jobs)
        for minutes in self._arguments.minutes:
            found = self._graft(minutes, sources)
            patients = self._patients(minutes)
            found |= self._peers(minutes, patients)
            self._print(minutes, found)

    def _study(self, name: str, steps: int, arms: Sequence[str]) -> Path:
        return study(self._arguments, name, steps, self._source_steps, arms)

    def _workspace(self, arm: str, minutes: float) -> str:
        return f"{arm}-{minutes:g}"

    def _graft(self, minutes: float, sources: Path) -> dict[str, Outcome]:
        found = {}
        for arm in self._arguments.arms:
            steps = round(60 * minutes / self._step / trainings(PRESETS[arm]))
            path = self._study(self._workspace(arm, minutes), steps, [arm])
            workspace = run_stages(path, sources, (Stage.INFER, Stage.EVALUATE), self._arguments.jobs)
            rows = read_rows(workspace / "results" / CALIBRATION, CalibrationRow)
            ece: dict[str, list[float]] = {}
            for row in rows:
                ece.setdefault(row.patient, []).append(row.ece)
            found[arm] = Outcome(case_rows(workspace), {name: float(np.mean(own)) for name, own in ece.items()})
        return found

    def _patients(self, minutes: float) -> list[tuple[str, ...]]:
        """Patients that Graft's arms learned from, in each repeat."""
        arm = self._arguments.arms[0]
        folder = (
            self._arguments.output / self._workspace(arm, minutes) / Stage.INFER / arm / f"n{self._arguments.n:02d}"
        )
        return [read_arm(folder / f"repeat-{k}").patients for k in range(self._arguments.repeats)]

    def _peers(self, minutes: float, subsets: Sequence[Sequence[str]]) -> dict[str, Outcome]:
        own = self._nnunet
        own.dataset(500, self._of("source"), self._values["source"])
        own.step("plan", "plan-source", {"dataset": 500})
        source = own.train("source", 500, "nnUNetPlans", self._arguments.source_minutes)
        found: dict[str, Outcome] = {}
        for repeat, patients in enumerate(subsets):
            number = 501 + repeat
            own.dataset(number, self._of("pool", patients), self._values["target"])
            own.step("plan", f"plan-{repeat}", {"dataset": number})
            own.step("plan", f"plan-{repeat}-as-source", {"dataset": number, "plans_of": 500})
            weights = source / "fold_all" / "checkpoint_final.pth"
            for name, plans, start in (
                ("nnU-Net", "nnUNetPlans", None),
                ("nnU-Net, fine-tuned", "sourcePlans", weights),
            ):
                key = f"{'scratch' if start is None else 'tuned'}-{minutes:g}-{repeat}"
                model = own.train(key, number, plans, minutes, start)
                outcome = self._predicted(key, model, TrainedArm(name, self._arguments.n, repeat))
                before = found.get(name, Outcome([], {}))
                ece = {
                    patient: (before.ece.get(patient, 0.0) * repeat + value) / (repeat + 1)
                    for patient, value in outcome.ece.items()
                }
                found[name] = Outcome([*before.rows, *outcome.rows], ece)
        return found

    def _predicted(self, key: str, model: Path, trained: TrainedArm) -> Outcome:
        tested, output = self._of("test"), self._arguments.output / "nnunet" / "predictions" / key
        scans = [str(image.path) for case in tested for image in case.channels.values()]
        options = {"model": str(model), "scans": scans, "output": [str(output / case.name) for case in tested]}
        output.mkdir(parents=True, exist_ok=True)
        cost = self._nnunet.step("predict", f"predict-{key}", options)
        print(f"{trained.arm}: {cost['seconds'] / len(tested):.1f} s a scan, {cost['largest_mb']:.0f} MB", flush=True)
        return measured(self._plan, output, tested, self._values["target"], trained)

    def _of(self, role: str, patients: Sequence[str] | None = None) -> list[Case]:
        planned = self._plan.patients(role)
        return [self._cases[name] for patient in (patients or planned) for name in planned[patient]]

    def _print(self, minutes: float, found: dict[str, Outcome]) -> None:
        rows = [row for outcome in found.values() for row in outcome.rows]
        references = [name for name in found if name.startswith("nnU-Net")]
        print(f"\n{minutes:g} minutes\n\n{dice_table(rows, self._arguments.n, references, self._arguments.seed)}\n")
        print("| tool | HD95, mm | ECE |\n|---|---|---|")
        for name, outcome in found.items():
            distance = np.nanmean([row.hd95 for row in outcome.rows])
            print(f"| {name} | {distance:.2f} | {np.mean(list(outcome.ece.values())):.3f} |", flush=True)


if __name__ == "__main__":
    main()

"""How long the report of a large study takes, and how large it is.

The study is made up: 12 arms × 4 sizes × 5 repeats × 60 test cases, heads of 72×88×72 voxels of 2 mm with one
structure, every table, history and picture that the stages write, and predictions of every arm at the largest size.
Figures to reach: built in under 60 s, the page under 15 MB; printed beside them the pages of the cases, the figures,
and how the time is spent (`--profile`).

Run: python benchmarks/report_size.py [--arms 12] [--sizes 4] [--repeats 5] [--cases 60] [--jobs 1] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline.arms.arm_record import PREDICTIONS, TRAININGS, ArmRecord
from pipeline.arms.choices import ArmOptions
from pipeline.arms.presets import PRESETS
from pipeline.config.reading import as_yaml, parse_config
from pipeline.config.report_options import ReportOptions
from pipeline.evaluation.csv_rows import write_rows
from pipeline.evaluation.tables import CaseRow, StudyRows, SummaryRow, summarise, write_cases_csv
from pipeline.execution.provenance_record import Provenance, StageFacts
from pipeline.metrics.overlap import count_voxels, dice, iou
from pipeline.prediction.stored_prediction import StoredPrediction, prediction_name
from pipeline.prediction.temperature import log_probability
from pipeline.report.build import build_report
from pipeline.storage.atomic import write_record, write_text
from pipeline.storage.file_names import CONFIG, HISTORY, PLAN, PLAN_UNIT, PROVENANCE, QUALITY, RECORD
from pipeline.storage.plan_record import PlanRecord
from pipeline.storage.stage_names import Stage
from pipeline.storage.tensors import save_arrays
from preprocessing.quality_control import QualityRecord
from preprocessing.step_record import ChainRecord, StepRecord

SHAPE, SPACING = (72, 88, 72), 2.0
SECONDS, MEGABYTES = 60.0, 15.0
SKILLS = 4
"""Different predictions of a case; arms beyond that share files, which changes neither the time nor the size."""


def arm_names(count: int) -> list[str]:
    """Names of presets, then variants of them."""
    names = list(PRESETS)
    return [names[i] if i < len(names) else f"{names[i % len(names)]}_{i // len(names) + 1}" for i in range(count)]


def preset(arm: str) -> ArmOptions:
    """Choices of an arm."""
    return PRESETS.get(arm, PRESETS["dwp"])


def unit_key(arm: str, n: int, repeat: int) -> str:
    """Key of the training and of the prediction of an arm; here each has its own."""
    return f"{arm}-n{n:02d}-{repeat}"


def ellipsoid(centre: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Signed depth in mm below the surface of an ellipsoid, roughly; centre in voxels, half axes in mm."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    radius = np.linalg.norm((grid - centre) * SPACING / axes, axis=-1)
    return ((1 - radius) * axes.mean()).astype(np.float32)


def write_scans(root: Path, cases: list[str]) -> dict[tuple[str, int], tuple[Path, CaseRow]]:
    """Writes preprocessed cases and `SKILLS` predictions of each; returns file and measured row by case and skill."""
    generator, middle = np.random.default_rng(0), np.array(SHAPE) / 2
    affine = np.diag([SPACING] * 3 + [1.0])
    brain = ellipsoid(middle, np.array([68.0, 84.0, 68.0]))
    found: dict[tuple[str, int], tuple[Path, CaseRow]] = {}
    for case in cases:
        folder = root / "preprocess/target" / case
        depth = ellipsoid(middle + generator.uniform(-12, 12, 3), generator.uniform(12, 30, 3))
        depth += 5 * gaussian_filter(generator.normal(size=SHAPE), 2).astype(np.float32) * 8
        label = depth > 0
        folds = gaussian_filter(generator.normal(size=SHAPE), 1.5) * 4
        image = (1 + 0.3 * folds + 0.8 * label + generator.normal(0, 0.08, SHAPE)).astype(np.float32)
        arrays = {"image": image[None], "label": label.astype(np.int16), "mask": (brain > 0).astype(np.uint8)}
        save_arrays(folder / "arrays.safetensors", arrays, {"affine": affine.tolist(), "channels": ["FLAIR"]})
        quality = QualityRecord(case=case, mask_volume_ml=1400.0 + generator.normal(0, 90))
        write_record(folder / QUALITY, quality)
        write_record(folder / RECORD, ChainRecord(steps=tuple(StepRecord(step=s) for s in ("skull_strip", "align"))))
        picture = np.clip(90 * np.concatenate([image[:, :, z] for z in (20, 36, 50)], axis=1), 0, 255).astype(np.uint8)
        Image.fromarray(picture).resize((1200, 400)).convert("RGB").save(folder / "qc.png")
        for skill in range(SKILLS):
            error = 6 * gaussian_filter(generator.normal(size=SHAPE), 3).astype(np.float32) * (6 + 6 * skill)
            probability = 1 / (1 + np.exp(-np.clip((depth + error - 1.0) / 2, -30, 30)))
            path = root / "predictions" / f"{case}-{skill}.safetensors"
            whole = torch.from_numpy(np.stack([1 - probability, probability])).float()
            stored = log_probability(whole).half()
            StoredPrediction(case, "0", ("lesion",), affine, 8, stored, None, None).write(path)
            counts = count_voxels(probability > 0.5, label)
            row = CaseRow("", 0, 0, case, case, "lesion", dice(counts), iou(counts), counts.true_positive,
                          counts.false_positive, counts.false_negative)  # fmt: skip
            found[case, skill] = (path, row)
    return found


def write_training(root: Path, arms: list[str], sizes: list[int], repeats: int) -> None:
    """Writes histories of source networks and of every arm × size × repeat."""
    generator = np.random.default_rng(1)
    for k in range(5):
        lines = ["step,loss,rate,out_of_bag_dice"]
        for step in range(10, 4001, 10):
            bag = f"{0.8 - 0.7 * np.exp(-step / 900):.4f}" if step % 1000 == 0 else ""
            loss = 1.5 * np.exp(-step / 700) + 0.2 + generator.normal(0, 0.04)
            lines.append(f"{step},{loss:.5f},{0.003 * (1 - step % 1000 / 1000):.6f},{bag}")
        write_text(root / f"train-source/network-{k:02d}/history.csv", "\n".join(lines) + "\n")
    for arm in arms:
        for n in sizes:
            for repeat in range(repeats):
                key = unit_key(arm, n, repeat)
                ArmRecord(
                    arm=arm, n=n, repeat=repeat, patients=("p",), steps=500, choices=preset(arm),
                    objective="tempered posterior", trainings=(key,), predictions=(key,),
                ).write(root / f"infer/{arm}/n{n:02d}/repeat-{repeat}")  # fmt: skip
                loss = 1.2 * np.exp(-np.arange(0, 500, 10) / (60 + n)) + 0.2 + generator.normal(0, 0.03, 50)
                lines = ["step,data_term,kl", *(f"{10 * i},{v:.5f},{2 + v:.5f}" for i, v in enumerate(loss))]
                write_text(root / TRAININGS / key / HISTORY, "\n".join(lines) + "\n")


def write_study(root: Path, arms: list[str], sizes: list[int], repeats: int, cases: list[str]) -> None:
    """Writes a finished study."""
    generator = np.random.default_rng(2)
    dataset = {"path": "scans", "modality": "mr_head", "foreground": ["lesion"]}
    config = {
        "name": "large", "title": "A made-up large study", "seed": 0,
        "datasets": {"source": dataset, "target": dataset},
        "source": {"dataset": "source", "patients": 20},
        "target": {"dataset": "target", "pool": sizes[-1], "test": len(cases)},
        "target_training": {"arms": {arm: preset(arm).model_dump(mode="json") for arm in arms},
                            "sizes": sizes, "repeats": repeats, "steps": 500},
    }  # fmt: skip
    write_text(root / CONFIG, as_yaml(parse_config(config, root / CONFIG)))
    roles = {"source": ["s"], "pool": ["p"], "test": cases}
    split = {role: {patient: [patient] for patient in patients} for role, patients in roles.items()}
    plan = PlanRecord(split=split, classes={"target": {"lesion": [1]}}, channels={"target": ["FLAIR"]})
    write_record(root / Stage.CHECK / PLAN_UNIT / PLAN, plan)
    write_record(root / PROVENANCE, Provenance(graft_version="0", stages={"infer": StageFacts(wall_seconds=1.0)}))
    write_training(root, arms, sizes, repeats)
    scans, rows = write_scans(root, cases), []
    for number, arm in enumerate(arms):
        folder = root / PREDICTIONS / unit_key(arm, sizes[-1], 0)
        folder.mkdir(parents=True)
        for case in cases:
            path, measured = scans[case, number % SKILLS]
            os.link(path, folder / prediction_name(case))
            for n in sizes:
                for repeat in range(repeats):
                    exact = n == sizes[-1] and repeat == 0
                    away = 0.0 if exact else float(generator.normal(-0.3 / n, 0.03))
                    value = float(np.clip(measured.dice + away, 0, 1))
                    rows.append(
                        CaseRow(arm, n, repeat, case, case, "lesion", value, value / (2 - value), measured.tp,
                                measured.fp, measured.fn, hd95=20 * (1 - value), surface_dice=value)
                    )  # fmt: skip
    write_cases_csv(rows, root / "results/cases.csv")
    write_rows(root / "results/summary.csv", SummaryRow, summarise(StudyRows(rows), 0, 2000))


def megabytes(*paths: Path) -> float:
    """Size of files together."""
    return sum(path.stat().st_size for path in paths) / 1e6


def main() -> None:
    """Makes the study, builds its report and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("arms", 12), ("sizes", 4), ("repeats", 5), ("cases", 60), ("jobs", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--keep", type=Path, help="make the study here, or take the one that is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.keep or Path(temporary)
        if not (root / "results/summary.csv").is_file():
            sizes = [5 * (i + 1) for i in range(options.sizes)]
            cases = [f"case-{i:03d}" for i in range(options.cases)]
            start = time.perf_counter()
            write_study(root, arm_names(options.arms), sizes, options.repeats, cases)
            print(f"study made in {time.perf_counter() - start:.1f} s")
        profile = cProfile.Profile(time.process_time)
        start, cpu = time.perf_counter(), time.process_time()
        if options.profile:
            profile.enable()
        page = build_report(root, ReportOptions(), jobs=options.jobs)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        profile.disable()
        cases_size = megabytes(*(root / "report/cases").glob("*"))
        print(f"built in {seconds:.1f} s (figure to reach: {SECONDS:.0f} s), {options.jobs} job(s)")
        # On a machine that is busy with other work, this is the time that the report itself takes.
        print(f"processor time of this process {cpu:.1f} s")
        print(f"index.html {megabytes(page):.1f} MB (figure to reach: {MEGABYTES:.0f} MB)")
        print(f"pages of cases {cases_size:.1f} MB, figures {megabytes(*(root / 'report/figures').glob('*')):.1f} MB")
        if options.profile:
            pstats.Stats(profile).sort_stats("cumulative").print_stats(40)


if __name__ == "__main__":
    main()

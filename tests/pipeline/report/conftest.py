"""A small workspace with every file that the report reads; its numbers are made up and serve as test data only."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.arms.arm_record import ArmRecord
from pipeline.arms.choices import ArmOptions, Initialisation
from pipeline.arms.kl_trend import KLTrend
from pipeline.arms.training_unit import TrainingRecord
from pipeline.config.reading import as_yaml, parse_config
from pipeline.evaluation.calibration_tables import CalibrationRow, ReliabilityRow
from pipeline.evaluation.label_audit import AuditRow
from pipeline.evaluation.options import EvaluationOptions
from pipeline.evaluation.study_results import write_study_results
from pipeline.evaluation.tables import CaseRow
from pipeline.execution.provenance_record import Provenance
from pipeline.metrics.overlap import count_voxels, dice, iou
from pipeline.priors.filter_summary import FilterSummary
from pipeline.storage.plan_record import PlanRecord
from pipeline.storage.tensors import save_arrays
from pipeline.training.sample_record import SampleRecord
from preprocessing.quality_control import QualityRecord

ARMS = {"random": -0.10, "fine_tune": 0.0, "fine_tune_ends": -0.05, "dwp": 0.02}
SIZES = (5, 10)
SHAPE = (28, 34, 30)
AFFINE = np.diag([2.0, 1.5, 2.0, 1.0])


def record(arm: str, n: int, repeat: int, objective: str = "none") -> ArmRecord:
    """The record of an arm whose training and prediction are named after it."""
    key = f"{arm}-n{n:02d}-{repeat}"
    choices = ArmOptions(init=Initialisation.SOURCE, posterior_temperature=0.1)
    return ArmRecord(
        arm=arm, n=n, repeat=repeat, patients=("p1",), steps=60, choices=choices, objective=objective,
        trainings=(key,), predictions=(key,),
    )  # fmt: skip


def write_config(root: Path, settings: dict[str, Any]) -> None:
    """Writes the resolved configuration of a study on two datasets, `ms` and `tumour`, with these settings."""
    datasets = {name: {"path": name, "modality": "mr_brain", "foreground": ["lesion"]} for name in ("ms", "tumour")}
    study = {"name": "fake", "datasets": datasets, "source": {"dataset": "ms", "patients": 12},
             "target": {"dataset": "tumour", "pool": 12, "test": 13}}  # fmt: skip
    text = as_yaml(parse_config({**study, **copy.deepcopy(settings)}, root / "study.yaml"))
    _text(root / "config.resolved.yaml", text)


def build_workspace(
    root: Path,
    store: Callable[..., Path],
    *,
    patients: int = 13,
    repeats: int = 2,
    first_case: str = "case-00",
) -> Path:
    """Writes the workspace and returns it."""
    generator = np.random.default_rng(3)
    cases = [first_case, *(f"case-{i:02d}" for i in range(1, patients))]
    settings = {
        "name": "fake", "title": "A made-up study", "seed": 7,
        "datasets": {
            "ms": {"path": "ms", "modality": "mr_brain", "foreground": ["lesion"]},
            "tumour": {"path": "tumour", "modality": "mr_brain", "foreground": ["core"],
                       "preprocessing": {"skull_strip": {}, "alignment": {}, "resampling": {}}},
        },
        "source": {"dataset": "ms", "patients": 12},
        "target": {"dataset": "tumour", "pool": 12, "test": patients},
        "source_training": {"networks": 3, "cycles": 2},
        "target_training": {
            "arms": {a: {"prior": "vae" if a == "dwp" else "none", "posterior": "mean_field" if a == "dwp" else "point"}
                     for a in ARMS},
            "sizes": list(SIZES), "repeats": repeats, "steps": 60,
        },
        "evaluation": {"empty_masks": "reward_agreement", "resamples": 500},
    }  # fmt: skip
    write_config(root, settings)
    stages = ("check", "preprocess", "train-source", "collect-filters", "fit-priors", "infer", "evaluate")
    provenance = {
        "graft_version": "0.1.0", "git_commit": "0123abc", "command": "graft run fake.yaml",
        "started": "2026-01-02T03:04:05+00:00", "finished": "2026-01-02T04:04:05+00:00", "seed": 7,
        "machine": {"cpu_count": 2, "cpu": "A processor", "memory_gb": 16.0, "platform": "Linux", "device": "cpu"},
        "versions": {"python": "3.11.2", "torch": "2.9.0"},
        "inputs": {"ms": {"root": "/data/ms", "layout": "msd", "cases": 12, "sha256": "ab" * 32}},
        "stages": {s: {"wall_seconds": 61.5 * (i + 1), "peak_memory_gb": 1.25, "units_done": 4, "units_reused": 1}
                   for i, s in enumerate(stages)},
    }  # fmt: skip
    _text(root / "provenance.json", json.dumps(Provenance.model_validate(provenance).as_json()))
    roles = {"source": [f"s{i}" for i in range(12)], "pool": [f"p{i}" for i in range(12)], "test": cases}
    split = {k: {p: [p] for p in v} for k, v in roles.items()}
    plan = PlanRecord(split=split, classes={"tumour": {"core": [2]}}, channels={"tumour": ["FLAIR"]})
    _text(root / "check/study/study.json", json.dumps(plan.as_json()))
    _preprocess(root, cases, generator)
    _source(root, generator)
    _infer(root, cases, repeats, generator, store)
    return root


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _grid() -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"))


def _ball(centre: np.ndarray, radius: float) -> np.ndarray:
    away = (_grid() - centre[:, None, None, None]) * np.diag(AFFINE)[:3, None, None, None]
    return np.linalg.norm(away, axis=0) <= radius


def _preprocess(root: Path, cases: list[str], generator: np.random.Generator) -> None:
    middle = np.array(SHAPE) / 2
    for number, case in enumerate(cases):
        for dataset in ("tumour", "ms"):
            folder = root / "preprocess" / dataset / case
            head = _ball(middle, 26.0)
            label = _ball(middle + generator.uniform(-4, 4, 3), 8.0 + number % 4)
            image = (head * 1.0 + label * 0.8 + generator.normal(0, 0.1, SHAPE)).astype(np.float32)
            about = {"affine": AFFINE.tolist(), "channels": ["FLAIR"], "case": case}
            arrays = {"image": image[None], "label": (label * 2).astype(np.int16), "mask": head.astype(np.uint8)}
            save_arrays(folder / "arrays.safetensors", arrays, about)
            suspect = ["brain volume 400 ml is below 700 ml"] if number == 3 and dataset == "tumour" else []
            records = [{"step": "skull_strip", "suspect": suspect}, {"step": "align", "suspect": []}]
            _text(folder / "record.json", json.dumps(records))
            _text(folder / "qc.json", json.dumps(QualityRecord(case=case, mask_volume_ml=1312.5).as_json()))
            picture = Image.new("RGB", (900, 300), "black")
            ImageDraw.Draw(picture).ellipse((20, 20, 280, 280), outline="orange", width=4)
            picture.save(folder / "qc.png")


def _source(root: Path, generator: np.random.Generator) -> None:
    for k in range(3):
        folder = root / f"train-source/network-{k:02d}"
        sample = SampleRecord(drawn=("s1", "s1", f"s{k + 2}"), out_of_bag=("s9", "s10"))
        _text(folder / "sample.json", json.dumps(sample.as_json()))
        lines = ["step,loss,rate,out_of_bag_dice"]
        for step in range(1, 401):
            loss = 1.5 * np.exp(-step / 120) + 0.2 + generator.normal(0, 0.04)
            bag = f"{0.8 - 0.7 * np.exp(-step / 100) - 0.01 * k:.4f}" if step % 50 == 0 else ""
            lines.append(f"{step},{loss:.5f},{0.002 * (1 - (step % 200) / 200):.6f},{bag}")
        _text(folder / "history.csv", "\n".join(lines) + "\n")
    for g, group in enumerate(("encoder-1", "encoder-2", "decoder-1")):
        summary = FilterSummary(
            group=group, layers=(f"{group}.conv1.weight", f"{group}.conv2.weight"), networks=(0, 1, 2), snapshots=2,
            filters=4096, norm_quantile_levels=(0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0),
            norm_quantiles=(0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.9), moved_from_initial=0.71, moved_quantiles=(0.5, 0.71, 1),
            moved_by_network={"0": 0.71},
        )  # fmt: skip
        _text(root / f"collect-filters/{group}/summary.json", json.dumps(summary.as_json()))
        densities = {
            "isotropic": {"mean": 44.5 + g, "standard_error": 0.1, "bound": False},
            "gaussian_full": {"mean": 48.4 + g, "standard_error": 0.2, "bound": False},
            "vae": {"mean": 47.9 + 1.5 * g, "standard_error": 0.3, "bound": True},
        }
        for density in densities.values():
            paired = {"mean": density["mean"] - 48.4 - g, "standard_error": 0.1}
            density["difference_to_gaussian_full"] = paired
        scores = {"group": group, "fitted_on": 4000, "held_out": 900, "held_out_networks": "filters of network 2",
                  "norm_threshold": 0.01, "kept": 4000 - g, "share_kept": (4000 - g) / 4096,
                  "densities": densities}  # fmt: skip
        _text(root / f"compare-priors/{group}/scores.json", json.dumps(scores))


def _infer(
    root: Path, cases: list[str], repeats: int, generator: np.random.Generator, store: Callable[..., Path]
) -> None:
    from pipeline.storage.tensors import load_arrays

    references = {c: load_arrays(root / "preprocess/tumour" / c / "arrays.safetensors")["label"] == 2 for c in cases}
    rows = []
    for arm, n, repeat in ((a, n, r) for a in ARMS for n in SIZES for r in range(repeats)):
        folder = root / f"infer/{arm}/n{n:02d}/repeat-{repeat}"
        objective = "tempered posterior (data term dice_cross_entropy, T = 0.1)"
        key = f"{arm}-n{n:02d}-{repeat}"
        folder.mkdir(parents=True)
        record(arm, n, repeat, objective).write(folder)
        steps = [
            (s, 1.2 * np.exp(-s / (15 + n)) + 0.2, f"{0.5 - s / 300!r}" if arm == "dwp" else "") for s in range(60)
        ]
        lines = ["step,loss,data_term,kl,rate", *(f"{s},{v:.5f},{v:.5f},{kl},0.001" for s, v, kl in steps)]
        if arm == "dwp":
            lines = [lines[0] + ",gradient_data,gradient_kl", *(f"{line},0.003,0.001" for line in lines[1:])]
        else:
            lines = [line.replace(",kl,", ",").replace(",,", ",") for line in lines]
        _text(root / f"train-target/{key}/history.csv", "\n".join(lines) + "\n")
        trained = TrainingRecord(
            arm=ArmOptions(), member=0, n=n, repeat=repeat, patients=("p1",), steps=60, about={},
            kl=(KLTrend(level=0.32, drift=-0.05, settled=False),) if arm == "dwp" else (),
        )  # fmt: skip
        _text(root / f"train-target/{key}/training.json", json.dumps(trained.as_json()))
        for case in cases:
            reference = references[case]
            shift = int(generator.integers(0, 3)) + (ARMS[arm] < -0.04) + (n == 5)
            mask = np.roll(reference, shift, axis=int(generator.integers(0, 3)))
            probability = np.where(mask, 0.9, 0.05).astype(np.float32)
            if repeat == 0:
                draws = 8 if arm == "dwp" else 1
                store(root / f"predict-test/{key}", probability[None], case=case, classes=("core",), draws=draws)
            counts = count_voxels(mask, reference)
            rows.append(CaseRow(arm, n, repeat, case, case, "core", dice(counts), iou(counts),
                                counts.true_positive, counts.false_positive, counts.false_negative))  # fmt: skip
    calibration = [CalibrationRow(r.arm, r.n, r.repeat, r.case, r.patient, r.label, band_voxels=90, nll=1 - r.dice,
                                  brier=1 - r.dice, ece=(1 - r.dice) / 2, dice=r.dice, entropy=1 - r.dice,
                                  expected_dice=r.dice / 2) for r in rows]  # fmt: skip
    reliability = [ReliabilityRow(a, n, r, "core", low, low + 0.5, 0.5, low + 0.25, low + 0.2)
                   for a in ARMS for n in SIZES for r in range(repeats) for low in (0.0, 0.5)]  # fmt: skip
    audit = [AuditRow(r.arm, r.n, r.repeat, r.case, r.patient, r.label, f"{r.arm}-n{r.n:02d}-0", 1 - r.dice,
                      r.dice, 0.9, 0.1, 0.2) for r in rows]  # fmt: skip
    options = EvaluationOptions(resamples=500)
    write_study_results(root / "results", rows, calibration, reliability, audit, options=options,
                        rivals=("random", "fine_tune", "fine_tune_ends"), seed=7)  # fmt: skip


@pytest.fixture(scope="session")
def arm_record() -> Callable[..., ArmRecord]:
    """Returns a function that makes the record of an arm: its name, size, repeat and objective."""
    return record


@pytest.fixture(scope="session")
def configure() -> Callable[[Path, dict[str, Any]], None]:
    """Returns a function that writes the resolved configuration of a workspace."""
    return write_config


@pytest.fixture(scope="session")
def workspace_builder(store_prediction: Callable[..., Path]) -> Callable[..., Path]:
    return partial(_build, store_prediction)


def _build(store: Callable[..., Path], root: Path, **changes: Any) -> Path:
    return build_workspace(root, store, **changes)


@pytest.fixture(scope="session")
def whole_workspace(tmp_path_factory: pytest.TempPathFactory, workspace_builder: Callable[..., Path]) -> Path:
    """A finished study; tests read it and do not change it."""
    return workspace_builder(tmp_path_factory.mktemp("study"))

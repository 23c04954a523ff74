"""Image models of a study tell later which scans are unlike its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import ModelError
from data.image_file import read_volume, write_volume
from models.image_models.objectives import Contractive, Denoising, Masked, Sparse, Variational
from pipeline.cli import main
from pipeline.config.reading import read_config
from pipeline.deployment.image_gate import ImageGate, scores_scans
from pipeline.deployment.model_folder import read_model
from pipeline.stages.resources import Resources
from pipeline.stages.target_plan import plan_target
from pipeline.storage.tensors import load_about, load_tensors, save_tensors
from pipeline.storage.workspace import Workspace

SCORES = ["features", "image model clean", "image model likely"]


@pytest.fixture(scope="module")
def guarded(
    write_cohort: Callable[..., Path], write_study: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """Cohort, configuration and workspace of a study with image models."""
    folder = tmp_path_factory.mktemp("guarded")
    cohort = write_cohort(folder / "cohort", cases=13)
    config = write_study(
        folder / "study.yaml", cohort, target={"dataset": "right", "pool": 5, "test": 5},
        target_training={"arms": ["random"], "sizes": [5], "reference_sizes": [], "repeats": 1, "steps": 2},
        priors={"densities": {}},
        image_models={
            "clean": {"objective": "denoising", "steps": 3},
            "sparse": {"objective": "sparse", "steps": 2},
            "likely": {"objective": "variational", "steps": 3},
        },
    )  # fmt: skip
    for stage in ("check", "preprocess", "infer"):
        assert main([stage, str(config), "--workspace", str(folder / "w"), "--jobs", "1"]) == 0
    return cohort, config, folder / "w"


def model_of(workspace: Path) -> Path:
    return workspace / "infer/random/n05/repeat-0/model"


def predicted(model: Path, scan: Path, output: Path, *settings: str) -> dict[str, Any]:
    words = [word for setting in ("pictures=false", *settings) for word in ("--set", setting)]
    assert main(["predict", str(model), str(scan), "--output", str(output), "--jobs", "1", *words]) == 0
    name = scan.name.removesuffix(".nii.gz")
    return json.loads((output / name / f"{name}.json").read_text())


@pytest.mark.slow
def test_models_take_along_the_image_models_that_score_scans(guarded: tuple[Path, Path, Path]) -> None:
    _, config, workspace = guarded
    files = sorted(path.name for path in model_of(workspace).glob("gate*"))
    assert files == ["gate-image-00.safetensors", "gate-image-01.safetensors", "gate.safetensors"]
    assert sorted(path.name for path in (workspace / "fit-gates").iterdir()) == ["clean", "likely"]
    gates = {own.record.name: own.record for own in read_model(model_of(workspace)).image_gates}
    assert {name: (own.scans, own.tail.count, own.tail.logarithmic) for name, own in gates.items()} == {
        "clean": (5, 5, True), "likely": (5, 5, False)
    }  # fmt: skip
    # Calibrated by patients whom no image model has seen.
    study, opened = read_config(config, workspace=workspace), Workspace(workspace)
    plan = plan_target(study, opened, Resources(jobs=1, device="cpu"))
    tested = {case.patient for case in plan.gates["clean"].arguments["task"].cases}
    learned = {p for own in plan.image_models["clean"].arguments["task"].patients.values() for p in own}
    assert len(tested) == 5
    assert not tested & learned
    assert "P0" not in (model_of(workspace) / "gate-image-00.safetensors").read_bytes().decode("latin-1")


@pytest.mark.slow
def test_the_gates_follow_their_image_models_and_an_arm_its_gates(guarded: tuple[Path, Path, Path]) -> None:
    _, config, workspace = guarded

    def digests(*changes: str) -> tuple[str, str, str]:
        study = read_config(config, list(changes), workspace)
        plan = plan_target(study, Workspace(workspace), Resources(jobs=1, device="cpu"))
        return plan.gates["clean"].digest, plan.gates["likely"].digest, next(iter(plan.arms.values())).digest

    now, changed = digests(), digests("image_models.clean.steps=4")
    assert [a == b for a, b in zip(now, changed, strict=True)] == [False, True, False]
    assert digests("image_models.sparse.steps=4") == now


@pytest.mark.slow
def test_every_gate_scores_a_scan_and_one_that_finds_it_unlike_says_so(
    guarded: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    cohort, _, workspace = guarded
    scan = cohort / "imagesTr/case_0.nii.gz"
    like = predicted(model_of(workspace), scan, tmp_path / "like")
    assert list(like["gate"]) == SCORES
    assert not [reason for reason in like["suspect"] if "image model" in reason or "features" in reason]
    volume = read_volume(scan)
    pattern = 3000.0 * (np.indices(volume.shape).sum(0) % 3 == 0)
    write_volume(volume.with_array((volume.array + pattern).astype(np.float32)), tmp_path / "odd.nii.gz")
    odd = predicted(model_of(workspace), tmp_path / "odd.nii.gz", tmp_path / "odd", "limits.gate=0.9")
    assert odd["gate"][SCORES[1]]["value"] > like["gate"][SCORES[1]]["value"]
    # Three gates share the share that may be wrong.
    tail = read_model(model_of(workspace)).image_gates[0].record.tail.tail()
    assert odd["gate"]["image model clean"]["limit"] == pytest.approx(tail.limit(1 - 0.1 / 3))
    [reason] = [own for own in odd["suspect"] if own.startswith("the image model clean scores the scan")]
    assert "scans of other patients of the study" in reason
    where = read_volume(tmp_path / "odd/odd/odd_unlikeness.nii.gz")
    assert where.shape == volume.shape
    assert predicted(model_of(workspace), tmp_path / "odd.nii.gz", tmp_path / "again", "limits.gate=0.9") == odd


@pytest.mark.slow
def test_a_damaged_image_gate_is_refused(guarded: tuple[Path, Path, Path], tmp_path: Path) -> None:
    own = model_of(guarded[2]) / "gate-image-00.safetensors"
    tensors, about = load_tensors(own), load_about(own)
    copy = tmp_path / "gate-image-00.safetensors"
    save_tensors(copy, dict(list(tensors.items())[1:]), about)
    with pytest.raises(ModelError, match="cannot be read"):
        ImageGate.read(copy, "cpu")
    save_tensors(copy, tensors, {**about, "tail": None})
    with pytest.raises(ModelError, match="cannot be read"):
        ImageGate.read(copy, "cpu")
    gate = ImageGate.read(own, "cpu")
    nothing = torch.zeros(12, 12, 12, dtype=torch.bool)
    image = torch.randn(1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    # A scan without content is scored as a whole, as everywhere.
    assert gate.judge(image, nothing, 0.99).value == gate.judge(image, ~nothing, 0.99).value


def test_two_kinds_of_image_models_score_scans() -> None:
    objectives = (Denoising(), Variational(), Masked(), Sparse(), Contractive())
    assert [scores_scans(own) for own in objectives] == [True, True, False, False, False]

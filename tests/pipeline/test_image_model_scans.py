"""Which scans an image model learns from: all at hand that fit, and none of anybody who is tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.errors import DataError
from data.splits import Split
from pipeline.config.study import StudyConfig
from pipeline.stages.image_models import patients_learned_from
from pipeline.stages.study_plan import StudyPlan
from pipeline.storage.workspace import Workspace

SOURCE = {f"s{number}": (f"s{number}",) for number in range(3)}
POOL = {"p0": ("p0",), "p1": ("p1a", "p1b")}
TEST = {"t0": ("t0",), "t1": ("t1",)}
UNLABELLED = {"u0": ("u0",), "t1": ("t1_later",)}


def plan(folder: Path, model: dict[str, Any], *, folds: int | None = None, source_channels: str = "T1") -> StudyPlan:
    data = {"modality": "mr", "foreground": [1], "path": "data"}
    target = {"pool": 2, "test": 2} if folds is None else {"pool": 2, "folds": folds}
    config = StudyConfig.model_validate({
        "name": "s",
        "datasets": {"a": data, "b": data},
        "source": {"dataset": "a", "patients": 3},
        "target": {"dataset": "b", **target},
        "target_training": {"arms": ["random"], "sizes": [2] if folds is None else []},
        "image_models": {"m": model},
    })  # fmt: skip
    split = Split(SOURCE, POOL, TEST if folds is None else POOL)
    channels = {"a": (source_channels,), "b": ("T1",)}
    return StudyPlan(split, {}, channels, config, Workspace(folder), unlabelled=UNLABELLED)


def test_all_scans_are_learned_from_but_those_of_tested_patients(tmp_path: Path) -> None:
    found = patients_learned_from(plan(tmp_path, {}), "m")
    # A later scan of a test patient is not labelled, and shows the patient all the same.
    assert found == {"source": ["s0", "s1", "s2"], "pool": ["p0", "p1"], "unlabelled": ["u0"]}


def test_some_of_them_can_be_named(tmp_path: Path) -> None:
    found = patients_learned_from(plan(tmp_path, {"learn_from": ["pool", "source"]}), "m")
    assert found == {"source": ["s0", "s1", "s2"], "pool": ["p0", "p1"]}


def test_in_cross_validation_everybody_of_the_pool_is_tested(tmp_path: Path) -> None:
    found = patients_learned_from(plan(tmp_path, {}, folds=2), "m")
    assert found == {"source": ["s0", "s1", "s2"], "unlabelled": ["u0", "t1"]}


def test_a_source_of_other_channels_is_left_out_and_fewer_than_five_scans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the image model 'm' has 4 scans to learn from \(pool and unlabelled\)") as no:
        patients_learned_from(plan(tmp_path, {}, source_channels="T2"), "m")
    assert "at least 5 scans of patients who are not tested" in str(no.value)
    with pytest.raises(DataError, match=r"1 scans|1 scan"):
        patients_learned_from(plan(tmp_path, {"learn_from": ["unlabelled"]}), "m")

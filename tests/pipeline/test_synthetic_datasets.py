"""Synthetic datasets of a study: made once in the workspace, one unit a case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.image_file import write_volume
from data.synthetic.cohort import CohortOptions, case_files
from data.volume import Volume
from pipeline.config.reading import read_config
from pipeline.config.study import StudyConfig
from pipeline.stages import cohorts
from pipeline.stages.resources import Resources
from pipeline.storage.workspace import Workspace


def study(tmp_path: Path, cases: int = 3, seed: int = 1) -> StudyConfig:
    raw = {
        "name": "synthetic",
        "datasets": {
            "ms": {
                "synthetic": {"cohort": "ms", "cases": cases, "seed": seed},
                "modality": "mr_head",
                "foreground": [1],
            }
        },
        "source": {"dataset": "ms", "patients": 2},
        "target": {"dataset": "ms", "pool": 1, "test": 1},
        "target_training": {"sizes": [1]},
        "workspace": str(tmp_path / "workspace"),
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(raw))
    return read_config(path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the cases that were made; a case is a few voxels, because the anatomy has tests of its own."""
    numbers: list[int] = []

    def write_case(options: CohortOptions, index: int, out: Path) -> None:
        numbers.append(index)
        for role, path in case_files(options, index, out).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if role == "truth":
                path.write_text(json.dumps({"options_digest": options.digest}))
            else:
                write_volume(Volume(np.ones((2, 2, 2), np.uint8), np.eye(4)), path)

    monkeypatch.setattr(cohorts, "write_case", write_case)
    return numbers


def make(config: StudyConfig, made: list[int]) -> list[int]:
    made.clear()
    cohorts.make_cohorts(config, Workspace(config.workspace_folder), Resources(jobs=1))
    return sorted(made)


def test_cases_are_made_once_and_read_as_a_dataset(tmp_path: Path, made: list[int]) -> None:
    config = study(tmp_path)
    assert make(config, made) == [0, 1, 2]
    assert make(config, made) == []
    workspace = Workspace(config.workspace_folder)
    dataset = cohorts.read_datasets(config, workspace)["ms"]
    assert [case.name for case in dataset.cases] == ["ms_001", "ms_002", "ms_003"]
    assert dataset.root == cohorts.dataset_root("ms", config, workspace)
    assert dataset.root.is_relative_to(workspace.root)
    assert dataset.label_names[1] == "lesion"
    assert len({case.patient for case in dataset.cases}) == 3


def test_only_what_is_missing_is_made(tmp_path: Path, made: list[int]) -> None:
    config = study(tmp_path)
    make(config, made)
    root = cohorts.dataset_root("ms", config, Workspace(config.workspace_folder))
    (root / "labelsTr" / "ms_002.nii.gz").unlink()
    assert make(config, made) == [1]
    # More cases of the same cohort: those that are there are kept.
    assert make(study(tmp_path, cases=5), made) == [3, 4]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert make(study(tmp_path, cases=5, seed=2), made) == [0, 1, 2, 3, 4]
    # Another cohort never overwrites or mixes with the one that is there.
    assert {path: path.stat().st_mtime_ns for path in before} == before

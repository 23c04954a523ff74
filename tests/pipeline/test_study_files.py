"""Every study in `configs/` is one that `graft` accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.splits import Split
from pipeline.config.reading import as_yaml, read_config
from pipeline.stages.cohorts import read_datasets
from pipeline.stages.study_plan import make_split
from pipeline.storage.workspace import Workspace

CONFIGS = Path(__file__).parents[2] / "configs"
STUDIES = sorted(CONFIGS.glob("*.yaml"))


def test_the_promised_studies_are_there() -> None:
    names = {
        "demo",
        "hippocampus",
        "hippocampus-quick",
        "oasis",
        "oasis-quick",
        "acdc-cpu",
        "ms_to_brats",
        "liver_to_spleen",
    }
    assert names <= {path.stem for path in STUDIES}


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_loads_and_reads_back(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_REAL_DATA", str(tmp_path / "scans"))
    config = read_config(path)
    assert config.name == path.stem
    assert config.title
    for dataset in config.datasets.values():
        # A study is about its own machine only through the variables.
        assert dataset.path is None or "home" not in dataset.path.parts
    target = config.target
    assert target.pool is None or max(config.target_training.sizes) <= target.pool
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(as_yaml(config))
    assert read_config(resolved) == config


@pytest.mark.parametrize("name", ["hippocampus", "hippocampus-quick", "oasis", "oasis-quick", "acdc-cpu"])
def test_studies_on_real_scans_read_from_the_variable(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = CONFIGS / f"{name}.yaml"
    monkeypatch.setenv("GRAFT_REAL_DATA", str(tmp_path))
    datasets = read_config(path).datasets.values()
    assert all(d.path is not None and d.path.is_relative_to(tmp_path) for d in datasets)
    monkeypatch.delenv("GRAFT_REAL_DATA")
    datasets = read_config(path).datasets.values()
    assert all(d.path is not None and str(d.path).startswith("../shared/real") for d in datasets)


def test_the_hippocampus_study_has_the_promised_split(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hippocampus", "hippocampus-quick"):
        config = read_config(CONFIGS / f"{name}.yaml")
        assert (config.source.patients, config.target.pool) == (50, 50)
        assert config.target.test is not None
        assert config.target.test >= 30


@pytest.mark.real_data
@pytest.mark.parametrize("task", ["hippocampus", "oasis", "acdc"])
def test_tuning_sees_source_patients_of_its_study_alone(
    task: str, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_REAL_DATA", str(real_data))

    def split(name: str) -> Split:
        config = read_config(CONFIGS / f"{name}.yaml")
        return make_split(config, read_datasets(config, Workspace(tmp_path)))

    tuned, study = split(f"{task}-development"), split(f"{task}-cpu")
    assert {*tuned.source, *tuned.pool, *tuned.test} <= set(study.source)

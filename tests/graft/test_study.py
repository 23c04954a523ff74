"""`graft.Study(config).run().results()`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import graft
from data.errors import ConfigError, ModelError, WorkspaceError
from pipeline.evaluation.tables import CaseRow

pytestmark = pytest.mark.slow

TABLES = (
    "cases", "summary", "comparisons", "leading_arms", "label_efficiency", "empty_masks", "label_audit", "calibration",
    "calibration_summary", "reliability",
)  # fmt: skip


@pytest.fixture(scope="module")
def study(write_cohort: Callable, write_study: Callable, tmp_path_factory: pytest.TempPathFactory) -> graft.Study:
    """A study that ran in two goes."""
    folder = tmp_path_factory.mktemp("study")
    config = write_study(folder / "tiny.yaml", write_cohort(folder / "cohort"))
    changes = ["target_training.arms=[random, dwp]", "target_training.sizes=[2]", "target_training.reference_sizes=[]"]
    made = graft.Study(config, overrides=changes, workspace=folder / "workspace")
    with pytest.raises(WorkspaceError, match=r"holds no results.*call `run\(\)` first"):
        made.results()
    assert made.run(["preprocess", "check"], jobs=1) is made
    assert (made.workspace / "preprocess").is_dir()
    assert not (made.workspace / "train-source").exists()
    return made.run(jobs=1, device="cpu")


def test_the_tables_are_those_of_the_workspace(study: graft.Study) -> None:
    results = study.results()
    for name in TABLES:
        table = getattr(results, name)
        with (study.workspace / "results" / f"{name}.csv").open(newline="") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
        assert list(table.columns) == reader.fieldnames, name
        assert len(table) == len(rows), name
        columns = table.to_dict()
        for key in ("arm", "n", "metric", "case"):
            assert [str(value) for value in columns.get(key, ())] == [row[key] for row in rows if key in row]
    assert {row.arm for row in results.cases} == {"random", "dwp"}
    (row,) = results.summary.where(arm="dwp", n=2, metric="dice")
    assert 0 <= row.mean <= 1
    assert study.report.is_file()


def test_a_trained_model_predicts_at_once(study: graft.Study) -> None:
    model = study.load_model("dwp", n=2)
    scan = next((study.workspace.parent / "cohort" / "imagesTr").glob("*.nii.gz"))
    found = model.predict(scan, samples=2, probabilities=False)
    assert (model.arm, model.study, set(found.structures)) == ("dwp", "tiny", {"right"})
    (case, _) = study.cases("test")
    again = model.predict(case, samples=1)
    ((name, reference),) = study.references(case).items()
    assert (name, reference.array.dtype, reference.array.any()) == ("right", bool, True)
    assert reference.same_grid(again.mask)
    assert 0 <= graft.metrics.dice(again.masks["right"], reference) <= 1
    assert again.name == case.name
    assert len(study.cases("pool")) == 3
    assert list(graft.preprocess(case, "mr").channels) == ["T1"]
    with pytest.raises(ConfigError, match="role 'training' is unknown; expected source, pool, test or unlabelled"):
        study.cases("training")
    with pytest.raises(ModelError, match="no such folder"):
        study.load_model("dwp", n=4)


def test_a_mapping_is_a_configuration_too(study: graft.Study, tmp_path: Path) -> None:
    raw = yaml.safe_load(study.as_yaml())
    again = graft.Study(raw, workspace=tmp_path / "other")
    assert again.workspace == tmp_path / "other"
    assert again.config.model_copy(update={"workspace": None}) == study.config.model_copy(update={"workspace": None})
    assert graft.Study(study.config).config == study.config
    before = yaml.safe_load(study.as_yaml())
    graft.Study(raw, overrides=["target_training.steps=9", "target_training.arms={random: null}"])
    assert raw == before


def test_what_is_wrong_is_one_sentence(study: graft.Study, tmp_path: Path) -> None:
    raw = yaml.safe_load(study.as_yaml())
    with pytest.raises(ConfigError, match="the configuration: the key `sed` is unknown"):
        graft.Study({**raw, "sed": 1})
    with pytest.raises(ConfigError, match=r"the configuration: `target.test`"):
        graft.Study({**raw, "target": {**raw["target"], "test": "many"}})
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        graft.Study(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="stage 'train' is unknown; expected some of check"):
        study.run(["train"])
    with pytest.raises(ConfigError, match="no column 'arms'; expected one of arm"):
        study.results().cases.where(arms="dwp")


def test_pandas_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    row: dict[str, Any] = {
        "arm": "a", "n": 1, "repeat": 0, "case": "c", "patient": "p", "label": "l", "dice": 0.5, "iou": 0.3,
    }  # fmt: skip
    table = graft.Table(CaseRow, [CaseRow(**row), CaseRow(**{**row, "arm": "b"})])
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))
    assert table.to_pandas()["arm"] == ["a", "b"]
    assert table[1].arm == "b"
    assert [r.arm for r in table[:1]] == ["a"]
    assert "2 rows: arm, n" in repr(table)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pandas is not installed"):
        table.to_pandas()

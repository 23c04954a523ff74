"""A study without a source: its arms learn from the target alone, and what only a source gives is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import ConfigError
from graft.study import Study
from pipeline.cli import main
from pipeline.config.reading import as_yaml, read_config
from pipeline.stages.needed_stages import absent_stages
from pipeline.storage.stage_names import Stage


def write(path: Path, cohort: Path, study: Any, **changes: Any) -> Path:
    study(path, cohort, **changes)
    raw = yaml.safe_load(path.read_text())
    del raw["source"], raw["datasets"]["left"]
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


@pytest.mark.parametrize("arm", ["fine_tune", "dwp", "fine_tune_l2sp", "gaussian"])
def test_an_arm_that_needs_a_source_is_refused(tmp_path: Path, write_study: Any, arm: str) -> None:
    training = {"arms": ["random", arm], "sizes": [1], "reference_sizes": []}
    path = write(tmp_path / "s.yaml", tmp_path / "cohort", write_study, target_training=training)
    with pytest.raises(ConfigError, match=f"arm '{arm}' needs a source, and the study has none: add the key `source`"):
        read_config(path)


def test_it_has_no_stages_of_a_source_and_reads_back_as_itself(tmp_path: Path, write_study: Any) -> None:
    training = {"arms": ["random"], "sizes": [1], "reference_sizes": []}
    config = read_config(write(tmp_path / "s.yaml", tmp_path / "cohort", write_study, target_training=training))
    assert set(absent_stages(config)) == {Stage.TRAIN_SOURCE, Stage.COLLECT_FILTERS, Stage.FIT_PRIORS}
    (tmp_path / "again.yaml").write_text(as_yaml(config))
    assert read_config(tmp_path / "again.yaml") == config


@pytest.mark.slow
def test_it_runs_to_its_report(
    tmp_path: Path, write_cohort: Any, write_study: Any, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    target = {"dataset": "right", "patients": "all", "folds": 2}
    training = {"arms": ["random"], "sizes": [], "reference_sizes": [], "steps": 2}
    path = write(tmp_path / "s.yaml", write_cohort(tmp_path / "cohort", cases=4), write_study, target_training=training)
    raw = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**raw, "target": target}))
    where = [str(path), "--workspace", str(tmp_path / "w"), "--jobs", "1"]
    caplog.set_level("INFO")
    assert main(["run", *where]) == 0
    assert sum("skipped, because the study has no source" in message for message in caplog.messages) == 3
    assert not (tmp_path / "w/train-source").exists()
    page = " ".join((tmp_path / "w/report/index.html").read_text().split())
    assert "there was no source. The 4 annotated patients of the target were cross-validated" in page
    assert "The study has no source: its arms learn from the target alone." in page
    assert "source patients" not in page
    for stage in ("train-source", "fit-priors", "infer", "evaluate"):
        assert main([stage, *where]) == 0
    with pytest.raises(ConfigError, match="the study has no source"):
        Study(path, workspace=tmp_path / "w").cases("source")
    capsys.readouterr()
    assert main(["pack", str(tmp_path / "w"), "--output", str(tmp_path / "x.pack")]) == 2
    assert "this study has no source" in capsys.readouterr().err

"""What a study has no use for is left out by `graft run`, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.reading import as_yaml, read_config
from pipeline.config.study import StudyConfig
from pipeline.stages.needed_stages import needless_stages
from pipeline.storage.stage_names import Stage

FILTERS = {Stage.COLLECT_FILTERS, Stage.FIT_PRIORS}


def study(folder: Path, **changes: Any) -> StudyConfig:
    raw: dict[str, Any] = {
        "name": "tiny",
        "datasets": {"a": {"path": "a", "modality": "mr", "foreground": ["x"]}},
        "source": {"dataset": "a", "patients": 3},
        "target": {"dataset": "a", "pool": 5, "test": 2},
        "target_training": {"sizes": [2]},
    }
    for key, value in changes.items():
        raw[key] = {**raw.get(key, {}), **value}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw))
    return read_config(path)


@pytest.mark.parametrize(
    ("arms", "needless"),
    [
        (["random"], FILTERS | {Stage.TRAIN_SOURCE}),
        (["random", "fine_tune"], FILTERS),
        (["fine_tune_l2sp"], FILTERS),
        (["random", "dwp"], set()),
        (["prior_init"], set()),
        ({"mine": {"prior": "auto"}}, set()),
        ({"l2": {"preset": "random", "prior": "l2"}}, FILTERS | {Stage.TRAIN_SOURCE}),
    ],
)
def test_stages_that_no_arm_needs(tmp_path: Path, arms: Any, needless: set[Stage]) -> None:
    config = study(tmp_path, target_training={"arms": arms})
    assert set(needless_stages(config)) == needless
    # The resolved configuration is the same study.
    (tmp_path / "resolved.yaml").write_text(as_yaml(config))
    assert set(needless_stages(read_config(tmp_path / "resolved.yaml"))) == needless


def test_densities_of_the_study_itself_are_fitted_though_no_arm_uses_them(tmp_path: Path) -> None:
    densities = {"densities": {"full": {"kind": "gaussian", "covariance": "full"}}}
    assert not needless_stages(study(tmp_path, target_training={"arms": ["random"]}, priors=densities))

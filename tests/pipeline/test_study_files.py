"""Every study in `configs/` is one that `graft` accepts, and says only what differs from the one that it extends."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.splits import Split
from pipeline.cli import main
from pipeline.config.extending import extended
from pipeline.config.merging import without_key
from pipeline.config.reading import as_yaml, read_config
from pipeline.stages.cohorts import read_datasets
from pipeline.stages.study_plan import make_split
from pipeline.storage.workspace import Workspace
from pipeline.storage.yaml_file import read_yaml
from pipeline.training.computing import Precision

CONFIGS = Path(__file__).parents[2] / "configs"
PLANNED = CONFIGS / "planned"
COMMANDS = {
    Path(words[-1]).stem: words for words in map(shlex.split, (PLANNED / "commands.txt").read_text().splitlines())
}
STUDIES = [*sorted(CONFIGS.glob("*.yaml")), *sorted(PLANNED.glob("*.yaml"))]


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
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_study_loads_and_reads_back(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_REAL_DATA", str(tmp_path / "scans"))
    config = read_config(path)
    assert config.name == path.stem
    assert config.title
    for dataset in config.datasets.values():
        # A study is about its own machine only through the variables.
        assert dataset.path is None or "home" not in dataset.path.parts
    target = config.target
    assert target.pool is None or max(config.target_training.sizes, default=0) <= target.pool
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(as_yaml(config))
    assert read_config(resolved) == config


def entries(raw: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a study that holds no keys itself."""
    if isinstance(raw, dict) and raw:
        for name, value in raw.items():
            yield from entries(value, f"{key}.{name}".lstrip("."))
    else:
        yield key, raw


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_study_says_what_differs_from_the_one_that_it_extends(path: Path) -> None:
    raw = read_yaml(path)
    if "extends" not in raw:
        assert path.parent == PLANNED or path.stem in {"demo", "liver_to_spleen", "ms_to_brats"}
        return
    base = path.parent / raw["extends"]
    inherited = extended(read_yaml(base), base).content
    for key in raw.get("without", ()):
        inherited = without_key(inherited, key)
    own, others = dict(entries(raw)), dict(entries(inherited))
    assert not [key for key in own if key in others and own[key] == others[key]]


def test_every_plan_is_extended_and_every_command_has_its_plan() -> None:
    extended_ones = {read_yaml(path).get("extends") for path in STUDIES}
    assert set(COMMANDS) == {path.stem for path in PLANNED.glob("*.yaml")}
    assert {f"planned/{name}.yaml" for name in COMMANDS} <= extended_ones


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_plans_are_what_init_writes(
    name: str, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clone/configs/planned").mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/real").symlink_to(real_data)
    monkeypatch.chdir(tmp_path / "clone")
    # Memory is that of a processor with bfloat16; the checks, which only warn here, have tests of their own.
    monkeypatch.setattr("pipeline.planning.sizing.fastest_precision", lambda device: Precision.BFLOAT16)
    monkeypatch.setattr("pipeline.planning.scans.require_sound", lambda *_: [])
    assert main(["init", *COMMANDS[name]]) == 0
    assert Path(COMMANDS[name][-1]).read_text() == (PLANNED / f"{name}.yaml").read_text()


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

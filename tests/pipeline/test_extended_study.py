"""A study that extends another: what it inherits, what begins anew, and sentences that name the right file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import ConfigError
from pipeline.config.reading import as_yaml, parse_config, read_config

Write = Callable[..., Path]

BASE: dict[str, Any] = {
    "name": "base",
    "workspace": "elsewhere",
    "datasets": {"a": {"path": "${SCANS:-scans}", "modality": "mr", "foreground": {"liver": [1]}}},
    "source": {"dataset": "a", "patients": 4},
    "target": {"dataset": "a", "pool": 5, "test": 2},
    "patches": {"size": [16, 16, 16], "batch": 3},
    "target_training": {"sizes": [2, 4], "arms": {"random": {"peak_rate": 0.5}, "dwp": {"draws": 4}}},
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_study(file: str, **content: Any) -> Path:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    write_study("plans/base.yaml", **BASE)
    return write_study


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(path, overrides)
    sentence = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in sentence
    return sentence


def test_mappings_are_merged_and_all_else_is_replaced(write: Write) -> None:
    path = write(
        "mine.yaml",
        extends="plans/base.yaml",
        name="mine",
        patches={"batch": 1},
        target_training={"sizes": [3], "arms": {"dwp": {"members": 2}, "fine_tune": None}},
    )
    config = read_config(path)
    assert (config.name, config.source.patients) == ("mine", 4)
    assert (config.patches.size, config.patches.batch) == ((16, 16, 16), 1)
    assert config.target_training.sizes == (3,)
    assert list(config.target_training.arms) == ["random", "dwp", "fine_tune"]
    assert (config.target_training.arms["dwp"].draws, config.target_training.arms["dwp"].members) == (4, 2)


def test_a_study_has_a_folder_of_its_own(write: Write) -> None:
    assert read_config(write("mine.yaml", extends="plans/base.yaml", name="mine")).workspace is None
    assert read_config(write("mine.yaml", extends="plans/base.yaml", workspace="here")).workspace == Path("here")


def test_paths_inside_a_file_are_those_of_the_command(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("mine.yaml", extends="plans/base.yaml")
    assert read_config(path).datasets["a"].path == Path("scans")
    monkeypatch.setenv("SCANS", "/data")
    monkeypatch.setenv("PLANS", "plans")
    assert read_config(write("mine.yaml", extends="${PLANS}/base.yaml")).datasets["a"].path == Path("/data")


def test_a_list_of_arms_replaces_those_of_the_other_file_and_may_be_changed_itself(write: Write) -> None:
    write("listed.yaml", extends="plans/base.yaml", target_training={"arms": ["random", "fine_tune"]})
    assert list(read_config(write("a.yaml", extends="listed.yaml")).target_training.arms) == ["random", "fine_tune"]
    change = {"arms": {"random": {"peak_rate": 0.25}}}
    arms = read_config(write("b.yaml", extends="listed.yaml", target_training=change)).target_training.arms
    assert list(arms) == ["random", "fine_tune"]
    assert arms["random"].peak_rate == 0.25


def test_what_is_not_inherited_is_left_out_or_begins_anew(write: Write) -> None:
    changes = {"target": {"folds": 2}, "target_training": {"arms": {"random": {}}, "sizes": []}}
    path = write("a.yaml", extends="plans/base.yaml", without=["target.test", "target_training.arms"], **changes)
    config = read_config(path)
    assert (config.target.test, config.target.pool) == (None, 5)
    assert list(config.target_training.arms) == ["random"]
    assert config.target_training.arms["random"].peak_rate != 0.5


def test_a_chain_is_followed_and_the_command_line_wins(write: Write) -> None:
    write("plans/second.yaml", extends="base.yaml", seed=5, patches={"batch": 2})
    path = write("third.yaml", extends="plans/second.yaml", name="third")
    config = read_config(path, ["patches.batch=4", "target_training.arms.dwp.draws=9"])
    assert (config.name, config.seed, config.patches.batch) == ("third", 5, 4)
    assert config.target_training.arms["dwp"].draws == 9


def test_what_is_recorded_stands_alone(write: Write, tmp_path: Path) -> None:
    config = read_config(write("mine.yaml", extends="plans/base.yaml", name="mine"))
    text = as_yaml(config)
    assert "extends" not in text
    (tmp_path / "alone.yaml").write_text(text)
    assert read_config(tmp_path / "alone.yaml") == config


def test_a_mapping_may_extend_a_file_and_is_not_changed(write: Write, tmp_path: Path) -> None:
    write("mine.yaml")
    raw = {"extends": "plans/base.yaml", "name": "mine", "without": ["source"]}
    raw["target_training"] = {"arms": ["random"]}
    before = yaml.safe_dump(raw)
    config = parse_config(raw, tmp_path / "the configuration", ["seed=3"])
    assert (config.source, config.seed) == (None, 3)
    assert yaml.safe_dump(raw) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"extends": "nowhere.yaml"}, ["nowhere.yaml: there is no such file", "the study that", "correct `extends`"]),
        ({"extends": "plans"}, ["plans: is a folder"]),
        ({"extends": "mine.yaml"}, ["mine.yaml: extends", "is or extends this file", "in a circle"]),
        ({"extends": "circle.yaml"}, ["circle.yaml: extends", "mine.yaml, which is or extends this file"]),
        ({"extends": "broken.yaml"}, ["broken.yaml, line 1: is not valid YAML"]),
        ({"extends": 3}, ["mine.yaml: `extends`"]),
        ({"extends": ""}, ["mine.yaml: `extends`"]),
        ({"extends": "plans/base.yaml", "without": "target"}, ["mine.yaml: `without`"]),
        ({"extends": "plans/base.yaml", "without": ["target.tests"]}, ["`target.tests`, which is not inherited from"]),
        ({"extends": "plans/base.yaml", "without": ["name.x"]}, ["`name.x`, which is not inherited"]),
        ({"without": ["target"]}, ["`without` stands in a file that extends none"]),
    ],
)
def test_what_cannot_be_extended_is_one_sentence(write: Write, content: dict[str, Any], words: list[str]) -> None:
    write("circle.yaml", extends="mine.yaml")
    write("broken.yaml").write_text("name: [")
    sentence = refused(write("mine.yaml", **content))
    for word in words:
        assert word in sentence


def test_a_wrong_value_is_looked_for_where_it_stands(write: Write) -> None:
    write("plans/second.yaml", extends="base.yaml", patches={"batch": 0}, sed=1)
    path = write("third.yaml", extends="plans/second.yaml", name="third")
    sentence = refused(path)
    assert sentence.startswith(str(path.parent / "plans/second.yaml"))
    assert "`sed` is unknown" in sentence
    write("plans/second.yaml", extends="base.yaml", patches={"batch": 0})
    assert refused(path).startswith(f"{path.parent / 'plans/second.yaml'}: `patches.batch` is 0")
    # What the command line says is nobody's but the named file's.
    assert refused(path, "patches.batch=-1").startswith(f"{path}: `patches.batch` is -1")
    assert refused(path, "patches.batch=1", "source.patients=1").startswith(f"{path}: `source.patients` is 1")
    assert "write `extends`" in refused(write("mine.yaml", extend="plans/base.yaml"))


def test_a_file_says_itself_what_it_extends(write: Write) -> None:
    sentence = refused(write("mine.yaml", extends="plans/base.yaml"), "extends=other.yaml")
    assert "`extends` is said with --set" in sentence

"""Configurations that would run forever, lead elsewhere or crash are refused early, each in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import ConfigError
from pipeline.config.reading import read_config, study_keys
from pipeline.config.study import StudyConfig, merged
from pipeline.storage.yaml_file import LARGEST, parse_yaml

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Returns a function that changes keys of a minimal study and writes it."""
    minimal = {
        "name": "tiny",
        "datasets": {"a": {"path": "/data/a", "modality": "mr", "foreground": "liver"}},
        "source": {"dataset": "a", "patients": 2},
        "target": {"dataset": "a", "pool": 2, "test": 1},
        "target_training": {"sizes": [1]},
    }

    def write_study(**changes: Any) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(merged(minimal, changes), sort_keys=False))
        return path

    return write_study


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(path, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 1500
    return sentence


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    return "\n".join(lines)


def chain(levels: int) -> str:
    return "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, levels))])


HOSTILE = {
    bomb(10): "line 6.*more than 100000 values",
    "name: &a [*a]": "line 1.*refers to something that contains it",
    "name: x\nb: &a {c: {d: *a}}": "line 2.*refers to something that contains it",
    "name: " + "[" * 10_000: "levels deep",
    "name: " + "{a: " * 10_000: "levels deep",
    "\n".join(" " * n + f"a{n}:" for n in range(1000)): "line 50.*levels deep",
    chain(2000): "levels deep",
    "name: *nothing": "undefined alias",
    "name: a\nname: b": "line 2.*'name' is given twice",
    "name: 2001-99-99": "line 1.*month",
    "seed: " + "1" * 5000: "line 1.*4300",
    "name: !!python/object/apply:os.system [x]": "line 1",
    "name: \x1b[31m": "not valid YAML",
    "name: {a\n: b": "line 2",
    "x" * (LARGEST + 1): "of at most 1 MiB",
}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:20])
def test_hostile_yaml_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"study\.yaml.*{HOSTILE[text]}"):
        read_config(path)


@pytest.mark.parametrize("value", ["&a [*a]", "[" * 10_000, "{a: " * 10_000, "2001-99-99", "[1"])
def test_hostile_overrides_are_one_sentence(write: Write, value: str) -> None:
    sentence = refused(write(), f"title={value}")
    assert sentence.startswith("--set title=")
    assert "not valid YAML" in sentence


def test_an_override_of_ten_thousand_levels(write: Write) -> None:
    assert "is not an assignment" in refused(write(), f"preprocessing.{'a.' * 10_000}b=1")


def test_aliases_of_a_reasonable_study_are_fine() -> None:
    assert parse_yaml("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\nd: [*a, *a]")["c"] == {"x": [1, 2], "y": 3}


def test_a_pipe_or_a_folder_is_no_study(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "pipe.yaml: is a named pipe" in refused(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "folder.yaml: is a folder" in refused(tmp_path / "folder.yaml")


def test_the_keys_that_are_known_early_are_those_of_a_study() -> None:
    assert study_keys() == list(StudyConfig.model_fields)


@pytest.mark.parametrize("text", ["name: [", "nam: x", "name: &a [*a]"])
def test_a_slip_is_told_before_torch_is_imported(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    script = (
        "import sys; from pipeline.cli import main; code = main(['check', sys.argv[1]]);"
        "sys.exit(', '.join(sorted({'torch', 'numpy', 'monai', 'joblib'} & set(sys.modules))) or code)"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "study.yaml")]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("graft: ")


NAMES = ["..", "../../../x", "/abs", "", "-x", "a\nb", "x" * 151, "done.json"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("name", lambda name: {"name": name}),
        ("datasets", lambda name: {"datasets": {name: {"path": "/x", "modality": "mr", "foreground": 1}}}),
        ("datasets", lambda name: {"datasets": {name: {"synthetic": {"cohort": "ms", "cases": 3}, "modality": "mr",
                                                        "foreground": 1}}}),
        ("datasets.a", lambda name: {"datasets": {"a": {"foreground": {name: [1]}}}}),
        ("datasets.a.channels", lambda name: {"datasets": {"a": {"channels": [name]}}}),
        ("target_training.arms", lambda name: {"target_training": {"arms": {name: {"preset": "random"}}}}),
        ("priors.densities", lambda name: {"priors": {"densities": {name: {"kind": "vae"}}}}),
    ],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(write: Write, key: str, change: Callable, name: str) -> None:
    sentence = refused(write(**change(name)))
    assert f"`{key}" in sentence
    assert "name" in sentence


@pytest.mark.parametrize(
    "change",
    [
        {"datasets": {"A": {"path": "/x", "modality": "mr", "foreground": 1}}},
        {"datasets": {"a": {"foreground": {"x": [1], "X": [2]}}}},
        {"datasets": {"a": {"channels": ["T1", "t1"]}}},
        {"target_training": {"arms": {"x": {"preset": "random"}, "X": {"preset": "random"}}}},
    ],
)
def test_names_that_a_file_system_takes_for_one_are_refused(write: Write, change: dict) -> None:
    assert "differ only in capital letters" in refused(write(**change))


def test_names_of_any_script_are_fine(write: Write) -> None:
    arms = {"肿瘤 + α": {"preset": "random"}}
    path = write(name="Läsionen 2", target_training={"arms": arms}, datasets={"a": {"foreground": {"Läsion": 1}}})
    assert list(read_config(path).target_training.arms) == list(arms)


def test_a_class_with_too_long_a_name_of_its_own_needs_one(write: Write) -> None:
    labels = [f"structure number {n}" for n in range(20)]
    sentence = refused(write(datasets={"a": {"foreground": labels}}))
    assert "name the class, as in `foreground: {lesion: [1, 2]}`" in sentence


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("execution.backend=nonsense", "execution.backend"),
        ("target_training.sizes=[]", "target_training.sizes"),
        ("target_training.arms=[]", "target_training.arms"),
        ("target_training.arms={}", "target_training.arms"),
        ("datasets={}", "datasets"),
        ("datasets.a.channels=[]", "datasets.a.channels"),
        ("datasets.a.foreground=[]", "datasets.a.foreground"),
        ("datasets.a.foreground={}", "datasets.a.foreground"),
        ("datasets.a.foreground={x: []}", "datasets.a"),
        ("source={dataset: a, cases: []}", "source.cases"),
        ("target={dataset: a, pool_cases: [], test_cases: [x]}", "target.pool_cases"),
        ("target={dataset: a, pool_cases: [x], test_cases: []}", "target.test_cases"),
        ("network={name: residual_unet, channels: []}", "network.channels"),
        ("network={channels: [4, 8]}", "network`: the key `name` is missing"),
    ],
)
def test_empty_lists_and_unknown_backends_are_refused(write: Write, override: str, key: str) -> None:
    sentence = refused(write(), override)
    assert f"`{key}" in sentence
    if "backend" in override:
        assert "'local', 'submitit', 'dask' or 'in_process'" in sentence

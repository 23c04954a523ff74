"""Reading a study: YAML, variables, overrides, and sentences that name the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from data.errors import ConfigError
from pipeline.arms.choices import Initialisation, Trainable
from pipeline.arms.presets import PRESETS
from pipeline.config.merging import merged
from pipeline.config.reading import as_yaml, read_config
from pipeline.config.study import StudyConfig
from pipeline.evaluation.options import CalibrationOptions

Write = Callable[..., Path]


def minimal() -> dict[str, Any]:
    return {
        "name": "tiny",
        "datasets": {"a": {"path": "/data/a", "modality": "mr", "foreground": "liver"}},
        "source": {"dataset": "a", "patients": 2},
        "target": {"dataset": "a", "pool": 2, "test": 1},
        "target_training": {"sizes": [2, 1], "arms": ["random", "dwp"]},
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Returns a function that changes keys of the minimal study and writes it."""

    def write_study(**changes: Any) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(merged(minimal(), changes), sort_keys=False))
        return path

    return write_study


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(path, overrides)
    assert caught.value.exit_code == 2
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_a_minimal_study_takes_all_defaults(write: Write) -> None:
    config = read_config(write())
    assert config.name == "tiny"
    assert config.workspace_folder == Path("workspaces/tiny")
    assert config.target_training.sizes == (1, 2)
    assert config.datasets["a"].classes == {"liver": ("liver",)}
    assert config.target_training.arms["dwp"] == PRESETS["dwp"]
    assert config.source_training.networks == 5


@pytest.mark.parametrize(
    ("changes", "key", "nearest"),
    [
        ({"sed": 1}, "sed", "seed"),
        ({"inference": {"steps": 3}}, "inference", "target_training"),
        ({"target_training": {"window": {}}}, "target_training.window", "sliding_window"),
        ({"patches": {"sise": [8, 8, 8]}}, "patches.sise", "size"),
        ({"datasets": {"a": {"forground": [1]}}}, "datasets.a.forground", "foreground"),
        ({"network": {"name": "residual_unet", "chanels": [4, 8]}}, "network.chanels", "channels"),
        ({"target_training": {"arms": {"dwp": {"peak_rat": 1}}}}, "target_training.arms.dwp.peak_rat", "peak_rate"),
        ({"priors": {"densities": {"vae": {"kind": "vae", "latnt": 1}}}}, "priors.densities.vae.latnt", "latent"),
        ({"datasets": {"a": {"preprocessing": {"resampling": {"spacin": 1}}}}}, "resampling.spacin", "spacing"),
    ],
)
def test_an_unknown_key_is_named_with_its_nearest(write: Write, changes: dict, key: str, nearest: str) -> None:
    if "arms" in changes.get("target_training", {}):
        path = write(target_training=None)
        path = write(target_training={**changes["target_training"], "sizes": [1]})
    else:
        path = write(**changes)
    sentence = refused(path)
    assert f"{key}` is unknown" in sentence
    assert f"write `{nearest}`" in sentence
    assert str(path) in sentence


@pytest.mark.parametrize("key", ["rivals", "resamples"])
def test_a_key_that_belongs_elsewhere_is_sent_there(write: Write, key: str) -> None:
    sentence = refused(write(report={key: 300}))
    assert f"`report.{key}` is unknown" in sentence
    assert f"write `evaluation.{key}`" in sentence


def test_an_unknown_key_like_no_other_gets_the_list(write: Write) -> None:
    sentence = refused(write(xyzzy=1))
    assert "`xyzzy` is unknown" in sentence
    assert "datasets" in sentence
    assert "remove" in sentence


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    raw = minimal()
    del raw["target"]["dataset"]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(raw))
    assert "`target.dataset` is missing" in refused(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("patches.batch=0", ["`patches.batch` is 0", "greater than or equal to 1"]),
        ("datasets.a.modality=pet", ["`datasets.a.modality`", "'pet'", "'ct'"]),
        ("target_training.sizes=[0]", ["no arm has a model without annotated target patients"]),
        (
            "target_training.reference_sizes=[4]",
            ["`target_training.reference_sizes` asks for 4 patients", "`target.pool` has 2"],
        ),
        ("target_training.arms=[dwpp]", ["'dwpp'", "dwp_prior"]),
        ("source.dataset=b", ["source.dataset", "'b'", "one of a"]),
        ("source.cases=[x]", ["either `patients`"]),
        ("datasets.a.synthetic={cohort: ms, cases: 2}", ["either `path` or `synthetic`"]),
        ("priors.densities.vae=null", ["'dwp'", "'vae'", "isotropic"]),
        ("name=a/b", ["`name` is 'a/b'"]),
        ("network.name=vnet", ["`network`", "'residual_unet'"]),
    ],
)
def test_a_value_that_is_not_allowed_is_named(write: Write, override: str, words: list[str]) -> None:
    sentence = refused(write(), override)
    assert all(word in sentence for word in words), sentence


def test_reference_sizes_need_the_arm_that_has_them(write: Write) -> None:
    path = write(target_training={"sizes": [1], "reference_sizes": [2], "arms": ["dwp"]})
    assert "'random', which is not among `arms`: add it" in refused(path)
    training = read_config(path, ["target_training.arms=[random, dwp]"]).target_training
    assert (training.sizes_of("random"), training.sizes_of("dwp")) == ((1, 2), (1,))


def test_cases_may_be_listed_on_one_side(write: Write) -> None:
    assert read_config(write(source={"patients": None, "cases": ["x", "y"]})).target.pool == 2
    target = {"pool": None, "test": None, "pool_cases": ["x", "y"], "test_cases": ["z"]}
    assert read_config(write(target=target)).source.patients == 2


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"test": None}, ["`test` is missing", "measured on others", "`test: 5`"]),
        ({"pool": None, "test": None, "pool_cases": ["a", "b"]}, ["`test_cases` is missing", "`test_cases: [case_07"]),
        ({"pool": None}, ["`pool` is missing", "may learn from"]),
        ({"pool": None, "test": None}, ["give the numbers `pool` and `test`", "or the lists", "cross-validate"]),
        ({"test_cases": ["z"]}, ["give the numbers `pool` and `test`"]),
    ],
)
def test_what_is_missing_of_the_target_is_said(write: Write, target: dict, words: list[str]) -> None:
    sentence = refused(write(target=target))
    assert all(word in sentence for word in words), sentence


def test_overrides_win_over_the_file_and_later_over_earlier(write: Write) -> None:
    path = write(seed=1, patches={"batch": 3})
    config = read_config(path, ["seed=2", "patches.batch=5", "seed=3", "patches.size=[8, 8, 8]", "title=a: b"][:-1])
    assert (config.seed, config.patches.batch, config.patches.size) == (3, 5, (8, 8, 8))
    # The file has no such section yet.
    assert (
        read_config(path, ["source_training.optimiser.weight_decay=0.5"]).source_training.optimiser.weight_decay == 0.5
    )


@pytest.mark.parametrize(
    ("override", "word"), [("seed", "a.b=value"), ("=1", "a.b=value"), ("seed.x=1", "`seed`"), ("seed=[1", "YAML")]
)
def test_an_override_that_is_none_is_refused(write: Write, override: str, word: str) -> None:
    sentence = refused(write(seed=1), override)
    assert f"--set {override}" in sentence
    assert word in sentence


def test_the_workspace_of_the_command_wins(write: Write, tmp_path: Path) -> None:
    path = write(workspace="/elsewhere")
    assert read_config(path).workspace_folder == Path("/elsewhere")
    assert read_config(path, ["workspace=/set"], tmp_path / "w").workspace_folder == tmp_path / "w"


def test_variables_are_filled_in(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(datasets={"a": {"path": "${GRAFT_TEST_DATA:-/default}/x"}}, title="${GRAFT_TEST_TITLE}")
    monkeypatch.delenv("GRAFT_TEST_DATA", raising=False)
    monkeypatch.setenv("GRAFT_TEST_TITLE", "t")
    config = read_config(path)
    assert config.datasets["a"].path == Path("/default/x")
    assert config.title == "t"
    monkeypatch.setenv("GRAFT_TEST_DATA", "/set")
    assert read_config(path).datasets["a"].path == Path("/set/x")
    monkeypatch.delenv("GRAFT_TEST_TITLE")
    sentence = refused(path)
    assert "GRAFT_TEST_TITLE is not set" in sentence
    assert "${GRAFT_TEST_TITLE:-" in sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", ["line 1", "not valid YAML"]),
        ("- a\n- b\n", ["holds no keys"]),
        ("", ["holds no keys"]),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "study.yaml").write_text(text)
    sentence = refused(tmp_path / "study.yaml")
    assert all(word in sentence for word in words), sentence


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.yaml'}: there is no such file" in refused(tmp_path / "none.yaml")


def test_the_resolved_study_reads_back_equal(write: Write, tmp_path: Path) -> None:
    config = read_config(
        write(
            preprocessing={"resampling": {"spacing": [2, 2, 2]}},
            datasets={"a": {"preprocessing": {"intensity": None}, "foreground": {"organ": ["liver", 2]}}},
            priors={"densities": {"gaussian_full": None, "vae": {"latent": 3}}},
        ),
        workspace=tmp_path / "w",
    )
    text = as_yaml(config)
    again = tmp_path / "config.resolved.yaml"
    again.write_text(text)
    assert read_config(again) == config
    assert as_yaml(read_config(again)) == text
    assert set(config.priors.densities) == {"isotropic", "vae"}
    # Every default is spelled out.
    resolved = yaml.safe_load(text)
    assert resolved["target_training"]["arms"]["dwp"]["posterior"]["initial_log_variance"] == -6.0
    assert resolved["datasets"]["a"]["preprocessing"]["intensity"] is None


def test_preprocessing_is_the_defaults_then_the_study_then_the_dataset(write: Write) -> None:
    datasets = {
        "a": {"preprocessing": {"resampling": {"spacing": [4, 4, 4]}}},
        "b": {"path": "/data/b", "modality": "mr_head", "foreground": [1], "preprocessing": {"bias_field": None}},
    }
    config = read_config(write(datasets=datasets, preprocessing={"resampling": {"spacing": [3, 3, 3]}, "threads": 2}))
    a, b = (config.datasets[name].preprocessing for name in "ab")
    assert a.resampling is not None
    assert b.resampling is not None
    assert (a.resampling.spacing, b.resampling.spacing) == ((4, 4, 4), (3, 3, 3))
    assert (a.threads, b.threads) == (2, 2)
    # Defaults of the modality where nobody says otherwise: a head is stripped and aligned, other MR is not.
    assert a.skull_strip is None
    assert b.skull_strip is not None
    assert b.alignment is not None
    assert b.bias_field is None


def test_an_empty_mapping_switches_a_step_on(write: Write) -> None:
    assert read_config(write()).datasets["a"].preprocessing.bias_field is None
    assert read_config(write(preprocessing={"bias_field": {}})).datasets["a"].preprocessing.bias_field is not None


def test_merging_changes_neither_side() -> None:
    base, changes = {"a": {"x": 1, "y": 2}, "b": [1]}, {"a": {"x": 3}, "b": [2, 3], "c": {"d": 1}}
    assert merged(base, changes) == {"a": {"x": 3, "y": 2}, "b": [2, 3], "c": {"d": 1}}
    assert base == {"a": {"x": 1, "y": 2}, "b": [1]}
    assert changes == {"a": {"x": 3}, "b": [2, 3], "c": {"d": 1}}


def test_arms_start_from_presets(write: Write) -> None:
    arms = {
        "dwp": None,
        "cold": {"preset": "dwp", "posterior_temperature": 0.5},
        "mine": {"init": "source", "trainable": "decoder", "members": 2},
        "map": {"prior": "vae", "posterior": "point"},
    }
    path = write(target_training=None)
    path = write(target_training={"sizes": [1], "arms": arms})
    found = read_config(path).target_training.arms
    assert list(found) == list(arms)
    assert found["cold"] == PRESETS["dwp"].model_copy(update={"posterior_temperature": 0.5})
    assert (found["mine"].init, found["mine"].trainable) == (Initialisation.SOURCE, Trainable.DECODER)
    assert not found["map"].is_bayesian


@pytest.mark.parametrize(
    "arm",
    [
        {"init": "prior"},
        {"posterior": "mean_field"},
        {"preset": "nothing"},
        {"prior": "unknown"},
        {"preset": "fine_tune", "network": {"name": "unet"}},
        {"preset": "dwp", "network": {"name": "unet"}},
    ],
)
def test_arms_that_make_no_sense_are_refused(write: Write, arm: dict) -> None:
    write(target_training=None)
    assert "arm" in refused(write(target_training={"sizes": [1], "arms": {"mine": arm}}))


def test_post_processing_names_classes_of_the_target(write: Write, tmp_path: Path) -> None:
    path, key = write(), "target_training.arms.dwp.post_processing"
    text = refused(path, f"{key}={{tumor: {{keep: largest}}}}")
    classes = read_config(path).datasets[read_config(path).target.dataset].classes
    assert f"arm 'dwp': `post_processing` names 'tumor', which is not one of the classes {', '.join(classes)}" in text
    (name,) = classes
    config = read_config(path, [f"{key}={{{name}: {{keep: largest, minimum_volume: 20}}}}"])
    assert config.target_training.arms["dwp"].post_processing[name].words.endswith("at least 20 mm³")
    (tmp_path / "resolved.yaml").write_text(as_yaml(config))
    assert read_config(tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize("key", ["rivals", "calibration.temperature_scaled"])
def test_options_name_arms_of_the_study_alone(write: Write, key: str, tmp_path: Path) -> None:
    path = write()
    text = refused(path, f"evaluation.{key}=[random, fine_tune]")
    assert f"`evaluation.{key}` names 'fine_tune', which is not one of the arms random, dwp" in text
    config = read_config(path, [f"evaluation.{key}=[dwp]"])
    (tmp_path / "resolved.yaml").write_text(as_yaml(config))
    assert read_config(tmp_path / "resolved.yaml") == config


def test_temperature_scaling_is_for_what_is_named_and_by_default_for_two_point_estimates() -> None:
    assert CalibrationOptions().is_scaled("ensemble")
    assert not CalibrationOptions().is_scaled("dwp")
    assert not CalibrationOptions(temperature_scaled=("dwp",)).is_scaled("ensemble")
    assert CalibrationOptions(temperature_scaled=("dwp",)).is_scaled("dwp")


def test_options_are_frozen(write: Write) -> None:
    config: StudyConfig = read_config(write())
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.patches.batch = 3  # type: ignore[misc]


@pytest.mark.parametrize(("former", "now"), [("loky", "local"), ("threading", "in_process")])
def test_former_backends_are_answered_with_the_new_word_and_understood_where_graft_wrote_them(
    write: Write, former: str, now: str
) -> None:
    path = write(execution={"backend": former})
    assert f"`execution.backend` is '{former}': it is now called `{now}`" in refused(path)
    # A finished study of an earlier version stays readable.
    written = path.rename(path.with_name("config.resolved.yaml"))
    assert read_config(written).execution.backend.value == now


def test_options_of_a_backend_are_checked_before_anything_is_submitted(write: Write) -> None:
    assert "names 'trian-target', which is not one of check" in refused(
        write(), "execution.submitit.stages.trian-target.gpus=1"
    )
    assert "needs `dask.scheduler`" in refused(write(), "execution.backend=dask")
    options = read_config(
        write(execution={"submitit": {"memory_gb": 4, "stages": {"train-target": {"gpus": 1}}}})
    ).execution.submitit
    assert (options.of_stage("train-target").gpus, options.of_stage("train-target").memory_gb) == (1, 4)
    assert options.of_stage("preprocess").gpus == 0

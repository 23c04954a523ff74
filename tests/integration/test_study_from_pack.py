"""A study whose source is a pack: the same weights as the study of the pack, and no work on source scans."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

from data.errors import ConfigError
from graft.study import Study
from pipeline.cli import main
from pipeline.config.reading import parse_config, read_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pack(finished_study: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "tiny.pack"
    assert main(["pack", str(finished_study.workspace), "--output", str(path), "--license", "CC-BY 4.0"]) == 0
    return path


def study(finished_study: Any, pack: Path, **changes: Any) -> dict[str, Any]:
    """The finished study with a pack in place of its source, and an image model, which changes none of its arms."""
    raw: dict[str, Any] = yaml.safe_load(finished_study.config.read_text())
    for key in ("network", "source_training", "priors"):
        del raw[key]
    del raw["datasets"]["left"]
    raw["target"]["unlabelled"] = {"withhold_labels": True}
    image_models = {"going_on": {"steps": 2, "from_source": True}}
    return {**raw, "source": {"pack": str(pack)}, "image_models": image_models, **changes}


def write(path: Path, raw: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def finished(finished_study: Any, pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of the study from the pack."""
    folder = tmp_path_factory.mktemp("from-pack")
    config = write(folder / "study.yaml", study(finished_study, pack))
    assert main(["run", str(config), "--workspace", str(folder / "w"), "--jobs", "1"]) == 0
    return folder / "w"


def members(workspace: Path) -> dict[str, str]:
    """What a training is, in its own words → SHA-256 of its weights."""
    return {
        (path.parent / "training.json").read_text(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in workspace.glob("train-target/*/*/*/member.safetensors")
    }


def test_it_gives_the_same_weights_as_the_study_of_the_pack(finished_study: Any, finished: Path) -> None:
    expected = members(finished_study.workspace)
    assert len(expected) == 9
    assert members(finished) == expected
    for table in ("cases.csv", "summary.csv", "comparisons.csv"):
        assert (finished / "results" / table).read_bytes() == (
            finished_study.workspace / "results" / table
        ).read_bytes()


def test_an_image_model_goes_on_from_a_network_of_the_pack_and_learns_from_unlabelled_scans(finished: Path) -> None:
    about = json.loads((finished / "train-image-model/going_on/image-model.json").read_text())
    assert about["from_source"]
    assert set(about["started_anew"]) == {"head.conv.weight", "head.conv.bias"}
    assert {role: len(patients) for role, patients in about["patients"].items()} == {"pool": 3, "unlabelled": 4}
    recipe = json.loads((finished / "train-image-model/going_on/done.json").read_text())["recipe"]
    network = json.loads((finished / "train-source/network-00/done.json").read_text())
    assert recipe["source"] == network["digest"]


def test_nothing_of_a_source_dataset_is_read_or_made(finished: Path) -> None:
    assert [path.name for path in (finished / "preprocess").iterdir() if path.is_dir()] == ["right"]
    assert not (finished / "collect-filters").exists()
    assert {p.name for p in (finished / "train-source/network-00").iterdir()} == {
        "done.json",
        "snapshot-01.safetensors",
    }
    plan = json.loads((finished / "check/study/study.json").read_text())
    assert plan["split"]["source"] == {}
    # Of a source file, not even its name.
    assert "left" not in (finished / "file-digests.json").read_text()
    resolved = read_config(finished / "config.resolved.yaml")
    assert resolved.source_training.networks == 2
    assert set(resolved.priors.densities) == {"isotropic", "gaussian_full", "vae"}


def test_the_report_says_where_the_source_comes_from(finished: Path) -> None:
    page = (finished / "report/index.html").read_text()
    for words in ("source pack", "CC-BY 4.0", "3 patients"):
        assert words in page
    assert "collect-filters/ holds no summaries" not in page
    assert "train-source/ holds no histories" not in page


def test_a_moved_pack_makes_nothing_stale(
    finished_study: Any, pack: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished, tmp_path / "w")
    moved = tmp_path / "elsewhere" / "renamed.pack"
    moved.parent.mkdir()
    shutil.copyfile(pack, moved)
    config = write(tmp_path / "study.yaml", study(finished_study, moved))
    caplog.set_level("INFO")
    assert main(["run", str(config), "--workspace", str(tmp_path / "w"), "--jobs", "1"]) == 0
    told = [message for message in caplog.messages if "to do" in message or "nothing to do" in message]
    assert len(told) > 6
    assert all("nothing to do" in message for message in told), told


def test_a_workspace_without_its_pack_can_still_be_worked_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "w")
    resolved = tmp_path / "w" / "config.resolved.yaml"
    raw = yaml.safe_load(resolved.read_text())
    raw["source"]["pack"] = str(tmp_path / "gone.pack")
    config = write(tmp_path / "study.yaml", raw)
    for stage in ("infer", "evaluate", "report"):
        assert main([stage, str(config), "--workspace", str(tmp_path / "w"), "--jobs", "1"]) == 0
    del raw["network"]
    assert main(["report", str(write(config, raw)), "--workspace", str(tmp_path / "w")]) == 2
    assert "gone.pack: there is no such file" in capsys.readouterr().err


def test_a_pack_that_changed_after_the_check_is_noticed(
    finished_study: Any, pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.pack"
    shutil.copyfile(pack, own)
    config = write(tmp_path / "study.yaml", study(finished_study, own))
    where = ["--workspace", str(tmp_path / "w"), "--jobs", "1"]
    assert main(["check", str(config), *where]) == 0
    words = ["--all-snapshots", "--force", "--output", str(own)]
    assert main(["pack", str(finished_study.workspace), *words]) == 0
    assert main(["train-source", str(config), *where]) == 2
    assert "`check` was made with other settings or inputs" in capsys.readouterr().err
    assert main(["check", str(config), *where]) == 0
    assert main(["train-source", str(config), *where]) == 0
    assert (tmp_path / "w/train-source/network-01/snapshot-00.safetensors").is_file()


def test_a_damaged_pack_is_refused_by_check(
    finished_study: Any, pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.pack"
    content = bytearray(pack.read_bytes())
    with zipfile.ZipFile(pack) as archive:
        content[archive.getinfo("priors/encoder_1/vae.safetensors").header_offset + 4000] ^= 1
    own.write_bytes(content)
    config = write(tmp_path / "study.yaml", study(finished_study, own))
    assert main(["check", str(config), "--workspace", str(tmp_path / "w")]) == 2
    assert "damaged" in capsys.readouterr().err


def test_filters_of_a_pack_are_not_collected(
    finished_study: Any, pack: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished, tmp_path / "w")
    config = write(tmp_path / "study.yaml", study(finished_study, pack))
    caplog.set_level("INFO")
    assert main(["collect-filters", str(config), "--workspace", str(tmp_path / "w")]) == 0
    assert any("the source is a pack" in message for message in caplog.messages)
    assert main(["fit-priors", str(config), "--workspace", str(tmp_path / "w")]) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": {"name": "residual_unet", "channels": [4, 8], "encoder_blocks": [0, 1]}}, ["network.channels"]),
        ({"network": {"name": "segresnet"}}, ["network.name", "residual_unet", "remove `network`"]),
        ({"source_training": {"networks": 3}}, ["source_training.networks` is 3", "made with 2"]),
        ({"filters": {"grouping": "all"}}, ["filters.grouping"]),
        ({"priors": {"densities": {"vae": {"latent": 5}}}}, ["priors.densities.vae.latent"]),
        ({"priors": {"densities": {"pca": {"kind": "gaussian", "covariance": "low_rank"}}}}, ["'pca'", "one of iso"]),
        ({"target_training": {"arms": ["dwp_boosted"], "sizes": [1]}}, ["dwp_boosted"]),
        ({"source": {"pack": "nowhere.pack"}}, ["nowhere.pack: there is no such file"]),
        ({"source": {}}, ["give either `dataset`"]),
        ({"network": {"channels": "wide"}}, ["network"]),
    ],
)
def test_a_configuration_that_does_not_agree_with_the_pack(
    change: dict[str, Any], words: list[str], finished_study: Any, pack: Path, tmp_path: Path, capsys: Any
) -> None:
    raw = study(finished_study, pack, **change)
    if "dwp_boosted" in words:
        raw["target_training"]["arms"] = {"dwp_boosted": {"preset": "dwp_source", "prior": "boosted"}}
    config = write(tmp_path / "study.yaml", raw)
    assert main(["check", str(config), "--workspace", str(tmp_path / "w")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "Traceback" not in message
    assert all(word in message for word in words), message
    assert not (tmp_path / "w" / "check").exists()


def test_a_pack_takes_the_place_of_a_dataset(finished_study: Any, pack: Path) -> None:
    raw = study(finished_study, pack)
    raw["source"] = {"pack": str(pack), "dataset": "right", "patients": 2}
    with pytest.raises(ConfigError, match="takes the place of a dataset"):
        parse_config(raw, Path("study.yaml"))


def test_what_agrees_may_be_said(finished_study: Any, pack: Path) -> None:
    said: dict[str, Any] = yaml.safe_load(finished_study.config.read_text())
    raw = study(finished_study, pack, **{key: said[key] for key in ("network", "source_training", "priors")})
    assert parse_config(raw, Path("study.yaml")) == parse_config(study(finished_study, pack), Path("study.yaml"))


def test_an_arm_with_a_network_of_its_own_needs_not_that_of_the_pack(finished_study: Any, pack: Path) -> None:
    network = {"name": "residual_unet", "channels": [2, 4], "encoder_blocks": [0, 1]}
    arms = {"own": {"preset": "random", "network": network}, "fine_tune": None}
    raw = study(finished_study, pack, target_training={"arms": arms, "sizes": [1]})
    assert parse_config(raw, Path("study.yaml")).network_of("own").channels == (2, 4)


def test_a_stranger_does_not_say_whose_code_is_run(
    finished_study: Any, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with zipfile.ZipFile(pack) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    record = json.loads(files["pack.json"])
    record["network"] = {"name": "imported", "factory": "stranger:build", "options": {"a": 1}, "source": ""}
    hostile = tmp_path / "hostile.pack"
    with zipfile.ZipFile(hostile, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, json.dumps(record) if name == "pack.json" else content)
    for network in (None, {"factory": "other:build"}, {"factory": "stranger:build", "options": {"a": 2}}):
        with pytest.raises(ConfigError) as refused:
            parse_config(study(finished_study, hostile, **({"network": network} if network else {})), Path("x.yaml"))
        assert "stranger:build" in str(refused.value)
    own = {"factory": "stranger:build", "options": {"a": 1}}
    allowed = parse_config(study(finished_study, hostile, network=own), Path("x.yaml"))
    assert allowed.network.name == "imported"
    assert not (tmp_path / "ran").exists()


def test_channels_modality_and_spacing_are_compared(
    finished_study: Any, pack: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    raw = study(finished_study, pack)
    raw["preprocessing"] = {"resampling": {"spacing": [2, 2, 3]}}
    raw["datasets"]["right"]["modality"] = "mr_brain"
    config = write(tmp_path / "study.yaml", raw)
    assert main(["check", str(config), "--workspace", str(tmp_path / "w")]) == 0
    assert any("the source pack has the modality mr" in message for message in caplog.messages)
    assert any("the source pack has the spacing 2 × 2 × 2 mm" in message for message in caplog.messages)
    assert main(["infer", str(config), "--workspace", str(tmp_path / "w"), "--strict"]) == 2
    raw["preprocessing"] = {"resampling": {"spacing": [2, 2, 3]}}
    raw["datasets"]["right"]["modality"] = "mr"
    capsys.readouterr()
    command = ["run", str(write(config, raw)), "--workspace", str(tmp_path / "v"), "--jobs", "1", "--strict"]
    assert main(command) == 2
    assert "the source pack has the spacing 2 × 2 × 2 mm" in capsys.readouterr().err


def test_other_channels_start_at_random_and_are_named(
    finished_study: Any, pack: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    raw = study(finished_study, pack, image_models={})
    manifest = ["case,patient,T1,T2,label"]
    cohort = finished_study.cohort
    for number in range(6):
        image = cohort / "imagesTr" / f"case_{number}.nii.gz"
        first = nibabel.load(image)
        other = tmp_path / f"other_{number}.nii.gz"
        noise = np.random.default_rng(number).normal(100, 25, first.shape).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(noise, first.affine), other)
        manifest.append(f"case_{number},P{number},{image},{other},{cohort / 'labelsTr' / image.name}")
    (tmp_path / "cases.csv").write_text("\n".join(manifest) + "\n")
    raw["datasets"]["right"] |= {"path": str(tmp_path / "cases.csv"), "foreground": [2]}
    raw["target"] = {"dataset": "right", "pool": 2, "test": 2}
    raw["target_training"] = {"arms": ["fine_tune"], "sizes": [1], "reference_sizes": [], "steps": 2}
    config = write(tmp_path / "study.yaml", raw)
    where = ["--workspace", str(tmp_path / "w"), "--jobs", "1"]
    assert main(["run", str(config), *where]) == 0
    told = [message for message in caplog.messages if "the source pack has the channels T1" in message]
    assert told
    assert "T1, T2" in told[0]
    assert "stem.weight start at random" in told[0]
    trainings = [json.loads(path.read_text()) for path in (tmp_path / "w").glob("train-target/*/*/*/training.json")]
    assert trainings
    assert all("stem.weight" in own["started_anew"] for own in trainings)
    capsys.readouterr()
    assert main(["check", str(config), *where, "--strict"]) == 2
    assert "--strict" in capsys.readouterr().err


def test_python_says_that_a_pack_holds_no_scans(finished: Path) -> None:
    own = Study(finished / "config.resolved.yaml")
    assert len(own.cases("test")) == 2
    with pytest.raises(ConfigError, match="holds no scans"):
        own.cases("source")


def test_a_pack_of_a_study_from_a_pack_is_that_pack(finished: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["pack", str(finished), "--output", str(tmp_path / "again.pack")]) == 2
    assert "itself a pack" in capsys.readouterr().err


def test_a_pack_goes_with_cross_validation(finished_study: Any, pack: Path, tmp_path: Path) -> None:
    raw = study(finished_study, pack, target={"dataset": "right", "patients": "all", "folds": 3}, image_models={})
    raw["target_training"] = {"arms": ["fine_tune"], "sizes": [], "reference_sizes": [], "steps": 2, "repeats": 1}
    config = write(tmp_path / "study.yaml", raw)
    assert main(["run", str(config), "--workspace", str(tmp_path / "w"), "--jobs", "1"]) == 0
    plan = json.loads((tmp_path / "w/check/study/study.json").read_text())
    # Nobody is kept for a source: every annotated patient is tested.
    assert len(plan["split"]["test"]) == 9

"""A plan whose source is a pack: what the pack decides, what the target needs otherwise, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.image_file import read_volume, write_volume
from pipeline.cli import main
from pipeline.config.reading import read_config

pytestmark = pytest.mark.slow


@pytest.fixture
def target(write_cohort: Callable, tmp_path: Path) -> Path:
    return write_cohort(tmp_path / "scans", cases=4)


@pytest.fixture
def init(target: Path, tmp_path: Path) -> Callable[..., int]:
    def run(pack: Path, *words: str, scans: Path = target) -> int:
        where = ["init", str(scans), "--source", str(pack), "--output", str(tmp_path / "study.yaml"), "--force"]
        return main([*where, "--jobs", "1", "--device", "cpu", "--steps-per-second", "5", "--budget", "3h", *words])

    return run


def other_channels(cohort: Path, folder: Path, *names: str) -> Path:
    """A manifest of the scans in which each channel is a scan of its own."""
    folder.mkdir()
    lines = [f"case,patient,{','.join(names)},label"]
    for number, image in enumerate(sorted((cohort / "imagesTr").glob("*.nii.gz"))):
        paths = []
        for factor, name in enumerate(names, start=1):
            volume = read_volume(image)
            paths.append(folder / f"{name}_{image.name}")
            write_volume(volume.with_array(volume.array * factor), paths[-1])
        lines.append(f"c{number},p{number},{','.join(map(str, paths))},{cohort / 'labelsTr' / image.name}")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder / "cases.csv"


def test_a_pack_decides_network_patches_grid_and_modality(
    init: Callable[..., int], tiny_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # It is known by what it is.
    pack = shutil.copyfile(tiny_pack, tmp_path / "from a friend")
    assert init(pack) == 0
    told = capsys.readouterr().out
    for words in (
        "mr, that of the source pack",
        "source: a pack learned on 3 patients",
        "the network of the source pack",
    ):
        assert words in told
    raw = yaml.safe_load((tmp_path / "study.yaml").read_text())
    assert not {"network", "source_training", "filters", "priors"} & set(raw)
    assert list(raw["datasets"]) == ["target"]
    config = read_config(tmp_path / "study.yaml")
    assert config.source_pack == pack
    assert config.datasets["target"].preprocessing.resampling.spacing == (2.0, 2.0, 2.0)
    assert config.patches.size == (12, 12, 12)
    assert config.network.channels == (4, 6)
    assert set(config.target_training.arms) == {"random", "fine_tune", "multi_swag_calibrated"}


def test_the_chain_of_the_pack_is_taken_for_scans_of_its_modality(
    init: Callable[..., int], rewrite: Callable[..., Path], tmp_path: Path
) -> None:
    def change(record: dict[str, Any], files: dict[str, bytes]) -> None:
        record["preprocessing"]["intensity"]["upper_percentile"] = 98.0

    assert init(rewrite(change)) == 0
    assert yaml.safe_load((tmp_path / "study.yaml").read_text())["preprocessing"]["intensity"] == {
        "upper_percentile": 98.0
    }
    assert read_config(tmp_path / "study.yaml").datasets["target"].preprocessing.intensity.upper_percentile == 98.0
    assert init(rewrite(change), "--modality", "ct") == 0
    assert read_config(tmp_path / "study.yaml").datasets["target"].preprocessing.intensity.upper_percentile != 98.0


def test_a_grid_too_coarse_for_the_target_is_left_and_said(
    init: Callable[..., int], rewrite: Callable[..., Path], tmp_path: Path, caplog: Any, capsys: Any
) -> None:
    def coarse(record: dict[str, Any], files: dict[str, bytes]) -> None:
        record["preprocessing"]["resampling"]["spacing"] = [5, 5, 5]

    pack = rewrite(coarse)
    assert init(pack) == 0
    config = read_config(tmp_path / "study.yaml")
    assert config.datasets["target"].preprocessing.resampling.spacing == (2.0, 2.0, 2.0)
    assert any("networks see 5 × 5 × 5 mm, on which" in message for message in caplog.messages)
    assert init(pack, "--strict") == 2
    assert "the source pack has the spacing 5 × 5 × 5 mm" in capsys.readouterr().err


def test_the_packs_channels_are_used_and_others_only_if_they_are_named(
    init: Callable[..., int], target: Path, tiny_pack: Path, tmp_path: Path, caplog: Any, capsys: Any
) -> None:
    both = other_channels(target, tmp_path / "both", "T2", "T1")
    assert init(tiny_pack, scans=both) == 0
    assert read_config(tmp_path / "study.yaml").datasets["target"].channels == ("T1",)
    assert not any("start at random" in message for message in caplog.messages)
    assert init(tiny_pack, "--channels", "T1,T2", scans=both) == 0
    assert any("stem.weight start at random" in message for message in caplog.messages)
    assert init(tiny_pack, "--channels", "T1,T2", "--strict", scans=both) == 2
    assert "the source pack has the channels T1 and the target 'target' T1, T2" in capsys.readouterr().err
    neither = other_channels(target, tmp_path / "neither", "T2", "PD")
    assert init(tiny_pack, scans=neither) == 2
    error = capsys.readouterr().err
    assert "has the channels T2, PD, and the source pack learned from T1" in error
    assert error.count("\n") == 1


def test_a_damaged_pack_is_refused_before_anything_is_measured(
    init: Callable[..., int], tiny_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.pack"
    damaged.write_bytes(tiny_pack.read_bytes()[:-2000])
    assert init(damaged) == 2
    error = capsys.readouterr().err
    assert "damaged.pack: is damaged, or is not a source pack" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "study.yaml").exists()


def test_what_only_a_dataset_has_is_not_asked_of_a_pack(
    init: Callable[..., int], tiny_pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tiny_pack, "--source-modality", "ct") == 2
    assert "--source-modality ct: the networks of the source pack have learned already" in capsys.readouterr().err


def test_a_density_that_the_pack_lacks_is_named(
    init: Callable[..., int], tiny_pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tiny_pack, "--arms", "random,dwp_conditional") == 2
    assert "vae_conditional" in capsys.readouterr().err

"""How much structure the filters of source networks have: measured in `collect-filters`, warned of in `fit-priors`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data.stored_record import read_record
from models.filters import FilterLayer
from pipeline.cli import main
from pipeline.deployment.pack_card import pack_card
from pipeline.execution.progress import ProgressFile
from pipeline.packs.pack_archive import open_pack
from pipeline.priors.structure_record import FilterStructure, OverNetworks, little_to_learn
from pipeline.priors.structure_units import measure_structure
from pipeline.storage.tensors import save_tensors

LAYERS = (FilterLayer("a.weight", 4, 6, False), FilterLayer("b.weight", 6, 8, True))


def write_network(folder: Path, factor: float, dead: float) -> Path:
    """A network whose filters are scaled by a factor; a share of them, and an earlier snapshot, are zero."""
    generator = torch.Generator().manual_seed(0)
    start = {layer.parameter: torch.randn(layer.weight_shape, generator=generator) for layer in LAYERS}
    save_tensors(folder / "initial.safetensors", start)
    save_tensors(folder / "snapshot-00.safetensors", {name: 0 * value for name, value in start.items()})
    trained = {name: factor * value for name, value in start.items()}
    for value in trained.values():
        value[: round(dead * len(value))] = 0
    save_tensors(folder / "snapshot-01.safetensors", trained)
    return folder


def measure(folder: Path, networks: list[Path], threshold: float = 0.01) -> FilterStructure:
    folder.mkdir()
    measure_structure(
        folder, ProgressFile(folder / "progress", saves=False), group="g", layers=LAYERS, networks=networks,
        starts=[network / "initial.safetensors" for network in networks], cycles=2, norm_threshold=threshold,
    )  # fmt: skip
    return read_record(folder / "structure.json", FilterStructure)


def test_last_snapshots_are_measured_network_by_network(tmp_path: Path) -> None:
    networks = [write_network(tmp_path / "0", 0.5, 0.0), write_network(tmp_path / "1", 1.0, 0.5)]
    own = measure(tmp_path / "unit", networks)
    assert (own.group, own.networks, own.filters, own.norm_threshold) == ("g", 2, 4 * 6 + 6 * 8, 0.01)
    assert own.still_start.mean == pytest.approx(1.0)
    # Half of the filters have died in the second network, and those of the first kept a quarter of their energy.
    assert own.start_left.low == pytest.approx(0.25)
    assert own.start_left.high == pytest.approx(0.5, abs=0.1)
    assert own.start_left.mean == pytest.approx((own.start_left.low + own.start_left.high) / 2)
    assert (own.under_threshold.low, own.under_threshold.high) == (0.0, 0.5)
    assert 15 < own.effective_dimension.low < own.effective_dimension.high < 27
    # Random numbers, of which half of the second network's filters are dead: the few points show fewer than 27.
    assert own.intrinsic_dimension is not None
    assert own.two_nearest_dimension is not None
    assert 8 < own.intrinsic_dimension.low < own.intrinsic_dimension.high <= 27
    assert 8 < own.two_nearest_dimension.low <= 27
    assert f"intrinsic dimension {own.intrinsic_dimension.mean:.1f}, " in own.describe()
    assert "intrinsic" not in structure("a", 0.3).describe()
    assert measure(tmp_path / "other", networks, threshold=1e9).under_threshold.low == 1.0


def structure(group: str, still: float) -> FilterStructure:
    some = OverNetworks(mean=0.5, low=0.5, high=0.5)
    return FilterStructure(
        group=group, networks=1, filters=9, effective_dimension=some, start_left=some, norm_threshold=0.01,
        still_start=OverNetworks(mean=still, low=0.0, high=1.0), under_threshold=some,
    )  # fmt: skip


def test_little_to_learn_is_said_exactly_above_the_limit() -> None:
    assert little_to_learn([], 0.3) is None
    assert little_to_learn([structure("a", 0.3), structure("b", 0.0)], 0.3) is None
    some = little_to_learn([structure("a", 0.301), structure("b", 0.1)], 0.3)
    assert some is not None
    assert some.startswith("In 1 of 2 groups, more than 30 % of the energy")
    assert ": a (30 %). There is little to learn here: train the source networks longer" in some
    assert "`source_training.optimiser.weight_decay`" in some
    every = little_to_learn([structure("a", 0.4), structure("b", 0.96)], 0.3)
    assert every is not None
    assert "In every group" in every
    assert "a (40 %), b (96 %)" in every
    of_pack = little_to_learn([structure("a", 0.4)], 0.3, of_pack=True)
    assert of_pack is not None
    assert "There is little to learn here: use a pack whose" in of_pack


@pytest.fixture
def hardly_trained(finished_study: Any, write_study: Any, tmp_path: Path) -> tuple[Path, Path]:
    """The tiny study, whose networks had a few steps: they are nothing but their start."""
    config, workspace = finished_study.copy(tmp_path / "study", write_study)
    return config, workspace


def test_the_stages_say_what_structure_there_is(
    hardly_trained: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    config, workspace = hardly_trained
    shutil.rmtree(workspace / "measure-filters")
    words = [str(config), "--workspace", str(workspace), "--jobs", "1"]
    caplog.set_level("INFO")
    # What an earlier version collected stays; only its structure is measured.
    assert main(["collect-filters", *words]) == 0
    groups = sorted(path.name for path in (workspace / "collect-filters").iterdir() if path.is_dir())
    told = [message for message in caplog.messages if "effective dimension" in message]
    assert [message.split(": ")[1] for message in told] == groups or len(told) == len(groups)
    assert all("% of their energy still the random start" in message for message in told)
    caplog.clear()
    assert main(["fit-priors", *words]) == 0
    [warning] = [record for record in caplog.records if "There is little to learn here" in record.message]
    assert warning.levelname == "WARNING"
    assert all(group in warning.message for group in groups)
    assert not [message for message in caplog.messages if "fit-priors/" in message and "made with" in message]
    caplog.clear()
    assert main(["fit-priors", *words, "--set", "filters.most_start=1"]) == 0
    assert "There is little to learn here" not in caplog.text


@pytest.mark.slow
def test_a_pack_carries_it_and_its_studies_are_warned(
    finished_study: Any, tiny_pack: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    groups = open_pack(tiny_pack).record.groups
    for name, group in groups.items():
        expected = json.loads((finished_study.workspace / "measure-filters" / name / "structure.json").read_text())
        assert group.structure == FilterStructure.model_validate(expected)
    record = open_pack(tiny_pack).record
    card = pack_card(record)
    assert "trunk" not in card
    on_a_trunk = record.source_training.model_copy(update={"trunk_steps": 30})
    told = pack_card(record.model_copy(update={"source_training": on_a_trunk}))
    assert "They branch from one trunk of 30 steps" in told
    assert all(
        f"| {name} | {group.structure.effective_dimension.mean:.1f} | " in card for name, group in groups.items()
    )
    raw = yaml.safe_load((finished_study.workspace / "config.resolved.yaml").read_text())
    for key in ("network", "source_training", "priors", "filters"):
        del raw[key]
    raw["source"] = {"pack": str(tiny_pack)}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(raw))
    words = [str(tmp_path / "study.yaml"), "--workspace", str(tmp_path / "w"), "--jobs", "1"]
    for stage in ("check", "preprocess", "train-source", "fit-priors"):
        assert main([stage, *words]) == 0
    assert "There is little to learn here: use a pack" in caplog.text
    for name, group in groups.items():
        assert read_record(tmp_path / "w/measure-filters" / name / "structure.json", FilterStructure) == group.structure

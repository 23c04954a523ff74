"""`graft pack`: the same bytes from the same workspace, and nothing of a patient, a place or a person in them."""

from __future__ import annotations

import getpass
import json
import math
import re
import shutil
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from data.errors import ConfigError
from pipeline.cli import main
from pipeline.config.reading import parse_config, read_config
from pipeline.deployment.fingerprint import cached_facts
from pipeline.packing.pack_command import without_paths
from pipeline.packs.pack_archive import open_pack
from pipeline.stages.study_plan import read_plan
from pipeline.storage.workspace import Workspace
from preprocessing.chain import PreprocessingOptions

MARK = re.compile(rb"MARK_\w+")


@pytest.fixture(scope="module")
def marked(write_cohort: Any, write_study: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source that is learned from marked cases in a marked folder, and its pack with all snapshots."""
    folder = tmp_path_factory.mktemp("MARK_folder")
    cohort = write_cohort(folder / "MARK_cohort")
    for path in sorted(cohort.rglob("case_*.nii.gz")):
        path.rename(path.with_name(path.name.replace("case_", "MARK_case_")))
    for name in ("dataset.json", "patients.csv"):
        path = cohort / name
        text = path.read_text().replace("case_", "MARK_case_")
        path.write_text(re.sub(r",P(\d)", r",MARK_patient_\1", text))
    data = {"path": str(cohort), "modality": "mr", "foreground": ["left"]}
    config = write_study(
        folder / "MARK_study.yaml",
        cohort,
        name="MARK_name",
        title="MARK_title",
        source={"dataset": "MARK_dataset", "patients": 6},
        target={"dataset": "right", "pool": 1, "test": 1},
        datasets={"MARK_dataset": data},
        target_training={"arms": ["dwp"], "sizes": [1], "reference_sizes": []},
        source_training={"validation_cases": 2},
    )
    workspace = folder / "MARK_workspace"
    for stage in ("check", "preprocess", "train-source", "collect-filters", "fit-priors"):
        assert main([stage, str(config), "--workspace", str(workspace), "--jobs", "1"]) == 0
    pack = folder / "it.pack"
    assert main(["pack", str(workspace), "--output", str(pack), "--all-snapshots"]) == 0
    return workspace, pack


def entries(pack: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(pack) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


@pytest.mark.slow
def test_no_name_of_a_patient_a_place_or_a_person_is_in_it(marked: tuple[Path, Path]) -> None:
    workspace, pack = marked
    # What would be found if it were there.
    assert MARK.search((workspace / "check/study/study.json").read_bytes())
    hidden = [str(workspace.parent).encode(), str(Path.home()).encode(), socket.gethostname().encode()]
    hidden += [getpass.getuser().encode()] if len(getpass.getuser()) > 4 else []
    whole = pack.read_bytes()
    for name, content in {"the archive": whole, **entries(pack)}.items():
        assert not MARK.findall(content), name
        assert not [word for word in hidden if len(word) > 3 and word in content], name


def test_weights_say_nothing_but_where_they_belong(marked: tuple[Path, Path], tmp_path: Path) -> None:
    found = 0
    for name, content in entries(marked[1]).items():
        if name.endswith(".safetensors"):
            (tmp_path / "it").write_bytes(content)
            with safe_open(tmp_path / "it", "pt") as stream:
                told = stream.metadata()
            assert set(told) == {"graft"}
            assert set(json.loads(told["graft"])) in ({"network", "cycle"}, {"group", "density"})
            found += 1
    # Two cycles of two networks, three densities of three groups.
    assert found == 2 * 2 + 3 * 3


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list | tuple):
        for child in value.values() if isinstance(value, dict) else value:
            yield from numbers(child)


def test_no_number_of_a_single_patient_is_in_it(marked: tuple[Path, Path]) -> None:
    workspace, pack = marked
    plan = read_plan(read_config(workspace / "config.resolved.yaml", workspace=workspace), Workspace(workspace))
    facts = [
        cached_facts(case, ["T1"]).model_dump() for p in plan.patients("source") for case in plan.cached("source", p)
    ]
    # A number that all patients share, such as the spacing, is none of a single one.
    of_cases = [{x for x in numbers(own) if x} for own in facts]
    single = set().union(*of_cases) - set.intersection(*of_cases)
    assert len(single) > 20
    told = json.loads(entries(pack)["pack.json"])
    assert not single & set(numbers(told["source"]))
    spread = open_pack(pack).record.source.spread
    assert spread is not None
    volumes = sorted(own["structure_ml"]["left"] for own in facts)
    assert volumes[0] < spread.structure_ml["left"].median < volumes[-1]
    assert spread.structure_ml["left"].low <= spread.structure_ml["left"].median <= spread.structure_ml["left"].high


def test_of_few_patients_no_spread_is_told(marked: tuple[Path, Path], tiny_pack: Path) -> None:
    assert open_pack(marked[1]).record.source.patients == 6
    few = open_pack(tiny_pack).record.source
    assert (few.patients, few.spread) == (3, None)


def test_the_dice_on_patients_left_out_is_a_mean_over_networks(marked: tuple[Path, Path]) -> None:
    workspace, pack = marked
    last = []
    for folder in sorted((workspace / "train-source").iterdir()):
        rows = (folder / "history.csv").read_text().splitlines()
        column = rows[0].split(",").index("out_of_bag_dice")
        last.append([float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]][-1])
    told = open_pack(pack).record.source.out_of_bag_dice
    assert told is not None
    assert math.isclose(told, sum(last) / 2, rel_tol=0.01)


def test_paths_in_the_chain_stay_at_home() -> None:
    chain = PreprocessingOptions.model_validate({"skull_strip": {"method": "hd_bet", "weights": "/home/MARK/weights"}})
    assert "MARK" not in without_paths(chain).model_dump_json()


def test_the_same_workspace_gives_the_same_bytes(marked: tuple[Path, Path], tmp_path: Path) -> None:
    workspace, pack = marked
    shutil.copytree(workspace, tmp_path / "elsewhere")
    assert main(["pack", str(tmp_path / "elsewhere"), "--output", str(tmp_path / "x.pack"), "--all-snapshots"]) == 0
    assert (tmp_path / "x.pack").read_bytes() == pack.read_bytes()


def test_the_licence_goes_along(finished_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "terms.txt").write_text("Do as you like.\n")
    output = tmp_path / "it.pack"
    words = ["--license-file", str(tmp_path / "terms.txt"), "--output", str(output)]
    assert main(["pack", str(finished_study.workspace), *words]) == 0
    assert "--license, --citation" in capsys.readouterr().out
    assert entries(output)["LICENSE"] == b"Do as you like.\n"
    assert main(["pack", "--show", str(output)]) == 0


def test_what_is_there_is_kept(finished_study: Any, tiny_pack: Path, tmp_path: Path, capsys: Any) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    pack = ["pack", str(finished_study.workspace), "--output"]
    for more in ([], ["--force"]):
        assert main([*pack, str(mine), *more]) == 2
        assert "not a source pack" in capsys.readouterr().err
    assert mine.read_text() == "precious"
    earlier = tmp_path / "earlier.pack"
    shutil.copyfile(tiny_pack, earlier)
    assert main([*pack, str(earlier)]) == 2
    assert "--force" in capsys.readouterr().err
    assert earlier.read_bytes() == tiny_pack.read_bytes()
    assert main([*pack, str(earlier), "--force"]) == 0
    assert earlier.read_bytes() != tiny_pack.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier.pack", "mine.txt"]


def test_a_source_that_is_not_learned_with_these_settings(
    finished_study: Any, write_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "it.pack")]
    assert main(["pack", str(tmp_path / "nowhere"), *output]) == 2
    assert "config.resolved.yaml" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
    _, workspace = finished_study.copy(tmp_path / "study", write_study)
    resolved = workspace / "config.resolved.yaml"
    raw = yaml.safe_load(resolved.read_text())
    raw["source_training"]["peak_rate"] = 0.5
    resolved.write_text(yaml.safe_dump(raw))
    assert main(["pack", str(workspace), *output]) == 2
    assert "peak_rate" in capsys.readouterr().err
    raw["source_training"]["peak_rate"] = 3e-3
    resolved.write_text(yaml.safe_dump(raw))
    shutil.rmtree(workspace / "fit-priors" / "encoder_1" / "vae")
    assert main(["pack", str(workspace), *output]) == 2
    assert "graft fit-priors" in capsys.readouterr().err
    assert not (tmp_path / "it.pack").exists()


def test_words_that_do_not_go_together(capsys: pytest.CaptureFixture[str], tiny_pack: Path) -> None:
    for words in ([], ["somewhere"], ["--output", "x"], ["somewhere", "--show", str(tiny_pack)]):
        assert main(["pack", *words]) == 2
        assert "graft pack" in capsys.readouterr().err


def test_a_study_without_densities_gives_its_networks_alone(
    finished_study: Any, write_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, workspace = finished_study.copy(tmp_path / "study", write_study)
    for stage in ("collect-filters", "measure-filters", "fit-priors", "score-priors", "compare-priors"):
        shutil.rmtree(workspace / stage)
    resolved = workspace / "config.resolved.yaml"
    raw = yaml.safe_load(resolved.read_text())
    raw["priors"] = {}
    raw["target_training"] = {"arms": ["fine_tune"], "sizes": [1]}
    resolved.write_text(yaml.safe_dump(raw))
    output = tmp_path / "networks.pack"
    assert main(["pack", str(workspace), "--output", str(output)]) == 0
    assert "none, because the study fitted none" in capsys.readouterr().out
    assert open_pack(output).record.densities == ()
    assert main(["pack", "--show", str(output)]) == 0
    assert "arms with a filter prior cannot use it" in capsys.readouterr().out
    raw = {key: own for key, own in raw.items() if key not in ("network", "source_training", "priors", "filters")}
    raw["source"] = {"pack": str(output)}
    assert parse_config(dict(raw), Path("study.yaml")).source_training.networks == 2
    for arm in ("dwp", {"mine": {"prior": "auto"}}):
        arms = arm if isinstance(arm, dict) else [arm]
        with pytest.raises(ConfigError, match="which the source pack does not have"):
            parse_config({**raw, "target_training": {"arms": arms, "sizes": [1]}}, Path("study.yaml"))
    with pytest.raises(ConfigError, match="where they branch from a trunk: use a pack of such networks"):
        parse_config({**raw, "target_training": {"arms": ["fine_tune_branches"], "sizes": [1]}}, Path("study.yaml"))


def test_a_place_that_cannot_be_written(finished_study: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["pack", str(finished_study.workspace), "--output", str(tmp_path / "file" / "it.pack")]) == 2
    assert "cannot hold the results" in capsys.readouterr().err

"""`graft export`: metadata and model card, what it refuses, and that a bundle is written whole or not at all."""

from __future__ import annotations

import ast
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipeline.deployment.export_command as export_command
import pipeline.deployment.onnx_network as onnx_network
from data.errors import ConfigError, DataError, ModelError, WorkspaceError
from pipeline.cli import main
from pipeline.config.reading import as_yaml, parse_config
from pipeline.deployment.export_command import CARD, INFERENCE, METADATA, export
from pipeline.deployment.export_options import UNFILLED, ExportOptions
from pipeline.deployment.model_folder import model_digest
from pipeline.deployment.vendored_source import copy_modules
from pipeline.evaluation.csv_rows import write_rows
from pipeline.evaluation.evaluated_models import EvaluatedModel, EvaluatedModels, read_evaluated
from pipeline.evaluation.tables import CaseRow, SummaryRow, write_cases_csv
from pipeline.storage.atomic import write_json

MakeModel = Callable[..., Path]
NO_ONNX = ExportOptions(onnx=False)


def evaluated(study: Path, model: Path, key: str) -> None:
    """Notes that the tables of a study are of a model."""
    tables = read_evaluated(study / "results") or EvaluatedModels()
    own = EvaluatedModel(model=model_digest(model), evaluation="0" * 64)
    EvaluatedModels(units={**tables.units, key: own}).write(study / "results")


def configuration(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "datasets": {
            "ms": {"path": "ms", "modality": "mr_head", "channels": ["FLAIR"], "foreground": [1]},
            "tumour": {"path": "tumour", "modality": "mr", "channels": ["T1"], "foreground": [1]},
        },
        "source": {"dataset": "ms", "patients": 12},
        "target": {"dataset": "tumour", "pool": 1, "test": 7},
        "target_training": {"arms": ["random", "dwp"], "sizes": [1]},
    }


@pytest.fixture
def study(model: Path, tmp_path: Path) -> Path:
    """A workspace with the results of the arm of the model, which lies in it."""
    root = tmp_path / "workspaces" / "tiny"
    shutil.copytree(model, root / "infer/dwp/n01/repeat-0/model")
    (root / "config.resolved.yaml").write_text(as_yaml(parse_config(configuration("tiny"), tmp_path)))
    split = {"source": {f"s{n}": [] for n in range(12)}, "pool": {"p": []}, "test": {f"t{n}": [] for n in range(7)}}
    write_json(root / "check/study/study.json", {"split": split, "classes": {}, "channels": {}})
    (root / "results").mkdir()
    rows = [
        SummaryRow("dwp", 1, "dice", 0.61234, 0.5, 0.7, 7),
        SummaryRow("dwp", 1, "iou[cube]", 0.4567, 0.4, 0.5, 7),
        SummaryRow("dwp", 5, "dice", 0.987, 0.98, 0.99, 7),
        SummaryRow("random", 1, "dice", 0.123, 0.1, 0.2, 7),
    ]
    write_rows(root / "results/summary.csv", SummaryRow, rows)
    cases = [CaseRow("dwp", 1, repeat, "t0", "t0", "cube", 0.6, 0.4) for repeat in range(3)]
    write_cases_csv(cases, root / "results/cases.csv")
    evaluated(root, model, "dwp/n01/repeat-0")
    return root


@pytest.mark.parametrize(("members", "moving"), [(1, 0), (1, 1), (2, 1)])
def test_the_card_says_that_the_kl_was_still_moving(
    make_model: MakeModel, tmp_path: Path, members: int, moving: int
) -> None:
    model = make_model(tmp_path / "model", members=members, kl_moving=moving)
    assert ("kl_moving" in json.loads((model / "model.json").read_text())) is bool(moving)
    export(model, tmp_path / "bundle", NO_ONNX)
    card = " ".join((tmp_path / "bundle" / CARD).read_text().split())
    assert ("- The KL to its prior was still moving when the training ended" in card) is bool(moving)
    assert ("ended (in 1 of its members and components): its" in card) is (members > 1)


def test_the_card_holds_the_numbers_of_the_study(study: Path, tmp_path: Path) -> None:
    model = study / "infer/dwp/n01/repeat-0"
    result = export(model, tmp_path / "bundle", NO_ONNX)
    assert result.facts.evaluated
    card = (tmp_path / "bundle" / CARD).read_text()
    assert "| Dice | 0.612 | 0.500 to 0.700 | 7 |" in card
    assert "| IoU, cube | 0.457 | 0.400 to 0.500 | 7 |" in card
    assert "0.987" not in card
    assert "0.123" not in card
    for words in ("On 7 test patients", "source dataset “ms”", "12 patients", "average over 3 trainings", "3 draws"):
        assert words in card
    metadata = json.loads((tmp_path / "bundle" / METADATA).read_text())
    assert metadata["eval_metrics"] == {"dice": 0.61234, "iou[cube]": 0.4567}
    assert "“tumour”" in metadata["data_source"]
    assert "3 draws" in metadata["eval_metrics_note"]
    assert "control" not in card


def test_numbers_of_a_study_of_an_earlier_version_are_told_by_the_digest_of_the_model(
    study: Path, tmp_path: Path
) -> None:
    config = study / "config.resolved.yaml"
    config.write_text(config.read_text().replace("target_training:", "inference:"))
    assert export(study / "infer/dwp/n01/repeat-0", tmp_path / "bundle", NO_ONNX).facts.evaluated
    card = (tmp_path / "bundle" / CARD).read_text()
    assert "| Dice | 0.612 | 0.500 to 0.700 | 7 |" in card
    assert "“tumour”" not in card


def test_an_arm_without_source_is_called_a_control(make_model: MakeModel, study: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", bayesian=False, arm_name="random")
    evaluated(study, model, "random/n01/repeat-0")
    export(model, tmp_path / "bundle", NO_ONNX, study=study)
    card = (tmp_path / "bundle" / CARD).read_text()
    assert "uses nothing that was learned on the source" in card
    assert "| Dice | 0.123 | 0.100 to 0.200 | 7 |" in card
    assert "draws" not in card


def test_numbers_of_another_training_are_not_on_the_card(make_model: MakeModel, study: Path, tmp_path: Path) -> None:
    # The arm was trained again with another option, and its study not evaluated since.
    shutil.rmtree(study / "infer/dwp/n01/repeat-0/model")
    model = make_model(study / "infer/dwp/n01/repeat-0/model", seed=2)
    result = export(model, tmp_path / "bundle", NO_ONNX)
    assert not result.facts.evaluated
    assert "not of this model" in "\n".join(result.lines())
    card = (tmp_path / "bundle" / CARD).read_text()
    assert "0.612" not in card
    assert "not of this model" in card
    assert "“tumour”" in card
    assert json.loads((tmp_path / "bundle" / METADATA).read_text())["eval_metrics"] == {}
    # Tables of a version that did not write down of what are no evidence either.
    (study / "results/evaluated.json").unlink()
    assert not export(model, tmp_path / "again", NO_ONNX).facts.evaluated


def test_without_the_study_the_card_says_so(model: Path, study: Path, tmp_path: Path) -> None:
    result = export(model, tmp_path / "alone", NO_ONNX)
    assert not result.facts.evaluated
    card = (tmp_path / "alone" / CARD).read_text()
    assert "Not evaluated" in card
    assert "| Dice |" not in card
    named = export(model, tmp_path / "named", NO_ONNX, study=study)
    assert named.facts.evaluated
    with pytest.raises(WorkspaceError, match=r"config\.resolved\.yaml"):
        export(model, tmp_path / "no", NO_ONNX, study=tmp_path)
    (study / "config.resolved.yaml").write_text(as_yaml(parse_config(configuration("other"), tmp_path)))
    with pytest.raises(WorkspaceError, match="belongs to the study other"):
        export(model, tmp_path / "no", NO_ONNX, study=study)
    assert not (tmp_path / "no").exists()


def test_metadata_has_what_monais_schema_asks_for(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", channels=("T1", "FLAIR"), classes={"core": 2, "rim": 7})
    owner = ExportOptions(authors="A. Author", copyright="(c) A. Author", version="1.2.3", onnx=False)
    result = export(model, tmp_path / "bundle", owner)
    assert result.facts.options.unfilled() == ["licence", "contact", "data_terms"]
    metadata = json.loads((tmp_path / "bundle" / METADATA).read_text())
    texts = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")
    for key in (*texts, "copyright"):
        assert isinstance(metadata[key], str), key
        assert metadata[key], key
    assert metadata["version"] in metadata["changelog"]
    assert metadata["authors"] == "A. Author"
    assert {"nibabel", "scipy", "pydantic"} <= metadata["required_packages_version"].keys()
    form = metadata["network_data_format"]
    keys = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"}
    image, pred = form["inputs"]["image"], form["outputs"]["pred"]
    assert keys <= image.keys()
    assert keys <= pred.keys()
    assert (image["num_channels"], image["channel_def"]) == (2, {"0": "T1", "1": "FLAIR"})
    assert (pred["num_channels"], pred["channel_def"]) == (3, {"0": "background", "1": "core", "2": "rim"})
    assert image["spatial_shape"] == [16, 16, 8]
    low, high = image["value_range"]
    assert -3 < low < 0 < high < 5
    card = (tmp_path / "bundle" / CARD).read_text()
    assert card.count(UNFILLED) == 3
    assert "2 is core, 7 is rim" in card
    assert not (tmp_path / "bundle/LICENSE").exists()


def test_the_copies_are_complete_and_import_nothing_of_graft(tmp_path: Path) -> None:
    copied = copy_modules(["pipeline.deployment.network_grid", "models.networks.residual_unet"], tmp_path, "Graft 0")
    assert {"preprocessing.resampling", "preprocessing.grid", "data.volume", "data.errors"} <= set(copied)
    assert not any("chain" in name or "skull" in name or "registration" in name for name in copied)
    for module in copied:
        path = tmp_path / "scripts" / Path(*module.split(".")).with_suffix(".py")
        assert (path.parent / "__init__.py").is_file()
        assert "Apache License 2.0" in path.read_text().splitlines()[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] not in ("data", "models", "pipeline", "preprocessing")
    with pytest.raises(ValueError, match="no source file"):
        copy_modules(["pipeline.nothing_of_that_name"], tmp_path, "Graft 0")


def test_what_lies_at_the_output_is_kept(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(WorkspaceError, match="holds files that are not part of a bundle"):
            export(model, tmp_path / "mine", NO_ONNX, force=force)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(WorkspaceError, match="is a file"):
        export(model, tmp_path / "mine/thesis.txt", NO_ONNX, force=True)
    with pytest.raises(WorkspaceError, match="cannot hold the results"):
        export(model, tmp_path / "mine/thesis.txt/bundle", NO_ONNX)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    export(model, tmp_path / "empty", NO_ONNX)
    with pytest.raises(WorkspaceError, match="--force"):
        export(model, tmp_path / "empty", NO_ONNX)


def test_force_replaces_what_graft_wrote_and_nothing_else(model: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export(model, bundle, NO_ONNX)
    (bundle / "LICENSE").write_text("my terms")
    (bundle / "docs/data.md").write_text("my page")
    export(model, bundle, ExportOptions(onnx=False, authors="Anna"), force=True)
    assert "Anna" in (bundle / CARD).read_text()
    assert (bundle / "LICENSE").read_text() == "my terms"
    assert (bundle / "docs/data.md").read_text() == "my page"
    (bundle / CARD).write_text("my own card")
    with pytest.raises(WorkspaceError, match=r"README.md: has been changed since Graft wrote it.*move or rename it"):
        export(model, bundle, NO_ONNX, force=True)
    assert (bundle / CARD).read_text() == "my own card"
    # A folder of something else that happens to hold such a file.
    (tmp_path / "other/configs").mkdir(parents=True)
    (tmp_path / "other" / METADATA).write_text("{}")
    with pytest.raises(WorkspaceError, match="holds files that are not part of a bundle"):
        export(model, tmp_path / "other", NO_ONNX, force=True)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_bundle_goes_into_a_folder_that_cannot_be_renamed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As an empty mount point: nothing can be renamed to its name, and the folder around it is another disk.
    disk = tmp_path / "disk"
    disk.mkdir()
    rename = os.rename

    def busy(source: Path, target: Path) -> None:
        if Path(target) == disk:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if disk in Path(target).parents and disk not in Path(source).parents:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    monkeypatch.setattr(os, "rename", busy)
    export(model, disk, NO_ONNX)
    assert (disk / CARD).is_file()
    assert [p.name for p in disk.iterdir() if p.name.startswith(".")] == []


def test_a_killed_export_is_done_again_without_force(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()

    def dies(source: Path, target: Path) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.storage.owned_folder.shutil.move", dies)
        with pytest.raises(MemoryError):
            export(model, bundle, NO_ONNX)
    export(model, bundle, NO_ONNX)
    assert (bundle / CARD).is_file()


def test_a_failure_leaves_nothing_behind(
    model: Path,
    write_scans: Callable[..., list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    (scan,) = write_scans(tmp_path / "in", ["a"])
    scan.write_bytes(scan.read_bytes()[:200])
    with pytest.raises(DataError, match=r"a\.nii\.gz"):
        export(model, tmp_path / "out/bundle", NO_ONNX, examples=(scan,))

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_command, "write_text", full)
    arguments = ["export", str(model), "--output", str(tmp_path / "out/bundle"), "--set", "onnx=false"]
    assert main(arguments) == 2
    assert f"{tmp_path / 'out/bundle'}: the disk is full" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_bad_models_are_refused_before_anything_is_written(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        export(tmp_path / "nothing", tmp_path / "out", NO_ONNX)
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    raw = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(raw | {"format": raw["format"] + 1}))
    with pytest.raises(ModelError, match="newer version of Graft"):
        export(copy, tmp_path / "out", NO_ONNX)
    (copy / "model.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="changed or damaged"):
        export(copy, tmp_path / "out", NO_ONNX)
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_network, "_PACKAGES", ("torch", "no_such_package_as_this"))
    with pytest.raises(ConfigError) as error:
        export(model, tmp_path / "bundle", ExportOptions())
    assert 'pip install ".[export]"' in str(error.value)
    assert "no_such_package_as_this" in str(error.value)
    assert "torch" not in str(error.value).split("to fix")[0]


def test_the_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    arguments = ["export", str(model), "--output", str(bundle), "--set", "onnx=false", "--set", "authors=A. Author"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert str(bundle / CARD) in out
    assert "no numbers" in out
    assert "copyright, licence, contact, data_terms" in out
    assert (bundle / INFERENCE).is_file()
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    assert main(["export", str(model), "--output", str(tmp_path / "b"), "--set", "colour=blue"]) == 2
    assert "`colour`" in capsys.readouterr().err


def test_the_licence_file_is_asked_for_until_it_is_there(study: Path, tmp_path: Path) -> None:
    model, bundle = study / "infer/dwp/n01/repeat-0", tmp_path / "bundle"
    assert "bundle/LICENSE" in "\n".join(export(model, bundle, NO_ONNX).lines())
    (bundle / "LICENSE").write_text("terms")
    assert "bundle/LICENSE" not in "\n".join(export(model, bundle, NO_ONNX, force=True).lines())


def test_the_card_says_why_a_score_has_no_interval(study: Path, tmp_path: Path) -> None:
    write_rows(study / "results/summary.csv", SummaryRow, [SummaryRow("dwp", 1, "dice", 0.6, 0.6, 0.6, 2, 2)])
    export(study / "infer/dwp/n01/repeat-0", tmp_path / "bundle", NO_ONNX)
    card = (tmp_path / "bundle" / CARD).read_text()
    assert "| Dice | 0.600 | 2 test patients are too few for an interval | 2 |" in card
    assert "\n\n## Owner\n" in card

"""Names that lead elsewhere: `predict` refuses them, and nothing that is there is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import main

WriteScans = Callable[[Path, list[str]], list[Path]]


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def predicted_once(model: Path, write_scans: WriteScans, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predicted")
    write_scans(folder / "in", ["a", "b"])
    (folder / "victim").mkdir()
    (folder / "victim" / "thesis.txt").write_text("years of work")
    assert main(["predict", str(model), str(folder / "in" / "a.nii.gz"), "--output", str(folder / "out")]) == 0
    return folder


@pytest.fixture
def predicted(predicted_once: Path, tmp_path: Path) -> Path:
    """A folder with scans, one of them predicted, and a victim beside the results."""
    return Path(shutil.copytree(predicted_once, tmp_path, dirs_exist_ok=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [".", "..", "../victim", "ABSOLUTE", "a/../../victim", "-b", "predictions.csv"])
@pytest.mark.parametrize("layout", ["csv", "nnunet"])
def test_a_dataset_with_such_a_case_is_refused(
    model: Path, predicted: Path, capsys: pytest.CaptureFixture, layout: str, name: str
) -> None:
    name = str(predicted / "victim") if name == "ABSOLUTE" else name
    if layout == "csv":
        (predicted / "in" / "manifest.csv").write_text(f"case,T1\na,a.nii.gz\n{name},b.nii.gz\n")
    else:
        entries = {"a": {"images": ["a.nii.gz"]}, name: {"images": ["b.nii.gz"]}}
        about = {"channel_names": {"0": "T1"}, "labels": {"background": 0}, "dataset": entries}
        (predicted / "in" / "dataset.json").write_text(json.dumps(about))
    before = everything(predicted)
    capsys.readouterr()
    for command in (["predict", str(model)], ["check"]):
        output = ["--output", str(predicted / "out")] if command[0] == "predict" else []
        assert main([*command, str(predicted / "in"), *output]) == 2
        captured = capsys.readouterr()
        assert "the case name" in captured.err
        assert "Traceback" not in captured.err + captured.out
    assert everything(predicted) == before


def test_a_file_with_such_a_name_does_not_stop_the_others(
    model: Path, predicted: Path, write_scans: WriteScans, capsys: pytest.CaptureFixture
) -> None:
    odd = write_scans(predicted / "odd", [".", "x\x1b[31m"])
    before = everything(predicted / "out" / "a")
    inputs = [str(path) for path in (*odd, predicted / "in" / "a.nii.gz", predicted / "in" / "b.nii.gz")]
    assert main(["predict", str(model), *inputs, "--output", str(predicted / "out")]) == 2
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert everything(predicted / "out" / "a") == before
    assert (predicted / "out" / "b" / "b.nii.gz").is_file()
    table = (predicted / "out" / "predictions.csv").read_bytes().decode()
    assert "x\\x1b[31m,failed" in table
    assert "\x1b" not in table


def test_a_case_that_is_a_formula_is_text_in_the_table(model: Path, write_scans: WriteScans, tmp_path: Path) -> None:
    (scan,) = write_scans(tmp_path / "in", ["=cmd()"])
    assert main(["predict", str(model), str(scan), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1].startswith("'=cmd(),done")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("study", "../x"),
        ("arm_name", "a\nb"),
        ("channels", ["\x1b[31m"]),
        ("classes", {"../x": 1}),
        ("classes", {"a": 1, "A": 2}),
        ("channels", ["T1", "t1"]),
    ],
)
def test_a_model_with_such_a_name_is_refused(
    model: Path, predicted: Path, tmp_path: Path, capsys: pytest.CaptureFixture, key: str, value: object
) -> None:
    error = refusal(model, predicted, tmp_path, capsys, key, value)
    assert f"model.json: `{key}" in error
    assert "name" in error
    assert "\x1b" not in error


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("classes", {"left": 0}, "`classes.left`: Input should be greater than or equal to 1"),
        ("classes", {"left": -1}, "`classes.left`: Input should be greater than or equal to 1"),
        ("classes", {"left": 70_000}, "`classes.left`: Input should be less than or equal to 32767"),
        ("classes", {"left": 1, "right": 1}, "two `classes` have the same value"),
        ("channels", ["another"], "`channels` are another"),
        ("patch", [0, 8, 8], "`patch.0`: Input should be greater than or equal to 1"),
        ("patch", [8, 100_000, 8], "`patch.1`: Input should be less than or equal to 2048"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(
    model: Path,
    predicted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    key: str,
    value: object,
    words: str,
) -> None:
    assert f"model.json: {words}" in refusal(model, predicted, tmp_path, capsys, key, value)


def refusal(
    model: Path, predicted: Path, tmp_path: Path, capsys: pytest.CaptureFixture, key: str, value: object
) -> str:
    """What `predict` says of a model with another value of a key, which changes nothing."""
    import hashlib
    import shutil

    folder = Path(shutil.copytree(model, tmp_path / "changed"))
    file = folder / "model.json"
    old = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, hashlib.sha256(file.read_bytes()).hexdigest()))
    before = everything(predicted)
    capsys.readouterr()
    assert main(["predict", str(folder), str(predicted / "in"), "--output", str(predicted / "out")]) == 2
    error = capsys.readouterr().err
    assert everything(predicted) == before
    return error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "levels deep"),
        ('{"format": 1, "arm": ' + '{"a": ' * 900 + "1" + "}" * 901, "levels deep"),
        ('{"format": 1', "is not valid JSON"),
        ("FIFO", "is a named pipe"),
        ("FOLDER", "is a folder"),
    ],
)
def test_a_model_json_that_is_none(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, text: str, words: str
) -> None:
    import os
    import shutil

    folder = Path(shutil.copytree(model, tmp_path / "changed"))
    for name in ("model.json", "SHA256SUMS"):
        file = folder / name
        whole = file.read_text()
        file.unlink()
        if text == "FIFO":
            os.mkfifo(file)
        elif text == "FOLDER":
            file.mkdir()
        else:
            file.write_text(text)
        assert main(["predict", str(folder), str(tmp_path), "--output", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert name in error
        assert words in error or (name == "SHA256SUMS" and "is damaged" in error)
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        file.write_text(whole)


def test_a_model_without_a_seed_for_each_member_is_refused(make_model: Callable[..., Path], tmp_path: Path) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match="1 `members` and 0 `seeds`"):
        make_model(tmp_path / "model", seeds=())


@pytest.mark.slow
def test_names_with_signs_of_formulas_are_drawn(
    make_model: Callable[..., Path], write_scans: WriteScans, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "model", classes={"$c_$": 1, "肿瘤": 2})
    (scan,) = write_scans(tmp_path / "in", ["$a_$ [x]"])
    arguments = ["predict", str(folder), str(scan), "--output", str(tmp_path / "out"), "--probabilities"]
    assert main(arguments) == 0
    names = {path.name for path in (tmp_path / "out" / "$a_$ [x]").iterdir()}
    assert {"$a_$ [x].png", "$a_$ [x]_probability-c_.nii.gz", "$a_$ [x]_probability-肿瘤.nii.gz"} <= names

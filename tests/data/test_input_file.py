"""Files that a user hands in: what is not a regular file, too large, too deep or not text is an error, not a wait."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data.checks.battery import check_dataset
from data.errors import DataError, ModelError
from data.image_file import read_volume
from data.input_file import DEEPEST, read_json, read_text, require_regular_file
from data.layouts.detection import read_dataset


def put_pipe(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def put_folder(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.mkdir()
    return path


def put_broken_link(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")
    return path


ODD = [(put_pipe, "is a named pipe"), (put_folder, "is a folder"), (put_broken_link, "is a link to a file that does")]


@pytest.mark.parametrize(("put", "found"), ODD)
def test_what_is_no_file_is_not_opened(tmp_path: Path, put: Callable[[Path], Path], found: str) -> None:
    with pytest.raises(ModelError, match=f"x.json: {found}"):
        read_json(put(tmp_path / "x.json"), ModelError)


@pytest.mark.parametrize("name", ["/dev/null", "missing", "a\0b", "x" * 300, "\ud800"])
def test_other_paths_that_are_no_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        require_regular_file(tmp_path / name, "a file")


@pytest.mark.parametrize(("put", "found"), ODD)
@pytest.mark.parametrize("name", ["dataset.json", "patients.csv"])
def test_files_beside_the_images(
    msd_folder: Callable[..., Path], name: str, put: Callable[[Path], Path], found: str
) -> None:
    root = msd_folder()
    put(root / name)
    with pytest.raises(DataError, match=f"{name}: {found}"):
        read_dataset(root)


@pytest.mark.parametrize(("put", "found"), ODD)
def test_a_manifest_that_is_none(tmp_path: Path, put: Callable[[Path], Path], found: str) -> None:
    path = put(tmp_path / "x.csv")
    with pytest.raises(DataError, match=rf"x\.csv: {found}"):
        read_dataset(tmp_path)
    if found == "is a named pipe":
        with pytest.raises(DataError, match=found):
            read_dataset(path)


def test_an_image_that_is_a_pipe(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a named pipe"):
        read_volume(put_pipe(tmp_path / "x.nii.gz"))


@pytest.mark.parametrize("depth", [DEEPEST + 1, 900, 100_000])
def test_deep_json(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "dataset.json"
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        path.write_text(text)
        with pytest.raises(DataError, match="levels deep"):
            read_dataset(tmp_path)
    path.write_text("[" * DEEPEST + "1" + "]" * DEEPEST)
    assert read_json(path)


def test_other_faults_of_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("{", "1" * 5000, ""):
        path.write_text(text)
        with pytest.raises(DataError, match="is not valid JSON"):
            read_json(path)
    path.write_bytes(b"\xff\xfa")
    with pytest.raises(DataError, match="UTF-8"):
        read_json(path)


def test_a_key_that_is_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"labels": {"a": 1, "b": 2, "a": 3}}')
    with pytest.raises(DataError, match="the key 'a' is given twice"):
        read_json(path)


def test_text_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("x" * 3000)
    assert len(read_text(path, "text")) == 3000
    with pytest.raises(DataError, match="of at most"):
        read_text(path, "text", largest=2999)


@pytest.mark.parametrize("name", ["x" * 300 + ".nii.gz", "\ud800.nii.gz"])
def test_image_names_that_no_file_can_have(msd_folder: Callable[..., Path], name: str) -> None:
    root = msd_folder(patients=False)
    content = json.loads((root / "dataset.json").read_text())
    names = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1, "b": 2}}
    entries = {"odd": {"images": [name], "label": name}, "fine": {"images": ["imagesTr/case_0.nii.gz"]}}
    (root / "dataset.json").write_text(json.dumps(content | names | {"dataset": entries}))
    report = check_dataset(read_dataset(root))
    assert {f.check for f in report.findings if f.case == "odd"} & {"missing_file", "unreadable_file"}
    with pytest.raises(DataError, match=r"too long|is not a valid file name"):
        read_volume(root / name)
    for path in (root / name, root / "x.csv" / name):
        with pytest.raises(DataError, match="there is no such folder"):
            read_dataset(path)

"""Hostile names, files, models and configurations: one sentence, exit code 2, nothing outside the output touched."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load, save_file

from data.image_file import write_volume
from data.volume import Volume
from pipeline.cli import main

pytestmark = pytest.mark.slow

Refused = Callable[..., str]

_NAMES = [
    ".",
    "..",
    "../victim",
    "a/../../victim",
    "/tmp/victim",
    "..\\victim",
    "-rf",
    "",
    " ",
    "a\nb",
    "a\x1b[31mred",
    "a\x00b",
    "a\u202eb",
    ".tmp-x",
    ".lock",
    "n" * 300,
]
_KEYS = ["arm", "density", "study", "dataset"]


def _digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.is_symlink()
    }


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder for the input and the output, beside one that no command may touch."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.txt").write_text("years of work")
    (tmp_path / "home" / "victim").mkdir(parents=True)
    (tmp_path / "home" / "victim" / "thesis.txt").write_text("years of work")
    before = _digest(tmp_path / "victim") | _digest(tmp_path / "home" / "victim")
    yield tmp_path / "home"
    assert _digest(tmp_path / "victim") | _digest(tmp_path / "home" / "victim") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "victim"]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Returns a function that runs a command, which must be refused in one sentence, and returns the sentence."""

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert code == 2, captured.err
        assert "Traceback" not in captured.err
        assert "\x1b" not in captured.err.replace("\x1b[0m", "")
        sentences = [line for line in captured.err.splitlines() if line.startswith("graft: ")]
        assert len(sentences) == 1, captured.err
        assert len(sentences[0]) < 3000
        return sentences[0]

    return run


@pytest.fixture(scope="module")
def model(finished_study: Any) -> Path:
    return finished_study.workspace / "infer" / "dwp" / "n02" / "repeat-0" / "model"


def _image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(100, 20, (18, 20, 17))
    write_volume(Volume(noise.astype(np.int16), np.diag([2.0, 2, 2, 1])), path)
    return path


def _csv_manifest(folder: Path, name: str) -> Path:
    _image(folder / "scan.nii.gz")
    with (folder / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("case", "T1"), (name, "scan.nii.gz")])
    return folder / "manifest.csv"


def _nnunet(folder: Path, name: str) -> Path:
    scan = _image(folder / "imagesTr" / "scan_0000.nii.gz")
    description = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "one": 1},
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "dataset": {name: {"images": [str(scan)]}},
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize("name", _NAMES, ids=repr)
@pytest.mark.parametrize("write", [_csv_manifest, _nnunet])
def test_names_of_cases(
    write: Callable[[Path, str], Path], name: str, home: Path, model: Path, refused: Refused
) -> None:
    (home / "data").mkdir()
    try:
        data = write(home / "data", name)
    except OSError:
        pytest.skip("no file can have that name")
    refused("predict", model, data, "--output", home / "out")
    refused("check", data)


@pytest.mark.parametrize("name", _NAMES, ids=repr)
@pytest.mark.parametrize("key", _KEYS)
def test_names_in_a_configuration(
    key: str, name: str, home: Path, finished_study: Any, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key == "study" and not name.strip():
        name = "\t"
    raw = yaml.safe_load(finished_study.config.read_text())
    if key == "arm":
        raw["target_training"]["arms"] = {name: {"init": "random"}}
    elif key == "density":
        raw["priors"]["densities"] = {name: {"kind": "gaussian"}}
    elif key == "study":
        raw["name"] = name
    else:
        raw["datasets"] = {name: raw["datasets"]["left"], "right": raw["datasets"]["right"]}
        raw["source"]["dataset"] = name
    (home / "study.yaml").write_text(yaml.safe_dump(raw, allow_unicode=True))
    monkeypatch.chdir(home)
    refused("check", home / "study.yaml")
    assert sorted(p.name for p in home.iterdir()) == ["study.yaml", "victim"]


_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)
)
_CONFIGURATIONS = {
    "aliases": _BOMB,
    "itself": "name: &a [*a]\n",
    "deep": "name: " + "[" * 20_000 + "]" * 20_000 + "\n",
    "object": "name: !!python/object/apply:os.system ['touch /tmp/victim']\n",
    "binary": "\x00\x01\x02",
    "list": "- name\n",
    "empty": "",
}


@pytest.mark.parametrize("kind", _CONFIGURATIONS)
def test_configurations(kind: str, home: Path, refused: Refused) -> None:
    (home / "study.yaml").write_text(_CONFIGURATIONS[kind])
    assert "study.yaml" in refused("check", home / "study.yaml")


def test_special_files_are_no_input(home: Path, model: Path, refused: Refused) -> None:
    (home / "data").mkdir()
    for name in ("study.yaml", "cases.csv"):
        os.mkfifo(home / name)
    (home / "data" / "manifest.csv").mkdir()
    refused("check", home / "study.yaml")
    refused("check", home / "cases.csv")
    refused("check", home / "data")
    refused("predict", model, home / "cases.csv", "--output", home / "out")
    os.mkfifo(home / "scan.nii.gz")
    refused("predict", model, home / "scan.nii.gz", "--output", home / "out")


def test_deep_json_and_long_cells(home: Path, model: Path, refused: Refused) -> None:
    data = home / "data"
    data.mkdir()
    (data / "dataset.json").write_text('{"labels": ' + "[" * 100_000 + "]" * 100_000 + "}")
    refused("check", data)
    (home / "cases.csv").write_text(f'case,T1\n"{"x" * 200_000}",scan.nii.gz\n')
    refused("check", home / "cases.csv")
    copy = Path(shutil.copytree(model, home / "model"))
    (copy / "model.json").write_text("[" * 100_000)
    refused("predict", copy, _image(home / "scan.nii.gz"), "--output", home / "out")


_HEADERS = {
    "absolute": ("scan.mhd", "ElementDataFile = /etc/passwd"),
    "parent": ("scan.mhd", "ElementDataFile = ../victim/thesis.txt"),
    "list": ("scan.mhd", "ElementDataFile = LIST\n../victim/thesis.txt"),
    "nrrd": ("scan.nhdr", "data file: /etc/passwd"),
    "nrrd parent": ("scan.nhdr", "data file: ../victim/thesis.txt"),
}


@pytest.mark.parametrize("kind", _HEADERS)
def test_headers_that_point_elsewhere(kind: str, home: Path, model: Path, refused: Refused) -> None:
    name, line = _HEADERS[kind]
    if name.endswith("mhd"):
        text = (
            f"ObjectType = Image\nNDims = 3\nDimSize = 3 3 1\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n{line}\n"
        )
    else:
        text = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 3 3 3\nspacings: 1 1 1\nencoding: raw\n{line}\n"
    (home / name).write_text(text)
    assert "years" not in refused("predict", model, home / name, "--output", home / "out")


@pytest.mark.parametrize("damage", ["cut", "flipped", "zeros"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_damaged_scans(damage: str, suffix: str, home: Path, model: Path, refused: Refused) -> None:
    import SimpleITK as sitk

    path = home / f"scan{suffix}"
    noise = np.random.default_rng(0).normal(100, 20, (40, 40, 40)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), useCompression=True)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "cut": whole[:middle],
            "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
            "zeros": whole[:middle] + bytes(len(whole) - middle),
        }[damage]
    )
    refused("predict", model, path, "--output", home / "out")


def _edited(model: Path, folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    copy = Path(shutil.copytree(model, folder))
    raw = json.loads((copy / "model.json").read_text())
    edit(raw)
    (copy / "model.json").write_text(json.dumps(raw))
    _sums(copy)
    return copy


def _sums(folder: Path) -> None:
    """Makes the checksums fit, as an attacker would."""
    files = sorted(p for p in folder.iterdir() if p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value: float, home: Path, model: Path, refused: Refused) -> None:
    copy = Path(shutil.copytree(model, home / "model"))
    weights = copy / "member-00.safetensors"
    from safetensors import safe_open

    with safe_open(weights, "numpy") as stream:
        about = stream.metadata()
    # As bytes: mapped tensors would go with the file that is written over.
    tensors = load(weights.read_bytes())
    name = max(tensors, key=lambda key: tensors[key].size)
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[3] = value
    save_file(tensors, weights, metadata=about)
    _sums(copy)
    refused("predict", copy, _image(home / "scan.nii.gz"), "--output", home / "out")
    refused("export", copy, "--output", home / "bundle", "--set", "onnx=false")


@pytest.mark.parametrize("name", ["$__import__('os').system('touch /tmp/victim')", "@network", "%configs/x"])
def test_a_channel_name_that_a_bundle_would_evaluate(name: str, home: Path, model: Path, refused: Refused) -> None:
    def rename(raw: dict[str, Any]) -> None:
        raw["channels"] = [name for _ in raw["channels"]]

    copy = _edited(model, home / "model", rename)
    refused("export", copy, "--output", home / "bundle", "--set", "onnx=false")
    assert not (home / "bundle").exists()


def test_trailing_bytes_are_no_damage(home: Path, model: Path) -> None:
    path = _image(home / "scan.nii.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())) + b"garbage!")
    assert main(["predict", str(model), str(path), "--output", str(home / "out"), "--jobs", "1"]) == 0

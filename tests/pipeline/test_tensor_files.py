"""Tensors on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import WorkspaceError
from pipeline.storage.tensors import load_about, load_arrays, load_tensors, save_arrays, save_tensors

ABOUT = {"network": 3, "classes": ["é", "b"], "affine": [[1.5, 0.0], [0.0, 2.0]], "cycle": 0, "a": None, "z": True}


def test_tensors_and_their_description_come_back(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2], dtype=torch.int64)}
    save_tensors(tmp_path / "x.safetensors", tensors, ABOUT)
    loaded = load_tensors(tmp_path / "x.safetensors")
    assert set(loaded) == {"a", "b"}
    assert all(torch.equal(loaded[k], tensors[k]) and loaded[k].dtype == tensors[k].dtype for k in tensors)
    assert load_about(tmp_path / "x.safetensors") == ABOUT
    assert set(load_tensors(tmp_path / "x.safetensors", names=["a"])) == {"a"}


def test_arrays_that_are_not_contiguous_come_back(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    save_arrays(tmp_path / "x.safetensors", {"image": array, "mask": array[::2] > 3})
    loaded = load_arrays(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(loaded["image"], array)
    np.testing.assert_array_equal(loaded["mask"], array[::2] > 3)
    assert load_about(tmp_path / "x.safetensors") == {}


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    tensors = {name: torch.full((3,), float(i)) for i, name in enumerate("fedcba")}
    contents = set()
    for attempt in range(8):
        path = tmp_path / f"{attempt}.safetensors"
        order = sorted(tensors, key=lambda name, k=attempt: hash((name, k)))
        about = {key: ABOUT[key] for key in sorted(ABOUT, key=lambda name, k=attempt: hash((name, k)))}
        save_tensors(path, {name: tensors[name] for name in order}, about)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_shared_and_transposed_tensors_are_saved_as_they_look(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    save_tensors(tmp_path / "x.safetensors", {"a": weight, "b": weight, "c": weight.T})
    loaded = load_tensors(tmp_path / "x.safetensors")
    assert torch.equal(loaded["b"], weight)
    assert torch.equal(loaded["c"], weight.T)


@pytest.mark.parametrize("load", [load_arrays, load_tensors, load_about])
def test_damaged_and_missing_files_are_named(tmp_path: Path, load) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(WorkspaceError, match=r"x\.safetensors"):
        load(path)
    save_tensors(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WorkspaceError, match="delete its folder and run again"):
        load(path)


def test_a_name_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(WorkspaceError):
        load_tensors(tmp_path / "x.safetensors", names=["b"])

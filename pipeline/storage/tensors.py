"""Tensors on disk: safetensors files whose metadata is one key of sorted JSON.

Several metadata keys come back in random order and would break the equality of bytes; and nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file as _save_arrays
from safetensors.torch import save_file as _save_tensors

from data.errors import WorkspaceError
from pipeline.storage.atomic import temporary_sibling

_KEY = "graft"


def metadata(about: Mapping[str, Any] | None) -> dict[str, str]:
    """Puts a JSON-able description into the one metadata key that our files have."""
    return {_KEY: json.dumps(about or {}, sort_keys=True)}


def save_arrays(path: Path, arrays: Mapping[str, NDArray], about: Mapping[str, Any] | None = None) -> None:
    """Writes numpy arrays and a JSON-able description, atomically."""
    with temporary_sibling(path) as temporary:
        _save_arrays({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary, metadata(about))


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any] | None = None) -> None:
    """Writes torch tensors and a JSON-able description, atomically."""
    with temporary_sibling(path) as temporary:
        whole = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        _save_tensors(whole, temporary, metadata(about))


def damaged(path: Path, error: Exception) -> WorkspaceError:
    """Says that a file cannot be read."""
    return WorkspaceError(
        f"{path}: cannot be read ({error})", expected="a whole safetensors file", fix="delete its folder and run again"
    )


def load_arrays(path: Path) -> dict[str, NDArray]:
    """Reads all arrays of a file.

    Raises:
        WorkspaceError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as stream:
            return {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (no iteration over the stream)
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from error


def load_tensors(
    path: Path, device: str | torch.device = "cpu", names: Iterable[str] | None = None
) -> dict[str, torch.Tensor]:
    """Reads tensors of a file to a device: those named, or all of them.

    Raises:
        WorkspaceError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as stream:
            keys = stream.keys() if names is None else names
            return {key: stream.get_tensor(key) for key in keys}
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from error


def load_about(path: Path) -> dict[str, Any]:
    """Reads the description of a file without its tensors.

    Raises:
        WorkspaceError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as stream:
            return json.loads((stream.metadata() or {}).get(_KEY, "{}"))
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from error

"""Tensors on disk: safetensors files whose metadata is one key of sorted JSON.

Several metadata keys would be written in random order, so that equal files would differ. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
    """Puts a JSON-able description into the single metadata key of our files."""
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
    """The error of a file that cannot be read."""
    return WorkspaceError(
        f"{path}: cannot be read ({error})", expected="a whole safetensors file", fix="delete its folder and run again"
    )


@contextmanager
def reading(path: Path, framework: str) -> Iterator[Any]:
    """Opens a file; nothing in it is trusted.

    Raises:
        WorkspaceError: it is missing or damaged, or holds values of an unsupported type.
    """
    try:
        with safe_open(path, framework=framework) as stream:
            yield stream
    except (SafetensorError, OSError, AttributeError, TypeError, ValueError, RecursionError) as error:
        # Types that numpy lacks raise an AttributeError or a TypeError in the library.
        raise damaged(path, error) from error


def require_finite(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Returns the tensor if all of its values are finite: a network with others would silently predict nothing.

    Raises:
        WorkspaceError: a value is infinite or NaN.
    """
    # Floating-point types of one byte have no `isfinite`.
    known = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
    if (known.is_floating_point() or known.is_complex()) and not bool(torch.isfinite(known).all()):
        raise WorkspaceError(
            f"{path}: `{name}` holds infinite values or NaN",
            expected="finite values",
            fix="copy the file again, or delete its folder and run its stage again",
        )
    return tensor


def load_arrays(path: Path) -> dict[str, NDArray]:
    """Reads all arrays of a file.

    Raises:
        WorkspaceError: the file is missing or damaged.
    """
    with reading(path, "numpy") as stream:
        return {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (no iteration over the stream)


def load_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Reads the named tensors of a file, or all of them.

    Raises:
        WorkspaceError: the file is missing or damaged, lacks a tensor, or holds values that are not finite.
    """
    with reading(path, "pt") as stream:
        keys = list(stream.keys() if names is None else names)
        found = {key: stream.get_tensor(key) for key in keys}
    return {key: require_finite(path, key, tensor) for key, tensor in found.items()}


def load_about(path: Path) -> dict[str, Any]:
    """Reads the description of a file without its tensors.

    Raises:
        WorkspaceError: the file is missing or damaged.
    """
    with reading(path, "numpy") as stream:
        about = json.loads((stream.metadata() or {}).get(_KEY, "{}"))
        if not isinstance(about, dict):
            raise ValueError(f"its description is a {type(about).__name__}, not a mapping")
        return about

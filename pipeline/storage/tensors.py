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
from safetensors.torch import load as _load
from safetensors.torch import save_file as _save_tensors

from data.errors import GraftError, WorkspaceError
from pipeline.storage.atomic import temporary_sibling

_KEY = "graft"
_NOT_FINITE = "infinite values or NaN"
_UNREADABLE = (SafetensorError, OSError, AttributeError, TypeError, ValueError, RecursionError)
"""What the library raises on damaged files; unknown types are an AttributeError or the like."""


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
    except _UNREADABLE as error:
        raise damaged(path, error) from error


def require_finite(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Returns the tensor if all of its values are finite: a network with others would silently predict nothing.

    Raises:
        WorkspaceError: a value is infinite or NaN.
    """
    if not _finite(tensor):
        raise WorkspaceError(
            f"{path}: `{name}` holds {_NOT_FINITE}",
            expected="finite values",
            fix="copy the file again, or delete its folder and run its stage again",
        )
    return tensor


def _finite(tensor: torch.Tensor) -> bool:
    # Floating-point types of one byte have no `isfinite`.
    known = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
    return not (known.is_floating_point() or known.is_complex()) or bool(torch.isfinite(known).all())


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


def parse_tensors(content: bytes, where: object, error: type[GraftError], fix: str) -> dict[str, torch.Tensor]:
    """Reads tensors from the content of a safetensors file; nothing in it is trusted.

    Args:
        content: of the file.
        where: what it was read from, for the message.
        error: the class of the error.
        fix: what the user can do about it.

    Raises:
        GraftError: it is damaged, or holds numbers that are not finite.
    """
    try:
        found = _load(content)
    except (*_UNREADABLE, KeyError) as cause:
        raise error(f"{where}: cannot be read ({cause})", expected="a whole safetensors file", fix=fix) from cause
    for key, tensor in found.items():
        if not _finite(tensor):
            raise error(f"{where}: `{key}` holds {_NOT_FINITE}", expected="finite values", fix=fix)
    return found


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

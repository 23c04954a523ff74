"""`dataset.json`, as the Medical Segmentation Decathlon and nnU-Net write it: channels and labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import DataError

DATASET_FILE = "dataset.json"


def peek(root: Path) -> dict[str, Any] | None:
    """Returns the content of `dataset.json` if the folder has one.

    Raises:
        DataError: it is not a JSON object.
    """
    path = root / DATASET_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error})", expected="a JSON file in UTF-8", fix="correct it at that place"
        ) from error
    if not isinstance(content, dict):
        raise _wrong(path, f"holds a {type(content).__name__}", "a JSON object", "see the layouts in the documentation")
    return content


def _wrong(path: Path, found: str, expected: str, fix: str) -> DataError:
    return DataError(f"{path}: {found}", expected=expected, fix=fix)


def _whole_number(value: object) -> int | None:
    try:
        number = int(str(value))
    except ValueError:
        return None
    return number if number >= 0 else None


def channel_names(path: Path, content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Reads the names of the channels, in order of their numbers.

    A name that occurs twice (`{"0": "MR", "1": "MR"}`) gets its number.

    Args:
        path: the file, for messages.
        content: what it holds.
        key: `modality` (MSD) or `channel_names` (nnU-Net).

    Raises:
        DataError: the key is missing or is not an object of the numbers 0, 1, … → names.
    """
    channels = content.get(key)
    if isinstance(channels, list):
        channels = {str(number): name for number, name in enumerate(channels)}
    expected = f'`"{key}": {{"0": "T1"}}`'
    if not isinstance(channels, dict) or not channels:
        raise _wrong(path, f"`{key}` is {'missing' if channels is None else 'not an object'}", expected, f"add `{key}`")
    numbered = {_whole_number(number): str(name).strip() for number, name in channels.items()}
    if set(numbered) != set(range(len(channels))) or not all(numbered.values()):
        raise _wrong(path, f"`{key}` has the keys {', '.join(channels)}", expected, "number the channels from 0 on")
    names = [numbered[i] for i in range(len(channels))]
    return tuple(name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names))


def label_names(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """Reads the labels, written value → name (MSD) or name → value (nnU-Net), as value → name.

    nnU-Net's regions (name → list of values) declare their values: a value has the name of the region that is that
    value alone, else `label VALUE`.

    Raises:
        DataError: the key is missing, or a value is not a whole number, or has two names.
    """
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        found = f"`labels` is {'missing' if labels is None else 'not an object of names and values'}"
        raise _wrong(path, found, '`"labels": {"0": "background", "1": "liver"}`', "add `labels`")
    pairs: list[tuple[object, str]] = []
    if all(_whole_number(key) is not None and isinstance(name, str) for key, name in labels.items()):
        pairs = list(labels.items())
    else:
        for name, value in labels.items():
            pairs += (
                [(v, name if len(value) == 1 else "") for v in value] if isinstance(value, list) else [(value, name)]
            )
    names: dict[int, str] = {}
    for value, name in pairs:
        number = _whole_number(value)
        if number is None:
            raise _wrong(
                path, f"label {name!r} has the value {value!r}", "a whole number from 0 on", "correct `labels`"
            )
        if name and names.get(number):
            raise _wrong(path, f"label value {number} has two names", "one name for each value", "correct `labels`")
        names[number] = name or names.get(number, "")
    names.setdefault(0, "background")
    return {value: names[value] or f"label {value}" for value in sorted(names)}

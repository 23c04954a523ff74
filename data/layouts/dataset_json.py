"""`dataset.json`, as the Medical Segmentation Decathlon and nnU-Net write it: channels and labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.input_file import is_there, read_json
from data.label_map import LARGEST_LABEL
from data.layouts.ignored_labels import refuse_ignored

DATASET_FILE = "dataset.json"
BACKGROUND = "background"


def peek(root: Path) -> dict[str, Any] | None:
    """Returns the content of `dataset.json` if the folder has one.

    Raises:
        DataError: it is not a regular file, or not a JSON object.
    """
    path = root / DATASET_FILE
    if not is_there(path):
        return None
    content = read_json(path)
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

    Raises:
        DataError: the key is missing or is not an object of the numbers 0, 1, … → names.
    """
    channels = content.get(key)
    if isinstance(channels, list):
        channels = {str(number): name for number, name in enumerate(channels)}
    expected = f'`"{key}": {{"0": "T1"}}`'
    if not isinstance(channels, dict) or not channels:
        found = "missing" if channels is None else "empty" if channels == {} else "not an object"
        raise _wrong(path, f"`{key}` is {found}", expected, f"correct `{key}`")
    for number, name in channels.items():
        if not isinstance(name, str) or not name.strip():
            raise _wrong(path, f"`{key}` gives channel {number} the name {name!r}", expected, f"correct `{key}`")
    numbered = {_whole_number(number): name.strip() for number, name in channels.items()}
    if set(numbered) != set(range(len(channels))):
        raise _wrong(path, f"`{key}` has the keys {', '.join(channels)}", expected, "number the channels from 0")
    names = [numbered[i] for i in range(len(channels))]
    return tuple(name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names))


def label_names(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """Reads the labels, written value → name (MSD) or name → value (nnU-Net), as value → name.

    nnU-Net writes a region of one value as a list, too (`"core": [2]`).

    Raises:
        DataError: the key is missing, or a value is not a whole number or has two names; or a label is a region of
            several values or marks voxels to ignore, which Graft does not support.
    """
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        found = "missing" if labels is None else "empty" if labels == {} else "not an object of names and values"
        raise _wrong(path, f"`labels` is {found}", '`"labels": {"0": "background", "1": "liver"}`', "correct `labels`")
    pairs: list[tuple[object, str]]
    if all(_whole_number(key) is not None for key in labels) and any(isinstance(n, str) for n in labels.values()):
        for value, name in labels.items():
            if not isinstance(name, str):
                raise _wrong(path, f"label value {value} has the name {name!r}", "text", "correct `labels`")
        pairs = list(labels.items())
    else:
        pairs = [(_single_value(path, name, value), name) for name, value in labels.items()]
    names: dict[int, str] = {}
    for value, name in pairs:
        number = _whole_number(value)
        if number is None or number > LARGEST_LABEL:
            expected = f"a whole number from 0 to {LARGEST_LABEL}"
            raise _wrong(path, f"label {name!r} has the value {value!r}", expected, "correct `labels`")
        if number and name.strip().lower() == BACKGROUND:
            raise _wrong(path, f"label {name!r} has the value {number}", "the value 0", "renumber the labels")
        if number in names:
            raise _wrong(path, f"label value {number} has two names", "one name for each value", "correct `labels`")
        names[number] = name or f"label {number}"
    names.setdefault(0, BACKGROUND)
    refuse_ignored(path, names)
    return dict(sorted(names.items()))


def _single_value(path: Path, name: str, value: object) -> object:
    if not isinstance(value, list):
        return value
    if len(value) > 1:
        found = f"label {name!r} is a region of the values {', '.join(str(v) for v in value)}"
        fix = (
            "name each value on its own and join them with `foreground` in the study; "
            "regions that overlap come in a later version"
        )
        raise _wrong(path, found, "one value for each label", fix)
    return value[0] if value else value


def path_inside(root: Path, key: str, text: str) -> Path:
    """Returns the path of a file that `dataset.json` names, relative to it; it may be a link to anywhere.

    Raises:
        DataError: the path leads out of the folder.
    """
    folder = os.path.abspath(root)
    if "\0" in text or not Path(os.path.normpath(os.path.join(folder, text))).is_relative_to(folder):
        fix = "move the file there or link to it, or write a CSV manifest, which may name files anywhere"
        found = f"`{key}` names {text!r}, which is outside the dataset's folder"
        raise _wrong(root / DATASET_FILE, found, "a path inside it", fix)
    return root / text

"""`dataset.json`, as the Medical Segmentation Decathlon and nnU-Net write it: channels and labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.ignored_labels import ignored_values
from data.input_file import is_there, read_json
from data.label_map import LARGEST_LABEL

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

    nnU-Net writes regions as lists (`"core": [2]`, `"whole": [1, 2]`); a value that only regions of several have is
    called `label 1` and so on. Its label `ignore` is one of them, see `Dataset.ignored`.

    Raises:
        DataError: the key is missing, or a value is not a whole number or has two names.
    """
    labels = _labels(path, content)
    names: dict[int, str] = {}
    if all(_whole_number(key) is not None for key in labels) and any(isinstance(n, str) for n in labels.values()):
        for value, name in labels.items():
            if not isinstance(name, str):
                raise _wrong(path, f"label value {value} has the name {name!r}", "text", "correct `labels`")
            _add(path, names, name, value)
    else:
        for name, value in labels.items():
            if not _is_region(value):
                _add(path, names, name, value[0] if isinstance(value, list) and value else value)
    for values in label_regions(path, content).values():
        for number in values:
            names.setdefault(number, f"label {number}")
    names.setdefault(0, BACKGROUND)
    return dict(sorted(names.items()))


def label_regions(path: Path, content: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Reads nnU-Net's regions as name → values: all structures that are declared, if one of them has several values.

    The key `regions_class_order`, in which nnU-Net flattens regions into one label map, is not needed.

    Raises:
        DataError: the key `labels` is missing, or a value of a region is no whole number, the background, twice in it,
            or that of voxels to ignore.
    """
    labels = _labels(path, content)
    if not any(_is_region(value) for value in labels.values()):
        return {}
    regions: dict[str, tuple[int, ...]] = {}
    for name, value in labels.items():
        values = value if isinstance(value, list) else [value]
        regions[name] = tuple(_number(path, name, own) for own in values)
        if len(set(regions[name])) < len(values) or (_is_region(value) and 0 in regions[name]):
            raise _wrong(path, f"label {name!r} is a region of the values {', '.join(map(str, values))}",
                         "values above 0, each once", "correct `labels`")  # fmt: skip
    ignored = set(ignored_values({own[0]: name for name, own in regions.items() if len(own) == 1}))
    structures = {
        name: own for name, own in regions.items() if own != (0,) and not (len(own) == 1 and own[0] in ignored)
    }
    for name, own in structures.items():
        if ignored & set(own):
            found = f"label {name!r} holds the value {min(ignored & set(own))}, which marks voxels without annotation"
            raise _wrong(path, found, "other values", "correct `labels`")
    return structures


def _labels(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        found = "missing" if labels is None else "empty" if labels == {} else "not an object of names and values"
        raise _wrong(path, f"`labels` is {found}", '`"labels": {"0": "background", "1": "liver"}`', "correct `labels`")
    return labels


def _is_region(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1


def _number(path: Path, name: str, value: object) -> int:
    number = _whole_number(value)
    if number is None or number > LARGEST_LABEL:
        expected = f"a whole number from 0 to {LARGEST_LABEL}"
        raise _wrong(path, f"label {name!r} has the value {value!r}", expected, "correct `labels`")
    return number


def _add(path: Path, names: dict[int, str], name: str, value: object) -> None:
    """Adds the name of a label of one value."""
    number = _number(path, name, value)
    if number and name.strip().lower() == BACKGROUND:
        raise _wrong(path, f"label {name!r} has the value {number}", "the value 0", "renumber the labels")
    if number in names:
        raise _wrong(path, f"label value {number} has two names", "one name for each value", "correct `labels`")
    names[number] = name or f"label {number}"


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

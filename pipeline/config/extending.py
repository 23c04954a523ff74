"""A study that extends another: its file says what differs, and inherits the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from data.errors import ConfigError
from data.input_file import require_regular_file
from data.option_faults import fault_at
from data.options import Options
from pipeline.config.merging import has_key, merged, without_key
from pipeline.config.variables import filled_in
from pipeline.storage.yaml_file import read_yaml

_NOT_INHERITED = "workspace"
"""Two studies share no folder."""


class ExtendingOptions(Options):
    """Keys of a file alone: the study that it stands for does not have them."""

    extends: str | None = Field(default=None, min_length=1)
    """Another study file, relative to the folder of this one, whose keys this one inherits. Keys of this file are added
    and win: mappings are merged key by key, everything else, such as a list of arms, is replaced. That file may extend
    a third. `workspace` is never inherited."""
    without: tuple[str, ...] = ()
    """Keys, as in `target_training.arms`, that are not inherited: they are left out, or begin anew with what this file
    says of them."""


_KEYS = tuple(ExtendingOptions.model_fields)


@dataclass(frozen=True)
class ExtendedStudy:
    """A study with all that its file inherits.

    Attributes:
        content: key → value, merged.
        files: the study's file and those that it extends, one after the other, each with its own keys.
    """

    content: dict[str, Any]
    files: tuple[tuple[Path, Mapping[str, Any]], ...]

    def origin(self, key: Sequence[str]) -> Path:
        """The file that gives a key its value; the study's own where none does."""
        own, _ = self.files[0]
        return next((path for path, raw in self.files if has_key(raw, ".".join(key))), own)


def extended(raw: dict[str, Any], path: Path) -> ExtendedStudy:
    """Merges a study with the files that it extends.

    Args:
        raw: what its file holds.
        path: of the file.

    Raises:
        ConfigError: a file is missing or no YAML, files extend each other in a circle, or `without` names a key that
            is not inherited.
    """
    files: list[tuple[Path, dict[str, Any], ExtendingOptions]] = []
    while True:
        options = _options(raw, path)
        files.append((path, {key: value for key, value in raw.items() if key not in _KEYS}, options))
        if options.extends is None:
            break
        base = path.parent / filled_in(options.extends, path)
        require_regular_file(base, f"the study that {path} extends", ConfigError, f"correct `extends` in {path}")
        if base.resolve() in (known.resolve() for known, _, _ in files):
            raise ConfigError(
                f"{path}: extends {base}, which is or extends this file",
                expected="files that do not extend each other in a circle",
                fix="remove one `extends`",
            )
        path, raw = base, read_yaml(base)
    content: dict[str, Any] = {}
    for own_path, own, options in reversed(files):
        content = _arms_by_name(merged(_inherited(content, options, own_path), own))
    return ExtendedStudy(deepcopy(content), tuple((own_path, _arms_by_name(own)) for own_path, own, _ in files))


def _options(raw: dict[str, Any], path: Path) -> ExtendingOptions:
    try:
        options = ExtendingOptions.model_validate({key: raw[key] for key in _KEYS if key in raw})
    except ValidationError as error:
        raise ConfigError(f"{path}: {fault_at(error)}", fix="correct the value") from error
    if options.without and options.extends is None:
        raise ConfigError(f"{path}: `without` stands in a file that extends none", fix="add `extends`, or remove it")
    return options


def _inherited(base: dict[str, Any], options: ExtendingOptions, path: Path) -> dict[str, Any]:
    for key in options.without:
        if not has_key(base, key):
            raise ConfigError(
                f"{path}: `without` names `{key}`, which is not inherited from {options.extends}",
                expected="keys that the other file has, as in `target_training.arms`",
                fix="correct or remove it",
            )
        base = without_key(base, key)
    return {key: value for key, value in base.items() if key != _NOT_INHERITED}


def _arms_by_name(raw: dict[str, Any]) -> dict[str, Any]:
    """Turns a list of arms into a mapping: one can be changed alone, by a file that extends this one or by `--set`."""
    training = raw.get("target_training")
    if isinstance(training, dict) and isinstance(training.get("arms"), list):
        arms = training["arms"]
        if all(isinstance(arm, str) for arm in arms):
            return {**raw, "target_training": {**training, "arms": dict.fromkeys(arms)}}
    return raw

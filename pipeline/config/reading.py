"""Reading a configuration: YAML, environment variables, overrides, and errors that name the key."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from data.errors import ConfigError
from pipeline.config.study import StudyConfig

CommandOptions = TypeVar("CommandOptions", bound=BaseModel)

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def read_config(path: Path, overrides: Sequence[str] = (), workspace: Path | None = None) -> StudyConfig:
    """Reads and validates a study.

    Args:
        path: a YAML file.
        overrides: `a.b=value`, the value in YAML; they win over the file.
        workspace: wins over the file's.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, or a value is not allowed.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path}: there is no such configuration",
            expected="a YAML file",
            fix="name one, such as configs/demo.yaml",
        )
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(f"{path}{line}: is not valid YAML", expected="key: value pairs", fix="correct it") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no keys", expected="key: value pairs", fix="start from configs/demo.yaml")
    _name_arms(raw)
    for override in overrides:
        set_key(raw, override)
    if workspace is not None:
        raw["workspace"] = str(workspace)
    try:
        return StudyConfig.model_validate(_filled_in(raw, path))
    except ValidationError as error:
        raise _explained(error, path) from error


def _name_arms(raw: dict[str, Any]) -> None:
    """Turns a list of arms into a mapping, so that `--set inference.arms.dwp.draws=4` reaches one of them."""
    inference = raw.get("inference")
    if isinstance(inference, dict) and isinstance(inference.get("arms"), list):
        arms = inference["arms"]
        if all(isinstance(arm, str) for arm in arms):
            raw["inference"] = {**inference, "arms": dict.fromkeys(arms)}


def set_key(raw: dict[str, Any], override: str) -> None:
    """Sets one key of a nested mapping from `a.b=value`, the value in YAML.

    Raises:
        ConfigError: the text is no such assignment, or leads through a key that holds none.
    """
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"--set {override}: is no assignment", expected="a.b=value", fix="correct it")
    node = raw
    *parents, last = key.split(".")
    for part in parents:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: `{part}` holds no keys", expected="a key that does", fix="correct it")
        node = child
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML", fix="quote it") from error


def read_command_options(
    command: str, model: type[CommandOptions], overrides: Sequence[str], given: Mapping[str, Any] | None = None
) -> CommandOptions:
    """Reads `--set a.b=c` of a command apart from a study, and its own options, which win.

    Args:
        command: name of the command; its how-to page is `docs/how-to/COMMAND.md`.
        model: the options that it takes.
        overrides: assignments, the values in YAML.
        given: options that the command line has a name of their own for.

    Raises:
        ConfigError: an option is unknown or not allowed.
    """
    raw: dict[str, Any] = {}
    for override in overrides:
        set_key(raw, override)
    try:
        return model.model_validate(raw | dict(given or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"graft {command}: `{key}`: {first['msg']}", fix=f"see docs/how-to/{command}.md") from error


def _filled_in(value: Any, path: Path) -> Any:
    """Fills in `${NAME}` and `${NAME:-default}` in every string."""

    def fill(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise ConfigError(
                f"{path}: the environment variable {match['name']} is not set",
                expected="a value for it",
                fix=f"set it, or write a default as ${{{match['name']}:-folder}}",
            )
        return found

    if isinstance(value, str):
        return _VARIABLE.sub(fill, value)
    if isinstance(value, dict):
        return {key: _filled_in(child, path) for key, child in value.items()}
    if isinstance(value, list):
        return [_filled_in(child, path) for child in value]
    return value


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models among the alternatives of a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _follow(location: Iterable[str | int]) -> tuple[list[str], list[str]]:
    """Follows a location of pydantic's.

    Returns:
        the parts that a user writes (no tags of alternatives), and the keys that are known where all but the last lead.
    """
    annotation: Any = StudyConfig
    written: list[str] = []
    known: list[str] = []
    for part in location:
        models = [] if get_origin(annotation) is dict else _models(annotation)
        tagged = [m for m in models if any(part in get_args(f.annotation) for f in m.model_fields.values())]
        if tagged and not any(part in model.model_fields for model in models):
            annotation = tagged[0]
            continue
        written.append(str(part))
        known = [key for model in models for key in model.model_fields]
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        else:
            fields = (model.model_fields.get(str(part)) for model in models)
            annotation = next((field.annotation for field in fields if field is not None), None)
    return written, known


def _explained(error: ValidationError, path: Path) -> ConfigError:
    first = error.errors()[0]
    location, known = _follow(first["loc"])
    key = ".".join(location) or "the configuration"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], known, n=1)
        fix = f"write `{near[0]}`" if near else "remove or correct it"
        expected = f"one of {', '.join(known)}" if known else "a known key"
        return ConfigError(f"{path}: the key `{key}` is unknown{more}", expected=expected, fix=fix)
    if first["type"] == "missing":
        return ConfigError(f"{path}: the key `{key}` is missing{more}", expected="a value for it", fix="add it")
    message = first["msg"].removeprefix("Value error, ")
    value = first.get("input")
    shown = f" is {value!r}" if isinstance(value, str | int | float | bool) else ""
    return ConfigError(f"{path}: `{key}`{shown}{more}: {message}", fix="correct the value")


def as_yaml(config: StudyConfig) -> str:
    """Writes the resolved configuration: every default spelled out; it can be read again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)

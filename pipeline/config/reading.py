"""Reading a configuration: YAML, environment variables, overrides, and errors that name the key.

The models of the options import torch, which takes seconds, so they are imported only after the checks that do not
need them.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from data.errors import ConfigError
from data.input_file import DEEPEST
from data.option_faults import fault_at, first_fault
from pipeline.execution.backend_options import FORMER_BACKENDS
from pipeline.storage.file_names import CONFIG
from pipeline.storage.yaml_file import parse_yaml, problem, read_yaml

if TYPE_CHECKING:
    from pipeline.config.study import StudyConfig

CommandOptions = TypeVar("CommandOptions", bound=BaseModel)

RENAMED_KEYS = {"inference": "target_training", "inference.window": "sliding_window"}
"""Former names, for configurations of an earlier version."""

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def read_config(path: Path, overrides: Sequence[str] = (), workspace: Path | None = None) -> StudyConfig:
    """Reads and validates a study.

    Args:
        path: a YAML file.
        overrides: `a.b=value`, the value in YAML; they win over the file.
        workspace: wins over the file's.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value is not allowed.
    """
    return parse_config(read_yaml(path), path, overrides, workspace)


def parse_config(
    raw: dict[str, Any],
    path: Path,
    overrides: Sequence[str] = (),
    workspace: Path | None = None,
    resolved: bool = False,
) -> StudyConfig:
    """Validates the raw content of a configuration.

    Args:
        raw: key → value; modified in place.
        path: of the file, for errors.
        overrides: `a.b=value`, the value in YAML; they win over the content.
        workspace: wins over that of the content.
        resolved: whether a command wrote it, with all that the source pack decides; then the pack is not looked at.

    Raises:
        ConfigError: a key is unknown, or a value is not allowed.
        PackError: the source pack that it names cannot be used.
    """
    _name_arms(raw)
    if resolved or path.name == CONFIG:
        _use_new_words(raw)
    for override in overrides:
        set_key(raw, override)
    if workspace is not None:
        raw["workspace"] = str(workspace)
    known = study_keys()
    unknown = [str(key) for key in raw if key not in known]
    if unknown:
        raise _unknown(path, unknown[0], unknown[0], known, len(unknown))
    filled_in = _filled_in(raw, path)

    from pipeline.config.source_pack import filled_from, pack_of, require_densities
    from pipeline.config.study import StudyConfig

    pack = None if resolved else pack_of(filled_in)
    try:
        config = StudyConfig.model_validate(filled_in if pack is None else filled_from(filled_in, pack, path))
    except ValidationError as error:
        raise _explained(error, path) from error
    if pack is not None:
        require_densities(config, pack, path)
    return config


def _use_new_words(raw: dict[str, Any]) -> None:
    """Replaces former names in a configuration that a command of an earlier version wrote."""
    execution = raw.get("execution")
    if isinstance(execution, dict) and execution.get("backend") in FORMER_BACKENDS:
        raw["execution"] = {**execution, "backend": FORMER_BACKENDS[execution["backend"]]}


def study_keys() -> list[str]:
    """Returns the keys of `StudyConfig`, read from its source: importing it takes seconds."""
    source = ast.parse(Path(__file__).with_name("study.py").read_text(encoding="utf-8"))
    study = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "StudyConfig")
    fields = (node.target for node in study.body if isinstance(node, ast.AnnAssign))
    return [target.id for target in fields if isinstance(target, ast.Name)]


def _name_arms(raw: dict[str, Any]) -> None:
    """Turns a list of arms into a mapping, so that `--set target_training.arms.dwp.draws=4` reaches one of them."""
    training = raw.get("target_training")
    if isinstance(training, dict) and isinstance(training.get("arms"), list):
        arms = training["arms"]
        if all(isinstance(arm, str) for arm in arms):
            raw["target_training"] = {**training, "arms": dict.fromkeys(arms)}


def set_key(raw: dict[str, Any], override: str) -> None:
    """Sets one key of a nested mapping from `a.b=value`, the value in YAML.

    Raises:
        ConfigError: the text is not such an assignment, or a key on the way does not hold keys.
    """
    key, sign, value = override.partition("=")
    shown = override if len(override) <= 200 else f"{override[:200]}…"
    *parents, last = key.split(".")
    if not sign or not key or len(parents) > DEEPEST:
        raise ConfigError(f"--set {shown}: is not an assignment", expected="a.b=value", fix="correct it")
    node = raw
    for part in parents:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"--set {shown}: `{part}` holds no keys", expected="a key that holds keys", fix="correct it"
            )
        node = child
    try:
        node[last] = parse_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {shown}: the value is not valid YAML ({problem(error)})", fix="quote it") from error


def read_command_options(
    command: str,
    model: type[CommandOptions],
    overrides: Sequence[str],
    given: Mapping[str, Any] | None = None,
    page: str | None = None,
) -> CommandOptions:
    """Reads `--set a.b=c` of a command that needs no study, and its own options, which win.

    Args:
        command: name of the command.
        model: the options that it takes.
        overrides: assignments, the values in YAML.
        given: options with their own name on the command line.
        page: of the documentation; by default `how-to/COMMAND.md`.

    Raises:
        ConfigError: an option is unknown or not allowed.
    """
    raw: dict[str, Any] = {}
    for override in overrides:
        set_key(raw, override)
    try:
        return model.model_validate(raw | dict(given or {}))
    except ValidationError as error:
        page = page or f"how-to/{command}.md"
        raise ConfigError(f"graft {command}: {fault_at(error)}", fix=f"see docs/{page}") from error


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
    """The option models among the alternatives of a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _follow(location: Iterable[str | int]) -> tuple[list[str], list[str]]:
    """Follows a location reported by pydantic.

    Returns:
        The parts that a user writes (without tags of alternatives), and the known keys at the place of the last one.
    """
    from pipeline.config.study import StudyConfig

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


def _places(name: str) -> list[str]:
    """Other places in the configuration with a key of this name, except below names that the user chooses."""
    from pipeline.config.study import StudyConfig

    found: list[str] = []
    below: list[tuple[str, type[BaseModel]]] = [("", StudyConfig)]
    while below:
        path, model = below.pop()
        for key, field in model.model_fields.items():
            found += [path + key] if key == name else []
            if get_origin(field.annotation) is not dict:
                below += [(f"{path}{key}.", inner) for inner in _models(field.annotation)]
    return list(dict.fromkeys(found))


def _explained(error: ValidationError, path: Path) -> ConfigError:
    first = error.errors()[0]
    place, message = first_fault(error)
    location, known = _follow(place)
    key = ".".join(location) or "the configuration"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return _unknown(path, key, location[-1], known, error.error_count(), _places(location[-1]))
    if first["type"] == "missing":
        return ConfigError(f"{path}: the key `{key}` is missing{more}", expected="a value for it", fix="add it")
    value = first.get("input")
    shown = f" is {value!r}" if isinstance(value, str | int | float | bool) else ""
    return ConfigError(f"{path}: `{key}`{shown}{more}: {message}", fix="correct the value")


def _unknown(
    path: Path, key: str, last: str, known: Sequence[str], count: int, places: Sequence[str] = ()
) -> ConfigError:
    """Makes the error; a key that exists in exactly one other place was meant for that place or moved there."""
    renamed = [new for former, new in RENAMED_KEYS.items() if former.split(".")[-1] == key.split(".")[-1]]
    near = renamed or (places if len(places) == 1 else difflib.get_close_matches(last, known, n=1))
    return ConfigError(
        f"{path}: the key `{key}` is unknown{f' (and {count - 1} more)' if count > 1 else ''}",
        expected=f"one of {', '.join(known)}" if known else "a known key",
        fix=f"write `{near[0]}`" if near else "remove or correct it",
    )


def as_yaml(config: StudyConfig) -> str:
    """Writes the resolved configuration, with every default spelled out, so that it can be read again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)

"""Reading a configuration: YAML, environment variables, overrides, and errors that name the key.

The models of the options import torch, which takes seconds, so they are imported only after the checks that do not
need them.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from data.errors import ConfigError
from data.input_file import DEEPEST
from data.option_faults import fault_at, first_fault
from pipeline.config.extending import ExtendedStudy, ExtendingOptions, extended
from pipeline.config.variables import filled_in
from pipeline.execution.backend_options import FORMER_BACKENDS
from pipeline.storage.file_names import CONFIG
from pipeline.storage.yaml_file import parse_yaml, problem, read_yaml

if TYPE_CHECKING:
    from pipeline.config.study import StudyConfig

CommandOptions = TypeVar("CommandOptions", bound=BaseModel)

RENAMED_KEYS = {"inference": "target_training", "inference.window": "sliding_window"}
"""Former names, for configurations of an earlier version."""


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
        raw: key → value.
        path: of the file; a file that it extends is looked for beside it, and errors name it.
        overrides: `a.b=value`, the value in YAML; they win over the content.
        workspace: wins over that of the content.
        resolved: whether a command wrote it, with all that the source pack decides; then the pack is not looked at.

    Raises:
        ConfigError: a key is unknown, or a value is not allowed.
        PackError: the source pack that it names cannot be used.
    """
    study = extended(raw, path)
    content, given = study.content, dict[str, Any]()
    if resolved or any(file.name == CONFIG for file, _ in study.files):
        _use_new_words(content)
    for override in overrides:
        set_key(content, override)
        set_key(given, override)
    if workspace is not None:
        content["workspace"] = given["workspace"] = str(workspace)
    # What the command line says is said of the file that it names.
    study = replace(study, files=((path, given), *study.files))
    _require_known(study, path)
    filled = filled_in(content, path)

    from pipeline.config.source_pack import filled_from, pack_of, require_densities
    from pipeline.config.study import StudyConfig

    pack = None if resolved else pack_of(filled)
    try:
        config = StudyConfig.model_validate(filled if pack is None else filled_from(filled, pack, path))
    except ValidationError as error:
        raise _explained(error, study) from error
    if pack is not None:
        require_densities(config, pack, path)
    return config


def _require_known(study: ExtendedStudy, path: Path) -> None:
    """Refuses keys that no study has, before all that takes seconds to import."""
    known = study_keys()
    of_files = list(ExtendingOptions.model_fields)
    unknown = [str(key) for key in study.content if key not in known]
    if not unknown:
        return
    if unknown[0] in of_files:
        raise ConfigError(
            f"{path}: `{unknown[0]}` is said with --set, and a file says it of itself",
            expected="keys of a study",
            fix=f"write `{unknown[0]}` into the file",
        )
    raise _unknown(study.origin(unknown[:1]), unknown[0], unknown[0], [*of_files, *known], len(unknown))


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


def _explained(error: ValidationError, study: ExtendedStudy) -> ConfigError:
    first = error.errors()[0]
    place, message = first_fault(error)
    location, known = _follow(place)
    path = study.origin(location)
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

"""The reference page of the configuration, made from the option models."""

from __future__ import annotations

import ast
import enum
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from data.modality import Modality
from pipeline.arms.presets import PRESETS
from pipeline.config.extending import ExtendingOptions
from pipeline.config.study import StudyConfig
from preprocessing.chain import PreprocessingOptions, default_options

NAME = "NAME"
"""Stands in keys for a name that the user chooses."""

_WORDS = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text", Path: "path", Any: "anything"}
_WORDS[JsonValue] = "anything"
_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "multiple_of": "a multiple of {}"}


@dataclass
class Place:
    """A model of options and the keys under which it stands.

    Attributes:
        model: its class.
        paths: e.g. `source_training.optimiser`; empty text for the study itself.
    """

    model: type[BaseModel]
    paths: list[str] = field(default_factory=list)


def unwrapped(annotation: Any) -> Any:
    """Strips `Annotated`."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def members(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation alone."""
    annotation = unwrapped(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for member in typing.get_args(annotation) for part in members(member)]
    return [annotation]


def children(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Models inside a field, each with what its keys have after the field's: nothing, or `.NAME` in a mapping."""
    for member in members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            yield "", member
        elif typing.get_origin(member) is dict:
            for inner, model in children(typing.get_args(member)[1]):
                yield f".{NAME}{inner}", model


def places(model: type[BaseModel] = StudyConfig) -> dict[type[BaseModel], Place]:
    """All models of options below a model, in the order of the keys."""
    found: dict[type[BaseModel], Place] = {}

    def visit(current: type[BaseModel], path: str) -> None:
        place = found.setdefault(current, Place(current))
        if path in place.paths:
            return
        place.paths.append(path)
        for name, info in current.model_fields.items():
            for suffix, child in children(info.annotation):
                visit(child, f"{path}.{name}{suffix}".lstrip("."))

    visit(model, "")
    return found


def type_text(annotation: Any, bounds: str = "") -> str:
    """Describes the values that a field takes; the bounds follow the values that they bound."""
    parts = []
    for member in members(annotation):
        arguments, origin = typing.get_args(member), typing.get_origin(member)
        if member is types.NoneType:
            continue
        if origin is typing.Literal:
            parts += [f"`{value}`" for value in arguments]
        elif origin is tuple and arguments[-1] is not Ellipsis:
            parts.append(f"list of {len(arguments)} ({type_text(arguments[0])})")
        elif origin is tuple:
            parts.append(f"list ({type_text(arguments[0])})")
        elif origin is dict:
            parts.append(f"mapping of names to {type_text(arguments[1])}")
        elif isinstance(member, type) and issubclass(member, enum.Enum):
            parts += [f"`{value.value}`" for value in member]
        elif isinstance(member, type) and issubclass(member, BaseModel):
            parts.append("options")
        else:
            parts.append(_WORDS[member])
    nothing = [" or `null`"] if types.NoneType in members(annotation) else []
    return " or ".join(dict.fromkeys(parts)) + bounds + "".join(nothing)


def bounds_text(info: FieldInfo) -> str:
    """Describes the bounds of a field, with a leading comma, or nothing."""
    found = [text.format(getattr(m, name)) for m in info.metadata for name, text in _BOUNDS.items() if hasattr(m, name)]
    return "".join(f", {text}" for text in found)


def _plain(value: Any) -> Any:
    """The word of an enumeration, and any other value as it is."""
    return value.value if isinstance(value, enum.Enum) else value


def default_text(info: FieldInfo) -> str:
    """Prints a default as YAML; options with keys of their own are described there."""
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel):
        kind = {"kind", "name"} & set(type(value).model_fields)
        return f"`{getattr(value, kind.pop())}`" if kind else "its defaults"
    if isinstance(value, Mapping) and any(isinstance(v, BaseModel) for v in value.values()):
        return ", ".join(f"`{key}`" for key in value)
    plain = [_plain(own) for own in value] if isinstance(value, tuple) else _plain(value)
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000, allow_unicode=True)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


@cache
def member_docs(kind: type[enum.Enum]) -> dict[str, str]:
    """Value → doc line of each member of an enumeration, read from its source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for statement, following in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            text = following.value.value if isinstance(following, ast.Expr) else ""  # type: ignore[attr-defined]
            docs[str(kind[statement.targets[0].id].value)] = " ".join(str(text).split())
    return docs


def enumerations(annotation: Any) -> Iterator[type[enum.Enum]]:
    """The enumerations that a field takes values of, also inside lists and mappings."""
    for member in members(annotation):
        if isinstance(member, type) and issubclass(member, enum.Enum):
            yield member
        for argument in typing.get_args(member):
            if argument is not Ellipsis and typing.get_origin(member) in (tuple, dict):
                yield from enumerations(argument)


def cell(text: str) -> str:
    """Makes text fit a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def discriminator(model: type[BaseModel]) -> str:
    """Says which `kind` or `name` chooses a model among several, or nothing."""
    for name, info in model.model_fields.items():
        if typing.get_origin(info.annotation) is typing.Literal:
            return f" with `{name}: {typing.get_args(info.annotation)[0]}`"
    return ""


def meaning(info: FieldInfo) -> str:
    """The description of a field, or else the first line of its options'."""
    if info.description:
        return info.description
    if typing.get_origin(info.annotation) is typing.Literal:
        return "Chooses these options."
    models = [model for _, model in children(info.annotation)]
    return (inspect.getdoc(models[0]) or "").split("\n\n")[0] if models else ""


def model_section(place: Place, title: str = "The study") -> str:
    """One model: a heading with its keys (or a title), a table, and what the values of enumerations mean."""
    heading = ", ".join(f"`{path}`" for path in place.paths if path) or title
    lines = [f"## {heading}{discriminator(place.model)}", "", " ".join((inspect.getdoc(place.model) or "").split()), ""]
    if not place.model.model_fields:
        return "\n".join(lines).strip()
    lines += ["| key | values | default | meaning |", "|---|---|---|---|"]
    kinds: dict[str, type[enum.Enum]] = {}
    for name, info in place.model.model_fields.items():
        values = cell(type_text(info.annotation, bounds_text(info)))
        default = default_text(info)
        if (place.model is PreprocessingOptions and name != "threads") or info.annotation is PreprocessingOptions:
            default = "by modality"
        lines.append(f"| `{name}` | {values} | {cell(default)} | {cell(meaning(info))} |")
        kinds |= dict.fromkeys([name], kind) if (kind := next(enumerations(info.annotation), None)) else {}
    for name, kind in kinds.items():
        lines += ["", f"Values of `{name}`:", ""]
        lines += [f"- `{value}`: {text}" for value, text in member_docs(kind).items()]
    return "\n".join(lines)


def chain_table() -> str:
    """Which steps run on which modality, with the settings that differ from the step's own defaults."""
    chains = {modality: default_options(modality) for modality in Modality}
    lines = ["| step | " + " | ".join(f"`{m}`" for m in chains) + " |", "|---" * (len(chains) + 1) + "|"]
    for step in PreprocessingOptions.model_fields:
        options = [getattr(chain, step) for chain in chains.values()]
        if step != "threads":
            lines.append(f"| {step} | " + " | ".join(_step_text(o) for o in options) + " |")
    return "\n".join(lines)


def _step_text(options: BaseModel | None) -> str:
    if options is None:
        return "–"
    changed = options.model_dump(mode="json", exclude_defaults=True)
    return ", ".join(["yes", *(f"{key}: {value}" for key, value in changed.items())])


def preset_table() -> str:
    """The named arms, each with its choices."""
    choices = ["init", "trainable", "prior", "spared", "layer_scale", "posterior", "unlabelled"]
    choices += ["members", "peak_rate", "warm_up"]
    titles = ["arm", *choices, "posterior_temperature", "logit_temperature", "mask", "voxel_correlation"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, arm in PRESETS.items():
        temperature = f"{arm.posterior_temperature:g}" if arm.needs_prior else "–"
        pull = [arm.spared.value, arm.layer_scale.value] if arm.needs_prior else ["–", "–"]
        values = [arm.init.value, arm.trainable.value, arm.prior, *pull]
        values += [arm.posterior.kind, arm.unlabelled.kind, arm.members, arm.peak_rate]
        correlation = "–" if arm.voxel_correlation is None else f"{arm.voxel_correlation:g}"
        values += [arm.warm_up, temperature, f"{arm.logit_temperature:g}", arm.mask.value, correlation]
        lines.append(f"| `{name}` | " + " | ".join(str(value) for value in values) + " |")
    return "\n".join(lines)


_CONFIG_HEAD = f"""# Configuration

A study is one YAML file, which may [extend another](#a-file-that-extends-another); `graft STAGE CONFIG` reads it.
Unknown keys are refused. `${{NAME}}` and `${{NAME:-default}}` in values are filled in from the environment.
`--set a.b=value` on the command line wins over the file. The resolved configuration, every default written out, is
saved as `config.resolved.yaml` in the workspace.

Each heading below is a place in the file; the first column of its table has the keys that may stand there. `{NAME}` is
a name of your choice. Where a heading lists several places, the same keys stand at each.
"""


def config_page() -> str:
    """The page of all keys of a study."""
    pieces = [_CONFIG_HEAD.strip(), model_section(Place(ExtendingOptions), "A file that extends another")]
    for place in places().values():
        pieces.append(model_section(place))
        if place.model is StudyConfig:
            pieces.append(
                f"Keys of `preprocessing` are those of `datasets.{NAME}.preprocessing`. The chain of a dataset is its "
                "modality's default, then the study's `preprocessing`, then the dataset's own. `null` switches a step "
                "off, `{}` switches it on with its defaults."
            )
        if place.model is PreprocessingOptions:
            pieces.append("Defaults by modality (– is off):\n\n" + chain_table())
    pieces.append("## Presets of arms\n\nWhat `target_training.arms` may name, and their choices.\n\n" + preset_table())
    return "\n\n".join(pieces) + "\n"

"""The reference page of the command line, made from the typer application."""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer.models
from config_reference import cell, members

from pipeline.cli import app


def parameters(callback: Callable[..., Any]) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, annotation, typer's description and default of each parameter of a command."""
    for name, parameter in inspect.signature(callback, eval_str=True).parameters.items():
        annotation, info = typing.get_args(parameter.annotation)[:2]
        yield name, annotation, info, parameter.default


def option_names(name: str, info: Any) -> str:
    """The flags of an option, or the metavar of an argument."""
    if isinstance(info, typer.models.ArgumentInfo):
        return str(info.metavar or name.upper())
    # In `Annotated`, typer keeps the first flag as the default.
    first = (info.default,) if isinstance(info.default, str) else ()
    return ", ".join((*first, *(info.param_decls or ())) or (f"--{name.replace('_', '-')}",))


def value_text(annotation: Any, info: Any) -> str:
    """The value that an option takes, as in usage; nothing for a switch."""
    plain = next(m for m in members(annotation) if m is not types.NoneType)
    if plain is bool:
        return ""
    if info.metavar:
        return str(info.metavar)
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return "|".join(str(value.value) for value in plain)
    plain = typing.get_args(plain)[0] if typing.get_origin(plain) is list else plain
    least = "" if info.min is None else f" (≥ {info.min:g})"
    return {int: "N", float: "X", str: "TEXT", Path: "PATH"}[plain] + least


def parameter_row(name: str, annotation: Any, info: Any, default: Any) -> str:
    """One line of a table of options."""
    if isinstance(info, typer.models.ArgumentInfo):
        shown = f"`{option_names(name, info)}`"
    else:
        value = value_text(annotation, info)
        flag, _, bound = value.partition(" (")
        shown = f"`{option_names(name, info)}{' ' + flag if flag else ''}`" + (f" ({bound}" if bound else "")
    required = default is inspect.Parameter.empty
    printed = "required" if required else "" if default is None or default is False else f"`{default}`"
    return f"| {shown.replace('|', chr(92) + '|')} | {cell(info.help or '')} | {printed} |"


def table(rows: list[str]) -> str:
    """A table of options."""
    return "\n".join(["| option | meaning | default |", "|---|---|---|", *rows])


_CLI_HEAD = """# Command line

{help}

Usage: `graft [OPTIONS] COMMAND [ARGS]`. The options of every command may stand before its name or after it.
"""

_CLI_NOTES = """`graft version` takes them only before its name. `graft predict` has no `--workspace`, and its
`--jobs` are scans at a time, 1 by default; `graft export` has `--set` and `--debug` only, `graft init` has neither
`--set` nor `--workspace`. `--set` changes the
configuration of the study; for `graft synthesize` the keys of the cohort (those of `datasets.NAME.synthetic`), for
[`graft predict`](../how-to/predict.md) and [`graft export`](../how-to/export.md) options of their own.

`GRAFT_DEBUG=1` in the environment is the same as `--debug`. Exit codes: 0 done; 1 a bug, or warnings under
`graft check --strict`; 2 an error that you can fix, reported in one sentence; 75 stopped by a signal, run the same
command again; 130 stopped with Ctrl-C."""


def cli_page() -> str:
    """The page of all commands."""
    callback = app.registered_callback.callback if app.registered_callback else None
    assert callback is not None
    shared = list(parameters(callback))
    common = {name for name, *_ in shared}
    pieces = [_CLI_HEAD.format(help=app.info.help).strip()]
    pieces += ["## Options of every command", table([parameter_row(*p) for p in shared]), _CLI_NOTES]
    for info in app.registered_commands:
        assert info.callback is not None
        name = info.name or info.callback.__name__.replace("_", "-")
        own = [p for p in parameters(info.callback) if p[0] not in common]
        arguments = "".join(f" {option_names(p[0], p[2])}" for p in own if isinstance(p[2], typer.models.ArgumentInfo))
        text = info.help or inspect.getdoc(info.callback) or ""
        pieces += [f"## `graft {name}{arguments}`", text]
        if own:
            pieces.append(table([parameter_row(*p) for p in own]))
    return "\n\n".join(pieces) + "\n"

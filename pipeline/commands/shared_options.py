"""Options that several commands share; they can stand before or after the name of a command."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Device(StrEnum):
    """Where to train."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class SharedOptions:
    """The shared options of a command, and where its results go."""

    overrides: tuple[str, ...] = ()
    workspace: Path | None = None
    jobs: int | None = None
    device: Device = Device.AUTO
    debug: bool = False
    place: Path | None = None
    """Folder of the results."""


ALL: Mapping[str, Any] = {
    "overrides": Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key of the configuration, as in a.b=c; repeatable."
        ),
    ],
    "workspace": Annotated[Path | None, typer.Option("--workspace", metavar="DIR", help="Folder of the results.")],
    "jobs": Annotated[
        int | None, typer.Option("--jobs", min=1, help="Units of work at a time [default: one per core].")
    ],
    "device": Annotated[Device | None, typer.Option("--device", help="Where to train [default: auto].")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show tracebacks and details.")],
}
"""Name → type and help of the option."""

NetworkCode = Annotated[
    bool,
    typer.Option("--allow-network-code", help="Run the model's network if it is code outside Graft that you trust."),
]

_state = SharedOptions()


def current() -> SharedOptions:
    """The shared options given so far."""
    return _state


def reset_options(debug: bool) -> None:
    """Forgets the options of an earlier command in this process."""
    global _state
    _state = SharedOptions(debug=debug)


def results_go_to(place: Path) -> None:
    """Records where the results go, for the message about a full disk."""
    global _state
    _state = replace(_state, place=place)


def take(
    overrides: list[str] | None = None,
    workspace: Path | None = None,
    jobs: int | None = None,
    device: Device | None = None,
    debug: bool = False,
) -> SharedOptions:
    """Merges options given here with those given before; the later ones win."""
    global _state
    _state = SharedOptions(
        (*_state.overrides, *(overrides or ())),
        workspace or _state.workspace,
        jobs or _state.jobs,
        device or _state.device,
        debug or _state.debug,
    )
    logging.getLogger().setLevel(logging.DEBUG if _state.debug else logging.INFO)
    return _state


def as_words(options: SharedOptions) -> list[str]:
    """The words of a command line that give these options."""
    words = [word for override in options.overrides for word in ("--set", override)]
    for name, value in (("--workspace", options.workspace), ("--jobs", options.jobs)):
        words += [] if value is None else [name, str(value)]
    return [*words, "--device", options.device.value, *(["--debug"] if options.debug else [])]


Command = Callable[..., None]


def with_shared_options(*names: str, **reworded: Any) -> Callable[[Command], Command]:
    """Adds shared options to a command, which gets them together as its first argument.

    Args:
        names: of the options; all if there are none.
        reworded: options with another help for this command.
    """
    chosen = {name: (reworded.get(name, ALL[name]), False if name == "debug" else None) for name in names or ALL}
    return with_options(chosen, take)


def with_options(options: Mapping[str, tuple[Any, Any]], gather: Callable[..., Any]) -> Callable[[Command], Command]:
    """Adds a group of options to a command, after its own.

    Args:
        options: name → type with its help, and default.
        gather: makes of their values what the command gets as its first argument.
    """

    def decorate(command: Command) -> Command:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        def called(*before: Any, **given: Any) -> None:
            command(gather(**{name: given.pop(name) for name in options}), *before, **given)

        added = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ]
        called.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        return called

    return decorate

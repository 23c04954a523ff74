"""Stopping within a long step: the runner of the chain is asked repeatedly whether it still wants the result.

Steps do not know who runs them. The chain sets whom to ask, and the loops of a step ask, which costs next to nothing.
N4 cannot be stopped: ITK's filter ignores a request to abort, and the step takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_asked: ContextVar[Callable[[], None]] = ContextVar("asked", default=lambda: None)


@contextmanager
def asking(ask: Callable[[], None]) -> Iterator[None]:
    """Lets the steps inside the block call `ask`, which raises to stop them."""
    token = _asked.set(ask)
    try:
        yield
    finally:
        _asked.reset(token)


def ask() -> None:
    """Raises what the runner of the chain raises to stop it; to be called in every loop that takes seconds."""
    _asked.get()()


def register(method: Any, fixed: Any, moving: Any) -> None:
    """Executes a SimpleITK registration that asks at each iteration.

    Raises:
        RuntimeError: the registration fails.
    """
    import SimpleITK as sitk

    stopped: list[BaseException] = []

    def at_iteration() -> None:
        # An exception that leaves a callback of ITK loses its type and is printed.
        try:
            ask()
        except BaseException as error:
            stopped.append(error)
            method.StopRegistration()

    method.AddCommand(sitk.sitkIterationEvent, at_iteration)
    try:
        method.Execute(fixed, moving)
    finally:
        method.RemoveAllCommands()
    if stopped:
        raise stopped[0]

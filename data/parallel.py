"""Calls of one function in joblib's worker processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from joblib import Parallel, delayed

Result = TypeVar("Result")


def folder_of_process() -> str | None:
    """Where relative paths begin; None if somebody deleted that folder."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def go_to(folder: str | None) -> None:
    """Makes relative paths mean what they mean to the process that calls the workers.

    joblib keeps its workers for the next call, and they stay in the folder that they were started in.

    Args:
        folder: of `folder_of_process`, in the calling process.
    """
    if folder is not None and folder != folder_of_process():
        os.chdir(folder)


def end_with_command(command: int) -> None:
    """Ties a worker to the command that started it; to be its initializer, before the first call.

    A worker of joblib does not notice that its command was killed: it works on, or waits for ever for somebody who
    takes its result.

    Args:
        command: number of the command's process.
    """
    if os.getppid() != command:
        # The command was killed while this worker was still starting.
        os._exit(1)
    threading.Thread(target=_watch, args=(command,), daemon=True).start()


def _watch(command: int) -> None:
    while os.getppid() == command:
        time.sleep(1.0)
    os._exit(1)


def _call(folder: str | None, function: Callable[..., Result], arguments: tuple) -> Result:
    go_to(folder)
    return function(*arguments)


def in_workers(
    function: Callable[..., Result], calls: Iterable[tuple], jobs: int, *, ordered: bool = False
) -> Iterator[Result]:
    """Carries out the calls, several at a time.

    Args:
        function: of a module, because it is sent by name.
        calls: the arguments of each call.
        jobs: processes; with 1, the calls are made in this one.
        ordered: in the order of the calls, not as they finish.

    Yields:
        What each call returns.
    """
    tasks = (delayed(_call)(folder_of_process(), function, arguments) for arguments in calls)
    yield from Parallel(
        n_jobs=jobs,
        backend="loky",
        return_as="generator" if ordered else "generator_unordered",
        initializer=end_with_command,
        initargs=(os.getpid(),),
    )(tasks)

"""Errors that a user can fix: one sentence with what was found, what is allowed and what to do."""

from __future__ import annotations


class GraftError(Exception):
    """An error caused by input, configuration or environment, never by a bug.

    Args:
        found: what was found, with the path or the key (no final full stop).
        expected: what would have been accepted.
        fix: what the user can do about it, if possible a command.
    """

    exit_code = 2

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        super().__init__(found, expected, fix)
        self.found = found
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        text = self.found
        if self.expected:
            text += f"; expected {self.expected}"
        if self.fix:
            text += f"; to fix it, {self.fix}"
        return text + "."


class DataError(GraftError):
    """A file, a case or a dataset folder is not usable."""


class ConfigError(GraftError):
    """A configuration file or an override is not usable."""


class WorkspaceError(GraftError):
    """A workspace is missing something, is damaged or is in use."""


class PreprocessingError(GraftError):
    """A preprocessing step cannot be run on a case."""


class TrainingError(GraftError):
    """A training cannot start or has to stop."""


class ModelError(GraftError):
    """A network, filter bank, prior or posterior does not fit what it is used for."""

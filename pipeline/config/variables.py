"""Environment variables in the values of a configuration."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from data.errors import ConfigError

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def filled_in(value: Any, path: Path) -> Any:
    """Fills in `${NAME}` and `${NAME:-default}` in every string.

    Args:
        value: of a configuration, nested or not.
        path: of the configuration, for errors.

    Raises:
        ConfigError: a variable is not set, and there is no default.
    """

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
        return {key: filled_in(child, path) for key, child in value.items()}
    if isinstance(value, list):
        return [filled_in(child, path) for child in value]
    return value

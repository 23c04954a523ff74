"""Text from users in a bundle (names of channels, classes, arms and studies, statements of the owner) stays text.

MONAI evaluates strings of a bundle's configuration and metadata: `$…` is Python, `%…` is replaced by the content of a
file, `@…` by another entry. Markdown viewers render HTML and links.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from data.errors import ModelError

_EVALUATED = re.compile(
    r"""
    [$%].*             # an expression, a macro
    | @\w*(?:::\w*)*   # only a reference
    | .*[@%]::.*       # a relative reference or macro, which MONAI also finds inside strings
    """,
    re.VERBOSE | re.DOTALL,
)
"""Strings that `monai.bundle.ConfigParser` evaluates or replaces, once `#` is read as `::`."""
_COMPONENT_KEYS = frozenset({"_target_", "_disabled_", "_requires_", "_desc_", "_mode_"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MARKDOWN = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {c: f"\\{c}" for c in "\\`[]|"})


def require_words(config: Any, file: str) -> None:
    """Refuses a configuration in which MONAI would evaluate or replace a string.

    Args:
        config: content of a file without expressions of ours, JSON-able.
        file: its name, for the message.

    Raises:
        ModelError: names the string.
    """
    for key, text in _strings(config, ""):
        if _EVALUATED.fullmatch(text.replace("#", "::")) or text in _COMPONENT_KEYS:
            raise ModelError(
                f"{file} of the bundle: {text!r} in `{key}` would be evaluated or replaced when MONAI reads it",
                expected="text that does not begin with `$` or `%` and holds no reference with `@`",
                fix="rename the channel, class, arm or study, or change what was given with --set",
            )


def _strings(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yields every string, including keys, with its place."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, own in value.items():
            yield where, str(key)
            yield from _strings(own, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for number, own in enumerate(value):
            yield from _strings(own, f"{where}.{number}")


def in_markdown(value: Any) -> Any:
    """Returns a text as one line of Markdown that shows it literally, without HTML, links, code or tables."""
    return _CONTROL.sub(" ", value).translate(_MARKDOWN) if isinstance(value, str) else value

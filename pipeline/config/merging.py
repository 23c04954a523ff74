"""Nested mappings of a configuration: one that changes another, and keys that are left out."""

from __future__ import annotations

from typing import Any


def merged(base: Any, changes: Any) -> Any:
    """Merges nested mappings; what is not a mapping on both sides is replaced.

    An empty mapping in `changes` in place of `None` turns a step on with its defaults.
    """
    if isinstance(base, dict) and isinstance(changes, dict):
        result = dict(base)
        for key, value in changes.items():
            result[key] = merged(base[key], value) if key in base else value
        return result
    return changes


def has_key(raw: Any, key: str) -> bool:
    """Whether a nested mapping has a key, `a.b` for `b` inside `a`."""
    for part in key.split("."):
        if not isinstance(raw, dict) or part not in raw:
            return False
        raw = raw[part]
    return True


def without_key(raw: dict[str, Any], key: str) -> dict[str, Any]:
    """Returns a nested mapping without a key that it has, `a.b` for `b` inside `a`."""
    first, dot, rest = key.partition(".")
    if not dot:
        return {name: value for name, value in raw.items() if name != first}
    return {**raw, first: without_key(raw[first], rest)}

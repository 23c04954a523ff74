"""Writes a planned study as YAML, each value under a comment that says why it was chosen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

_WIDTH = 118


def study_text(values: Mapping[str, Any], reasons: Mapping[str, str], heading: Sequence[str]) -> str:
    """Returns the YAML.

    Args:
        values: the study, keys in the order in which they are written.
        reasons: dotted key → why it has its value; written above it.
        heading: comment lines above everything.
    """
    lines = [line for text in heading for line in _comment(text, 0)]
    return "\n".join([*lines, *_mapping(values, reasons, "", 0)]) + "\n"


def _mapping(values: Mapping[str, Any], reasons: Mapping[str, str], above: str, depth: int) -> Iterator[str]:
    for key, value in values.items():
        dotted = f"{above}{key}"
        yield from _comment(reasons.get(dotted, ""), depth)
        within = any(reason.startswith(f"{dotted}.") for reason in reasons)
        flow = _flow(value)
        indent = "  " * depth
        if isinstance(value, Mapping) and (within or len(indent) + len(str(key)) + 2 + len(flow) > _WIDTH):
            yield f"{indent}{_flow(key)}:"
            yield from _mapping(value, reasons, f"{dotted}.", depth + 1)
        else:
            yield f"{indent}{_flow(key)}: {flow}"


def _comment(text: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    # A name may hold anything but a line end; a comment ends with its line.
    yield from (f"{indent}# {line}" for line in textwrap.wrap(" ".join(text.split()), _WIDTH - len(indent) - 2))


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")

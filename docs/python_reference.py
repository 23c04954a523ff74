"""The reference page of `import graft`, made from its docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import graft

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")
_ITEM = re.compile(r"^    (?P<name>\*{0,2}\w+): (?P<text>.*)$")
_TITLES = {"Args": "Arguments"}
_HEAD = """# Python interface

{doc}

A `GraftError` is what a user can fix; its text is one sentence. Errors that are named below are of that kind. How to
use it all: [Use Graft from Python](../how-to/use-from-python.md)."""


def markdown(doc: str) -> str:
    """Turns a docstring in Google style into Markdown: its sections become lists."""
    lines, out = inspect.cleandoc(doc).splitlines(), list[str]()
    section = code = False
    for line in lines:
        if match := _SECTION.match(line):
            section = True
            out += [f"{_TITLES.get(match[1], match[1])}:", ""]
        elif section and (item := _ITEM.match(line)):
            out.append(f"- `{item['name']}`: {item['text']}")
        elif section and line.startswith("    "):
            # The text of Returns, or a continued line.
            text = line.strip()
            out.append(f"  {text}" if out[-1] else f"- {text}")
        else:
            section = section and not line
            indented = line.startswith("    ") or (code and not line)
            if indented != code and (indented or code):
                out.append("```text")
                if code and out[-2] == "":
                    # The blank line belongs behind the block.
                    out[-2:] = ["```", ""]
                code = indented
            out.append(line.removeprefix("    ") if code else line)
    return "\n".join([*out, "```"] if code else out).strip()


def signature(function: Any) -> str:
    """The parameters of a function by name, with their defaults."""
    parameters = list(inspect.signature(function).parameters.values())
    shown = [p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.name[0] != "_" and p.name != "self"]
    return str(inspect.Signature(shown))


def _members(kind: type) -> Iterator[str]:
    """Methods and properties that a class has by itself, in the order of its source."""
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property) or hasattr(member, "attrname"):
            yield f"`.{name}`: {' '.join(inspect.cleandoc(member.__doc__ or '').split())}"
        elif inspect.isfunction(member):
            yield f"`.{name}{signature(member)}`\n\n{markdown(member.__doc__ or '')}"


def _entry(name: str, value: Any, level: int = 2) -> list[str]:
    heading = "#" * level
    if isinstance(value, ModuleType):
        pieces = [f"{heading} graft.{name}", markdown(value.__doc__ or "")]
        for own in value.__all__:
            pieces += _entry(f"{name}.{own}", getattr(value, own), level + 1)
        return pieces
    if not isinstance(value, type):
        return [f"{heading} graft.{name}", f"`graft.{name}{signature(value)}`", markdown(value.__doc__ or "")]
    made = "" if issubclass(value, Exception) else f"`graft.{name}{signature(value)}`"
    return [f"{heading} graft.{name}", *([made] if made else []), markdown(value.__doc__ or ""), *_members(value)]


def python_page() -> str:
    """The page of all public names."""
    pieces = [_HEAD.format(doc=inspect.cleandoc(graft.__doc__ or ""))]
    for name in graft.__all__:
        pieces += _entry(name, getattr(graft, name))
    return "\n\n".join(pieces) + "\n"

"""Safe reading of YAML from users: plain values only, without alias bombs, self-references or duplicate keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode

from data.errors import ConfigError
from data.input_file import DEEPEST, read_text

LARGEST = 2**20
"""Bytes of the largest YAML file that is read."""
MOST_VALUES = 100_000
"""Largest number of values in a file, counting those that aliases repeat each time."""

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Counts what aliases stand for while reading, so that an alias bomb is refused before it expands."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._reach = self._values = 0
        self._whole: dict[int, tuple[int, int]] = {}  # node → values and levels below it, once it is read

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event: Any = self.peek_event()
        if isinstance(event, AliasEvent):
            mark: Any = event.start_mark
            node = super().compose_node(parent, index)
            if id(node) not in self._whole:
                raise ComposerError(None, None, "an alias refers to something that contains it", mark)
            values, levels = self._whole[id(node)]
            self._count(values, self._depth + levels, event)
            return node
        values, reach = self._values, self._reach
        self._depth += 1
        self._reach = 0
        self._count(1, self._depth, event)
        node = super().compose_node(parent, index)
        self._whole[id(node)] = (self._values - values, self._reach - self._depth + 1)
        self._reach = max(self._reach, reach)
        self._depth -= 1
        return node

    def _count(self, values: int, reach: int, event: Any) -> None:
        self._values += values
        self._reach = max(self._reach, reach)
        if self._values > MOST_VALUES:
            raise ComposerError(None, None, f"more than {MOST_VALUES} values, aliases included", event.start_mark)
        if self._reach > DEEPEST:
            raise ComposerError(None, None, f"nested more than {DEEPEST} levels deep", event.start_mark)

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node: MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    raise ComposerError(None, None, f"the key {key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:  # such as the 99th of a month
            raise ConstructorError(None, None, str(error), node.start_mark) from error


def parse_yaml(text: str) -> Any:
    """Reads the first document of a YAML text.

    Raises:
        yaml.YAMLError: it is not YAML, too deep, too large, circular, or has a key twice.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file of keys and values.

    Raises:
        ConfigError: it is not a regular file, too large, not YAML (with the line), or holds no keys.
    """
    text = read_text(path, "a YAML file", ConfigError, LARGEST, fix="name a study, such as configs/demo.yaml")
    try:
        raw = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path}{_line(error)}: is not valid YAML ({problem(error)})", expected="key: value pairs", fix="correct it"
        ) from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no keys", expected="key: value pairs", fix="start from configs/demo.yaml")
    return raw


def problem(error: yaml.YAMLError) -> str:
    """Returns a short description of the error."""
    return str(getattr(error, "problem", None) or str(error).splitlines()[0])[:200]


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""

"""A planned study: values, why each was chosen, and what is to be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.packs.pack_record import PackRecord


@dataclass
class Draft:
    """A planned study.

    Attributes:
        values: the study, as its YAML has it.
        reasons: dotted key → why.
        heading: lines above it.
        told: lines for the terminal.
        warnings: what should not go unread.
        pack: what the source pack holds, if one is the source.
    """

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    heading: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pack: PackRecord | None = None

    def add(self, key: str, value: Any, why: str = "") -> None:
        """Sets a key of the study, `a.b` inside `a`, and says why."""
        node = self.values
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
        if why:
            self.reasons[key] = why

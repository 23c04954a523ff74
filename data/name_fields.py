"""Names as fields of options: the rule of `data.names`, reported by pydantic with the key."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from data.names import RULE, alike_fault, label_name_fault, name_fault

Named = TypeVar("Named", bound=Collection[str])


def _refusing(find_fault: Callable[[str], str | None]) -> AfterValidator:
    def follow_rule(name: str) -> str:
        if fault := find_fault(name):
            raise ValueError(f"the name {name[:60]!r} {fault}; names consist of {RULE}")
        return name

    return AfterValidator(follow_rule)


def _require_distinct(names: Named) -> Named:
    """Refuses names of which two could be confused; for a mapping, its keys."""
    if fault := alike_fault(names):
        raise ValueError(fault)
    return names


Name = Annotated[str, _refusing(name_fault)]
"""A name that obeys the rule."""

LabelName = Annotated[str, _refusing(label_name_fault)]
"""A name of a label or class, in which `/` may stand between words."""

Apart = AfterValidator(_require_distinct)
"""Metadata of a mapping or list: no two names could be confused."""

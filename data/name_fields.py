"""Names as fields of options: the rule of `data.names`, told by pydantic with the key."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from data.names import RULE, alike_fault, label_name_fault, name_fault

Named = TypeVar("Named", bound=Collection[str])


def _follow_rule(name: str) -> str:
    fault = name_fault(name)
    if fault:
        raise ValueError(f"the name {name[:60]!r} {fault}; names consist of {RULE}")
    return name


def _follow_label_rule(name: str) -> str:
    fault = label_name_fault(name)
    if fault:
        raise ValueError(f"the name {name[:60]!r} {fault}; names consist of {RULE}")
    return name


def _tell_apart(names: Named) -> Named:
    """Refuses names of which two could be taken for one; of a mapping, its keys."""
    if fault := alike_fault(names):
        raise ValueError(fault)
    return names


Name = Annotated[str, AfterValidator(_follow_rule)]
"""A name that obeys the rule."""

LabelName = Annotated[str, AfterValidator(_follow_label_rule)]
"""A name of a label or class, in which `/` may stand between words."""

Apart = AfterValidator(_tell_apart)
"""Metadata of a mapping or list: no two names could be taken for one."""

"""The templates of the report's pages and of its text."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.report.number_text import counted, listing, percent, plain

_CODE = re.compile(r"`([^`]+)`")


@cache
def page_environment(*, escape: bool = True) -> Environment:
    """Returns the templates; what they lack is an error.

    Args:
        escape: whether everything that goes into them is escaped, as in pages; texts go into pages later.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "listing": listing, "percent": percent, "counted": counted, "code": as_code}
    return environment


def as_code(text: str) -> Markup:
    """Text for people as HTML: what stands between backticks there is set as code, and everything is escaped."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))

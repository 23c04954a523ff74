"""Templates of cards: Markdown in which all that is filled in is shown as it is."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.deployment.bundle_text import in_markdown


@cache
def card_templates() -> Environment:
    """The environment of the templates beside this module."""
    return Environment(
        loader=PackageLoader("pipeline.deployment"),
        # Markdown, not HTML: what is filled in is escaped for it.
        autoescape=False,
        finalize=in_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

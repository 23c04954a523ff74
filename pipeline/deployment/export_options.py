"""Options of an export."""

from __future__ import annotations

from pydantic import Field

from data.options import Options

UNFILLED = "TO BE FILLED IN"
"""Stands where only the owner of the model knows what to write."""


class ExportOptions(Options):
    """What the bundle says of its owner, and what cannot be read from the model."""

    version: str = Field(default="1.0.0", pattern=r"^\d+\.\d+\.\d+$")
    """Version of the bundle."""
    changelog: str = "exported from Graft"
    """What is new in this version."""
    authors: str | None = None
    """Who made the model."""
    copyright: str | None = None
    """Who holds the rights to the model."""
    licence: str | None = None
    """Under which terms the model may be used, in a sentence; the text itself goes into a file LICENSE."""
    contact: str | None = None
    """Whom to ask."""
    intended_use: str | None = None
    """What the model is for; otherwise the card says research on scans like the training cases."""
    data_terms: str | None = None
    """Under which terms the training data may be used, and who approved that they were."""
    onnx: bool = True
    """Write the networks as ONNX too."""

    def unfilled(self) -> list[str]:
        """Options that only the owner can fill in, and has not."""
        owners = ("authors", "copyright", "licence", "contact", "data_terms")
        return [name for name in owners if getattr(self, name) is None]

"""Options of an export."""

from __future__ import annotations

from pydantic import Field

from data.options import Options

UNFILLED = "TO BE FILLED IN"
"""Placeholder for what only the owner of the model knows."""


class ExportOptions(Options):
    """Statements of the owner that cannot be read from the model."""

    version: str = Field(default="1.0.0", pattern=r"^\d+\.\d+\.\d+$")
    """Version of the bundle."""
    changelog: str = "exported from Graft"
    """Changes in this version."""
    authors: str | None = None
    """Who made the model."""
    copyright: str | None = None
    """Who holds the rights to the model."""
    licence: str | None = None
    """Terms under which the model may be used, in a sentence; the full text goes into a file LICENSE."""
    contact: str | None = None
    """Whom to contact."""
    intended_use: str | None = None
    """What the model is for; otherwise the card says research on scans like the training cases."""
    data_terms: str | None = None
    """Terms under which the training data may be used, and who approved their use."""
    onnx: bool = True
    """Also write the networks as ONNX."""

    def unfilled(self) -> list[str]:
        """Options that only the owner can fill in and that are still empty."""
        owners = ("authors", "copyright", "licence", "contact", "data_terms")
        return [name for name in owners if getattr(self, name) is None]

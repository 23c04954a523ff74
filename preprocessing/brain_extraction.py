"""Brain extraction from a raw head of any contrast: the template's mask, warped to the scan."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from data.volume import Volume
from preprocessing.grid import resample
from preprocessing.head_search import HeadSearch, find_head
from preprocessing.step import Interpolation
from preprocessing.template import load_template


class ExtractionOptions(BaseModel):
    """How hard the brain is searched for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: int = Field(default=80, ge=1, description="The most optimiser steps of each affine level.")
    bins: int = Field(default=32, ge=8, description="Histogram bins of the mutual information.")


def extract_brain(volume: Volume, options: ExtractionOptions) -> tuple[Volume, dict[str, Any]]:
    """Returns the brain mask `[X, Y, Z]` uint8 on the scan's grid and the facts for the record."""
    found, followed = find_head(volume, HeadSearch(iterations=options.iterations, bins=options.bins))
    brain = load_template(1.0).brain
    warped = resample(
        Volume(brain.array, found.matrix @ brain.affine), volume.shape, volume.affine, Interpolation.LINEAR, antialias=False
    )
    mask = volume.with_array((warped.array > 0.5).astype(np.uint8))
    return mask, {"metric": found.metric, "starts": followed, "matrix": found.matrix.tolist()}

"""Files of the fitted priors of a study.

fit-priors/GROUP/DENSITY      the fitted density, for the arms
score-priors/GROUP/DENSITY    its log density of held-out filters
compare-priors/GROUP          the scores of all densities side by side, and the choice of `auto`

Each is a unit of the stage `fit-priors`.
"""

from __future__ import annotations

from pathlib import Path

FITS, SCORING, COMPARISON = "fit-priors", "score-priors", "compare-priors"
"""Folders of the workspace."""
DENSITY, FIT = "density.safetensors", "fit.json"
"""Files of a fitted density: its state, and facts of the fit."""
VALUES = "values.safetensors"
"""Log densities of the scored filters, network by network."""
SCORES = "scores.json"
"""The comparison of a group's densities."""


def prior_key(group: str, density: str) -> str:
    """Key of a density's fit and of its score."""
    return f"{group}/{density}"


def density_file(workspace: Path, group: str, density: str) -> Path:
    """The state of a fitted density."""
    return workspace / FITS / prior_key(group, density) / DENSITY

"""The names of the stages, in their order."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """A stage of a study; each needs the stages before it."""

    CHECK = "check"
    """Checks the datasets, and draws source, pool and test patients."""
    PREPROCESS = "preprocess"
    """From raw scans to network input."""
    TRAIN_SOURCE = "train-source"
    """Networks on bootstrap samples of the source patients."""
    COLLECT_FILTERS = "collect-filters"
    """All 3×3×3 filters of all snapshots, by group of layers."""
    FIT_PRIORS = "fit-priors"
    """Densities over the filters of every group."""
    INFER = "infer"
    """Every arm × size × repeat learns the target."""
    EVALUATE = "evaluate"
    """Metrics of every prediction, and comparisons of the arms."""
    REPORT = "report"
    """One page with tables, curves and pictures."""

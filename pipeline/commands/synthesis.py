"""`graft synthesize`: a synthetic cohort outside any study."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.synthetic.cohort import CohortOptions, synthesize
from data.synthetic.cohort_kind import CohortKind
from pipeline.config.reading import read_command_options
from pipeline.execution.progress import StageProgress


def synthesize_cohort(
    out: Path,
    cohort: CohortKind,
    cases: int,
    seed: int,
    channels: Sequence[str] | None,
    overrides: Sequence[str],
    jobs: int | None,
) -> None:
    """Makes a cohort and shows progress; `overrides` (`a.b=value`) set its other options.

    Raises:
        ConfigError: an option is not allowed.
        DataError: the folder holds something else.
    """
    given: dict[str, Any] = {"cohort": cohort.value, "cases": cases, "seed": seed}
    if channels:
        given["channels"] = list(channels)
    options = read_command_options("synthesize", CohortOptions, overrides, given, "reference/config.md")
    folder = out.parent / f".progress-{out.name}"
    keys = [str(index) for index in range(cases)]
    with StageProgress("synthesize", dict.fromkeys(keys, 1.0), folder) as bar:
        waiting = iter(keys)
        synthesize(options, out, jobs or os.cpu_count() or 1, lambda: bar.finished(next(waiting), "done", 0.0, ""))

"""`graft synthesize`: a synthetic cohort outside any study."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.errors import ConfigError
from data.option_faults import fault_at
from data.synthetic.cohort import CohortOptions, synthesize
from data.synthetic.cohort_kind import CohortKind
from pipeline.config.reading import set_key
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
    """Makes a cohort and shows progress.

    Args:
        out: the folder.
        cohort: anatomy and disease.
        cases: how many.
        seed: of the cohort.
        channels: contrasts; the cohort's default if there are none.
        overrides: `a.b=value` for the other options of the cohort.
        jobs: processes; one per core if `None`.

    Raises:
        ConfigError: an option is not allowed.
        DataError: the folder holds something else.
    """
    raw: dict[str, Any] = {}
    for override in overrides:
        set_key(raw, override)
    raw |= {"cohort": cohort.value, "cases": cases, "seed": seed}
    if channels:
        raw["channels"] = list(channels)
    try:
        options = CohortOptions.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"graft synthesize: {fault_at(error)}") from error
    folder = out.parent / f".progress-{out.name}"
    keys = [str(index) for index in range(cases)]
    with StageProgress("synthesize", dict.fromkeys(keys, 1.0), folder) as bar:
        waiting = iter(keys)
        synthesize(options, out, jobs or os.cpu_count() or 1, lambda: bar.finished(next(waiting), "done", 0.0, ""))

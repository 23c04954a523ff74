"""How long preprocessing takes: one scan of each dataset is carried through its chain."""

from __future__ import annotations

import time
from collections.abc import Sequence

from data.case import Case
from pipeline.planning.spacing import Spacing
from preprocessing.chain import Chain, PreprocessingOptions
from preprocessing.resampling import ResamplingOptions
from preprocessing.subject import load_subject


def preparation_seconds(case: Case, channels: Sequence[str], chain: PreprocessingOptions, spacing: Spacing) -> float:
    """Times a chain on one case, with a grid of its own.

    Raises:
        GraftError: the case cannot be read, or a step cannot be carried out on it.
    """
    start = time.perf_counter()
    options = chain.model_copy(update={"resampling": ResamplingOptions(spacing=spacing)})
    Chain(options).apply(load_subject(case, channels))
    return time.perf_counter() - start

"""Results of another configuration are reported in a sentence that fits one result and several."""

from __future__ import annotations

import pytest

from pipeline.stages.stale_results import StaleResult


@pytest.mark.parametrize(
    ("several", "sentence"),
    [
        (False, "was made with other settings or inputs (`steps`: 110, now 120)"),
        (True, "were made with other settings or inputs (`steps`: 110, now 120)"),
    ],
)
def test_one_result_was_made_and_several_were(several: bool, sentence: str) -> None:
    stale = StaleResult("infer", "infer", "a", missing=False, differences=("`steps`: 110, now 120",))
    assert stale.why(several) == sentence

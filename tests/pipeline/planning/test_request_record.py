"""What `graft adapt` was asked for, against what it is asked for now."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import ConfigError
from pipeline.adaptation.request_record import RequestRecord
from pipeline.planning.request import PlanRequest


def record(**changes: object) -> RequestRecord:
    return RequestRecord.of(PlanRequest(Path("scans"), **changes), ())


def test_a_record_of_a_version_without_an_option_is_continued_without_it() -> None:
    earlier = {option: value for option, value in record().asked.items() if option not in ("--tune", "--ignore")}
    RequestRecord(asked=earlier).require_same(record(), "study.yaml")
    RequestRecord(asked=earlier).require_same(record(strict=True), "study.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tune": True}, "was planned with no --tune, and now it is --tune;"),
        ({"ignore": ("255", "unsure")}, "was planned with no --ignore, and now it is --ignore 255,unsure;"),
        ({"source_ignore": ("3",)}, "now it is --source-ignore 3;"),
    ],
)
def test_another_request_is_refused_and_the_option_named(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        record().require_same(record(**changes), "study.yaml")
    assert words in str(refused.value)

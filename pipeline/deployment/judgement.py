"""What a gate says of a scan, whatever it looks at: a score, and how unusual it is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from data.stored_record import StoredRecord
from models.score_tail import ScoreTail

FEATURES = "features"
"""The score by the features of the network that segments."""
AGAIN = "copy the model again, or run `graft infer` of its study again"


class TailRecord(StoredRecord):
    """The tail of a score, as it is stored."""

    mean: float
    """Mean of the scores of training scans, or of their logarithms."""
    deviation: float
    """Their standard deviation."""
    count: int
    """Patients."""
    logarithmic: bool
    """Whether it is that of logarithms."""
    low: float
    """Smallest score."""
    high: float
    """Largest score."""

    def tail(self) -> ScoreTail:
        """The tail itself."""
        return ScoreTail(**self.model_dump())


@dataclass(frozen=True)
class Judgement:
    """What the gate says of a scan.

    Attributes:
        score: its name.
        value: the score of the scan.
        percentile: share of scans like those of the training that have a lower score.
        limit: score at the percentile that is allowed; `None` where none is.
        low: smallest score of the training scans.
        high: largest score of the training scans.
        where: `[X, Y, Z]` on the preprocessed grid, how unlike each place is.
    """

    score: str
    value: float
    percentile: float
    limit: float | None
    low: float
    high: float
    where: Tensor

    @classmethod
    def of(cls, score: str, value: float, tail: ScoreTail, percentile: float, where: Tensor) -> Judgement:
        """Sets a score against those of scans like those of the training; a percentile of 1 allows all."""
        limit = tail.limit(percentile) if percentile < 1 else None
        return cls(score, value, tail.percentile(value), limit, tail.low, tail.high, where)

    @property
    def beyond(self) -> bool:
        """Whether the scan is more unlike than is allowed."""
        return self.limit is not None and self.value > self.limit

    def numbers(self) -> dict[str, float | None]:
        """The numbers of the scan, JSON-able."""
        return {"value": self.value, "percentile": self.percentile, "limit": self.limit}

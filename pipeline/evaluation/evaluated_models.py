"""`results/evaluated.json`: which trained models the result tables are of, and what else they follow from."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from data.stored_record import StoredRecord, record_if_there
from pipeline.storage.atomic import write_record

EVALUATED = "evaluated.json"


class EvaluatedModel(StoredRecord):
    """One trained arm in the tables."""

    model: str | None
    """SHA-256 of its model folder, as the card of a bundle and every prediction name it; `None` where it has none: the
    smaller sizes and later repeats of a cross-validation."""
    evaluation: str
    """Digest of its evaluation's recipe."""


class TableSettings(StoredRecord):
    """What the tables follow from beside the evaluations."""

    resamples: int
    """Bootstrap resamples behind the intervals."""
    rivals: tuple[str, ...]
    """Arms that count as non-Bayesian."""
    seed: int
    """Of the study."""
    folds: int | None = None
    """Of the cross-validation that they are of; `None` for a study with test patients."""


class EvaluatedModels(StoredRecord):
    """What the tables of `results/` are of."""

    units: dict[str, EvaluatedModel] = Field(default_factory=dict)
    """`ARM/nNN/repeat-R` → the model."""
    settings: TableSettings | None = None
    """Settings that the tables follow from beside the evaluations; `None` where an earlier version did not say."""

    def holds(self, model: str) -> bool:
        """Whether the tables hold numbers of the model with this SHA-256."""
        return any(unit.model == model for unit in self.units.values())

    def write(self, results: Path) -> None:
        """Writes it beside the tables."""
        write_record(results / EVALUATED, self)


def read_evaluated(results: Path) -> EvaluatedModels | None:
    """Reads what the tables are of; `None` where that is not written down.

    Raises:
        WorkspaceError: the file is damaged.
    """
    return record_if_there(results / EVALUATED, EvaluatedModels, "run `graft evaluate CONFIG` again")

"""Options of the scans without annotation that arms of a study may learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from data.options import Options

ALL_CASES: Final = "all"


class UnlabelledOptions(Options):
    """Scans of the target whose annotation nobody has, or nobody reads."""

    cases: Literal["all"] | Annotated[int, Field(ge=1, strict=True)] | tuple[str, ...] = ALL_CASES
    """`all` that have no label, a number of them, drawn at random, or their names. Of the target dataset, `all` leaves
    out the scans of patients in the source, the pool or the test set."""
    path: Path | None = None
    """Instead of the target dataset: a folder of images, or a dataset in any known layout; `${VARIABLE:-default}` is
    filled in. A patient of the same name as one of the target is taken for the same person."""
    transductive: bool = False
    """Allow scans of patients in the pool or the test set. Their test scans are then no independent evidence, and the
    report says so."""
    withhold_labels: bool = False
    """Let annotated cases of patients in neither source, pool nor test set stand in for unlabelled ones. Their labels
    are never read: this is how a study on a fully annotated dataset is made, and the report says so."""

    @model_validator(mode="before")
    @classmethod
    def _cases_alone(cls, value: Any) -> Any:
        alone = isinstance(value, int | str | list | tuple) and not isinstance(value, bool)
        return {"cases": value} if alone else value

    @model_validator(mode="after")
    def _names_somebody(self) -> UnlabelledOptions:
        if isinstance(self.cases, tuple):
            if not self.cases:
                raise ValueError("`cases` is an empty list: name cases, or write `all` or a number")
            if twice := [name for name in self.cases if self.cases.count(name) > 1]:
                raise ValueError(f"`cases` names {twice[0]!r} twice: each scan counts once")
        return self

"""Options of a dataset: which folder, which channels, and which labels count as foreground."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from data.dataset import Dataset
from data.modality import Modality
from data.synthetic.cohort import CohortOptions
from pipeline.config.options import Options
from preprocessing.chain import PreprocessingOptions

Label = int | str


class DatasetOptions(Options):
    """One dataset of a study."""

    path: Path | None = None
    """Folder in one of the known layouts, or a CSV manifest; `${VARIABLE:-default}` is filled in."""
    synthetic: CohortOptions | None = None
    """Instead of a path: a synthetic cohort, made in the workspace."""
    modality: Modality
    """Chooses the default chain of preprocessing steps."""
    channels: tuple[str, ...] | None = None
    """Channel names in the order of the network's input; all of the dataset's by default."""
    foreground: tuple[Label, ...] | dict[str, tuple[Label, ...]] = Field(min_length=1)
    """Labels (names or values) that count as foreground, together one class; or class name → labels."""
    label_kind: str | None = None
    """Which of several kinds of labels of a BIDS dataset, such as `manual: dseg`; the only one by default."""
    preprocessing: PreprocessingOptions
    """The chain: the modality's defaults, then the study's `preprocessing`, then this dataset's own keys."""

    @field_validator("foreground", mode="before")
    @classmethod
    def _single_labels(cls, value: object) -> object:
        if isinstance(value, dict):
            return {name: labels if isinstance(labels, list | tuple) else [labels] for name, labels in value.items()}
        return [value] if isinstance(value, int | str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> DatasetOptions:
        if (self.path is None) == (self.synthetic is None):
            raise ValueError("a dataset has either `path` or `synthetic`")
        return self

    @property
    def classes(self) -> dict[str, tuple[Label, ...]]:
        """Class name → labels; a plain list is one class named after its labels."""
        if isinstance(self.foreground, dict):
            return self.foreground
        return {"+".join(str(label) for label in self.foreground): self.foreground}

    def class_values(self, dataset: Dataset) -> dict[str, list[int]]:
        """Class name → values in the label maps of this dataset.

        Raises:
            DataError: a label that the dataset does not declare.
        """
        return {name: dataset.label_values(labels) for name, labels in self.classes.items()}


class SourceOptions(Options):
    """What the source networks learn from."""

    dataset: str
    """Name of a dataset of this study."""
    patients: int | None = Field(default=None, ge=2)
    """Number of patients, drawn by the seed."""
    cases: tuple[str, ...] | None = None
    """Instead of a number: the cases by name."""

    @model_validator(mode="after")
    def _one_choice(self) -> SourceOptions:
        if (self.patients is None) == (self.cases is None):
            raise ValueError("give either `patients` (a number) or `cases` (names)")
        return self


class TargetOptions(Options):
    """What the arms learn and are tested on."""

    dataset: str
    """Name of a dataset of this study."""
    pool: int | None = Field(default=None, ge=1)
    """Number of patients from whom the small training sets are drawn."""
    test: int | None = Field(default=None, ge=1)
    """Number of patients, the same for all arms, on whom every arm is tested."""
    pool_cases: tuple[str, ...] | None = None
    """Instead of a number: the cases of the pool by name."""
    test_cases: tuple[str, ...] | None = None
    """Instead of a number: the cases of the test set by name."""

    @model_validator(mode="after")
    def _one_choice(self) -> TargetOptions:
        numbers, names = (self.pool, self.test), (self.pool_cases, self.test_cases)
        if not (None not in numbers and names == (None, None)) and not (None not in names and numbers == (None, None)):
            raise ValueError("give either `pool` and `test` (numbers) or `pool_cases` and `test_cases` (names)")
        return self

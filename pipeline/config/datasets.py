"""Options of a dataset: folder, channels, and the labels that count as foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from data.dataset import Dataset
from data.errors import DataError
from data.modality import Modality
from data.name_fields import Apart, Name
from data.names import alike_fault, label_name_fault
from data.options import Options
from data.synthetic.cohort import CohortOptions
from models.heads import MOST_REGIONS, Heads
from pipeline.config.unlabelled import UnlabelledOptions
from pipeline.training.translation_options import NoTranslation, Translate
from preprocessing.chain import PreprocessingOptions

Label = int | str


class DatasetOptions(Options):
    """One dataset of a study."""

    path: Path | None = None
    """Folder in one of the known layouts, or a CSV manifest; `${VARIABLE:-default}` is filled in."""
    synthetic: CohortOptions | None = None
    """Instead of `path`: a synthetic cohort, made in the workspace."""
    modality: Modality
    """Chooses the default chain of preprocessing steps."""
    channels: Annotated[tuple[Name, ...], Field(min_length=1), Apart] | None = None
    """Channel names in the order of the network's input; by default all channels of the dataset."""
    foreground: tuple[Label, ...] | dict[str, tuple[Label, ...]] = Field(min_length=1)
    """Labels (names or values) that together form one foreground class; or class name → labels. Classes that share a
    label overlap, as in `{whole: [1, 2, 3], core: [1, 3]}`."""
    ignore: tuple[Label, ...] = ()
    """Labels (names or values) of voxels that nobody has annotated: they count in no loss and no metric. A label that
    the dataset itself calls `ignore` always is one."""
    label_kind: str | None = None
    """Kind of labels of a BIDS dataset that has several, such as `manual: dseg`."""
    preprocessing: PreprocessingOptions
    """The chain: defaults of the modality, changed by the study's `preprocessing`, then by this dataset's own keys."""

    @field_validator("foreground", mode="before")
    @classmethod
    def _single_labels(cls, value: object) -> object:
        if isinstance(value, dict):
            return {name: labels if isinstance(labels, list | tuple) else [labels] for name, labels in value.items()}
        return [value] if isinstance(value, int | str) else value

    @field_validator("ignore", mode="before")
    @classmethod
    def _single_label(cls, value: object) -> object:
        return [value] if isinstance(value, int | str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> DatasetOptions:
        if (self.path is None) == (self.synthetic is None):
            raise ValueError("a dataset has either `path` or `synthetic`")
        return self

    @model_validator(mode="after")
    def _classes_have_names_and_labels(self) -> DatasetOptions:
        for name, labels in self.classes.items():
            if not labels:
                raise ValueError(f"the class {name!r} of `foreground` has no labels")
            if fault := label_name_fault(name):
                raise ValueError(
                    f"the class name {name[:60]!r} {fault}: name the class, as in `foreground: {{lesion: [1, 2]}}`"
                )
        if fault := alike_fault(self.classes, "class"):
            raise ValueError(fault)
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
            DataError: a label that the dataset does not declare, or too many classes that overlap.
        """
        values = {name: dataset.label_values(labels) for name, labels in self.classes.items()}
        if Heads.of(values) is Heads.OVERLAPPING and len(values) > MOST_REGIONS:
            raise DataError(
                f"{dataset.root}: `foreground` has {len(values)} classes, and some of them overlap",
                expected=f"at most {MOST_REGIONS} classes where any overlap",
                fix="leave classes out, or name classes that do not overlap",
            )
        return values

    def ignored_values(self, dataset: Dataset) -> list[int]:
        """Values of voxels without annotation in the label maps of this dataset.

        Raises:
            DataError: a name that the dataset does not declare, the background, or a label of the foreground.
        """
        used = {value for values in self.class_values(dataset).values() for value in values}
        return list(dict.fromkeys([*dataset.ignored, *dataset.ignored_label_values(self.ignore, used)]))


class SourceOptions(Options):
    """What the source networks learn from, or the pack of those that somebody else has trained."""

    dataset: str | None = None
    """Name of a dataset of this study."""
    patients: int | None = Field(default=None, ge=2)
    """Number of patients, drawn at random."""
    cases: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Instead of a number: the cases by name."""
    pack: Path | None = None
    """Instead of a dataset: a source pack, as `graft pack` writes it; it decides `network`, `source_training`,
    `filters` and `priors`."""
    translate: Translate = Field(default_factory=NoTranslation)
    """How source images get the appearance of the target before networks learn from them; labels stay as they are.
    `none`, `histogram`, `fourier` or `random_contrast`, or a mapping with `kind` and its settings."""

    @field_validator("translate", mode="before")
    @classmethod
    def _kind_alone(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_choice(self) -> SourceOptions:
        of_dataset = [key for key in ("dataset", "patients", "cases") if getattr(self, key) is not None]
        if self.pack is not None:
            if of_dataset:
                raise ValueError(f"`pack` takes the place of a dataset: remove `pack` or `{'`, `'.join(of_dataset)}`")
            if not isinstance(self.translate, NoTranslation):
                raise ValueError(
                    f"`translate` is {self.translate.kind}, and a pack holds no images that could be translated: "
                    "remove `translate`, or give the source as a `dataset`"
                )
            return self
        if self.dataset is None:
            raise ValueError("give either `dataset`, the name of a dataset of the study, or `pack`, a source pack")
        if (self.patients is None) == (self.cases is None):
            raise ValueError("give either `patients` (a number) or `cases` (names)")
        return self


LEAVE_ONE_OUT = "leave_one_out"
ALL_PATIENTS = "all"


class TargetOptions(Options):
    """What the arms learn from and are tested on: a pool and separate test patients, or cross-validated patients."""

    dataset: str
    """Name of a dataset of this study."""
    pool: int | None = Field(default=None, ge=1)
    """Number of patients from which the training subsets are drawn."""
    test: int | None = Field(default=None, ge=0)
    """Number of test patients, the same for all arms; with 0 nobody is tested: models without an estimate."""
    pool_cases: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Instead of a number: the cases of the pool by name."""
    test_cases: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Instead of a number: the cases of the test set by name."""
    patients: Literal["all"] | None = None
    """Instead of `pool`: all annotated patients, for cross-validation."""
    folds: Annotated[int, Field(ge=2)] | Literal["leave_one_out"] | None = None
    """Instead of test patients: cross-validation, in which models that never saw a patient of the pool test that
    patient once in each repeat. The final model of each arm learns from all patients."""
    unlabelled: UnlabelledOptions | None = None
    """Scans without annotation: `all`, a number, a list of cases, or a mapping with `cases` and further keys. They are
    checked and preprocessed like the others; arms that want them learn from them."""

    @property
    def tested(self) -> bool:
        """Whether anybody is tested."""
        return self.test != 0

    @property
    def cross_validated(self) -> bool:
        """Whether the annotated patients are cross-validated."""
        return self.folds is not None

    def number_of_folds(self, patients: int) -> int:
        """Number of folds for a number of patients."""
        return patients if self.folds == LEAVE_ONE_OUT else int(self.folds or 0)

    @model_validator(mode="after")
    def _one_choice(self) -> TargetOptions:
        who = [key for key in ("patients", "pool", "pool_cases") if getattr(self, key) is not None]
        if self.cross_validated:
            if self.test is not None or self.test_cases is not None:
                raise ValueError("with `folds`, every annotated patient is tested: remove `test` and `test_cases`")
            if len(who) != 1:
                raise ValueError(
                    "`folds` does not say which patients are cross-validated: give one of `patients: all`, `pool` (a "
                    "number) or `pool_cases` (names)"
                )
            return self
        if self.patients is not None:
            raise ValueError("`patients: all` leaves nobody to test on: add `folds: 5` or `folds: leave_one_out`")
        given = {key for key in ("pool", "test", "pool_cases", "test_cases") if getattr(self, key) is not None}
        if given in ({"pool", "test"}, {"pool_cases", "test_cases"}):
            return self
        for pool, test, example in (("pool", "test", "5"), ("pool_cases", "test_cases", "[case_07, case_08]")):
            if given == {pool}:
                raise ValueError(
                    f"`{test}` is missing: the arms learn from patients of the pool and are measured on others that "
                    f"none of them has seen; set some annotated patients aside, as in `{test}: {example}`, or "
                    "cross-validate, as in `folds: 5`"
                )
            if given == {test}:
                raise ValueError(f"`{pool}` is missing: it says which patients the arms may learn from")
        raise ValueError(
            "give the numbers `pool` and `test` to draw patients, or the lists `pool_cases` and `test_cases`, or "
            "cross-validate with `patients: all` and `folds: 5`"
        )

"""A dataset: cases with their channel and label names, as a layout describes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data.case import Case
from data.checks.finding import Finding
from data.errors import DataError
from data.ignored_labels import ignored_values
from data.label_map import LARGEST_LABEL
from data.names import check_label_names, check_names


@dataclass(frozen=True)
class Dataset:
    """The cases of one folder. Whatever the layout, its names obey the rule of `data.names`.

    Attributes:
        root: the folder.
        layout: name of the layout that was found, e.g. `msd`.
        cases: in order of name.
        channel_names: in the order of the channels.
        label_names: value in the label map → name, the background (0) included.
        has_patients: whether `patients.csv` (or the layout itself) groups the cases; without it each case is a patient.
        findings: what the layout noticed and the checks report, such as files that are not used.
        regions: where the dataset declares regions of several values (nnU-Net), all its structures: name → values.

    Raises:
        DataError: a name breaks the rule, two names of cases, patients or channels could be confused, or the
            background is to be ignored.
    """

    root: Path
    layout: str
    cases: tuple[Case, ...]
    channel_names: tuple[str, ...]
    label_names: Mapping[int, str]
    has_patients: bool
    findings: tuple[Finding, ...] = ()
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names("case", (case.name for case in self.cases), self.root)
        check_names("patient", {case.patient: None for case in self.cases}, self.root)
        # A model finds its channels in any spelling of upper and lower case.
        check_names("channel", self.channel_names, self.root)
        # Tables of labels may repeat a name; `label_values` refuses it where a study uses it.
        check_label_names([*self.label_names.values(), *self.regions], self.root)
        if 0 in self.ignored:
            raise DataError(
                f"{self.root}: the label value 0 has the name {self.label_names[0]!r}",
                expected="0 for the background, and another value for voxels that are not annotated",
                fix="renumber the labels",
            )

    @property
    def ignored(self) -> tuple[int, ...]:
        """Label values of voxels without annotation, by their names."""
        return ignored_values(self.label_names)

    def by_patient(self) -> dict[str, list[Case]]:
        """Patient → cases, patients in order of name."""
        groups: dict[str, list[Case]] = {}
        for case in sorted(self.cases, key=lambda c: (c.patient, c.name)):
            groups.setdefault(case.patient, []).append(case)
        return groups

    def case(self, name: str) -> Case:
        """Returns the case of that name.

        Raises:
            DataError: there is none.
        """
        for case in self.cases:
            if case.name == name:
                return case
        example = f", such as {self.cases[0].name!r}" if self.cases else ""
        raise DataError(
            f"{self.root}: there is no case {name!r}",
            expected=f"one of its {len(self.cases)} cases{example}",
            fix=f"correct the name, or see the cases with `graft check {self.root}`",
        )

    def label_values(self, foreground: Iterable[int | str]) -> list[int]:
        """Translates names of labels and regions (in any case) or values into values, each once, in the given order.

        Raises:
            DataError: a name or value that the dataset does not declare, a name of two values, the background, or a
                label that is to be ignored.
        """
        regions = {name.lower(): values for name, values in self.regions.items()}
        names: dict[str, int] = {}
        shared = set()
        for value, name in self.label_names.items():
            if names.setdefault(name.lower(), value) != value:
                shared.add(name.lower())
        declared = ", ".join(
            f"{value} ({name})" for value, name in self.label_names.items() if value not in (0, *self.ignored)
        )
        values: list[int] = []
        for label in foreground:
            if isinstance(label, str) and label.lower() in regions:
                values += regions[label.lower()]
                continue
            if isinstance(label, str) and label.lower() in shared:
                raise DataError(
                    f"{self.root}: label {label!r} is the name of several values",
                    expected=f"one of {declared}",
                    fix="name the value in `foreground` in the config",
                )
            found = names.get(label.lower()) if isinstance(label, str) else label
            if found is None or found not in self.label_names or found == 0:
                raise DataError(
                    f"{self.root}: label {label!r} is not declared",
                    expected=f"one of {declared}",
                    fix="correct `foreground` in the config, or declare the label in the dataset",
                )
            if found in self.ignored:
                raise DataError(
                    f"{self.root}: label {label!r} is that of voxels without annotation",
                    expected=f"one of {declared}",
                    fix="correct `foreground` in the config",
                )
            values.append(found)
        return list(dict.fromkeys(values))

    def ignored_label_values(self, labels: Iterable[int | str], used: Collection[int] = ()) -> list[int]:
        """Translates names or values of labels that mark voxels without annotation into values.

        Args:
            labels: names that the dataset declares, or values that it may lack.
            used: values of the foreground.

        Raises:
            DataError: a name that the dataset does not declare, the background, or a label of the foreground.
        """
        known = {name.lower(): value for value, name in self.label_names.items()}
        values = []
        for label in labels:
            value = known.get(label.lower()) if isinstance(label, str) else label
            if value is None or not 0 < value <= LARGEST_LABEL or value in used:
                what = (
                    "is not declared"
                    if value is None
                    else "belongs to the foreground"
                    if value in used
                    else "is the background"
                    if value == 0
                    else "cannot be in a label map"
                )
                raise DataError(
                    f"{self.root}: label {label!r} of `ignore` {what}",
                    expected="the label of voxels that are not annotated, such as `ignore: 255`",
                    fix="correct `ignore` or `foreground`",
                )
            values.append(value)
        return values

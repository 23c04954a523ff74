"""Splits, nested subsets and bootstrap samples. Draws are always of patients, never of cases.

Two scans of one patient look alike, so a case of a training patient among the test cases would flatter every arm. All
draws are functions of the seed and of the *set* of patients: neither the order of a listing nor the number of workers
matters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

from data.case import Case
from data.dataset import Dataset
from data.errors import DataError
from data.random_streams import random_stream

PatientCases = Mapping[str, tuple[str, ...]]
Choice = int | Sequence[str]
"""A number of patients to draw, or the cases that are listed."""


@dataclass(frozen=True)
class Split:
    """Which patients have which role; each role maps its patients to the names of the cases that count.

    The patients of a drawn split are in the order of the draw, those of a listed split in the order of the list.

    Attributes:
        source_cases: patients of the source dataset, on whom the source networks are trained.
        pool_cases: patients of the target dataset, from whom the training subsets are taken.
        test_cases: patients of the target dataset, on whom every arm is evaluated.
    """

    source_cases: PatientCases
    pool_cases: PatientCases
    test_cases: PatientCases

    @property
    def source(self) -> tuple[str, ...]:
        """The source patients."""
        return tuple(self.source_cases)

    @property
    def pool(self) -> tuple[str, ...]:
        """The patients of the target pool."""
        return tuple(self.pool_cases)

    @property
    def test(self) -> tuple[str, ...]:
        """The test patients."""
        return tuple(self.test_cases)

    def as_json(self) -> dict[str, dict[str, list[str]]]:
        """Returns role → patient → case names, for a JSON file."""
        roles = {"source": self.source_cases, "pool": self.pool_cases, "test": self.test_cases}
        return {role: {p: list(cases) for p, cases in patients.items()} for role, patients in roles.items()}

    @classmethod
    def from_json(cls, roles: Mapping[str, Mapping[str, Sequence[str]]]) -> Split:
        """Returns the split that `as_json` described."""
        return cls(*({p: tuple(c) for p, c in roles[role].items()} for role in ("source", "pool", "test")))


@dataclass(frozen=True)
class BootstrapSample:
    """Patients drawn with repetition, and those that were never drawn (to validate on)."""

    drawn: tuple[str, ...]
    out_of_bag: tuple[str, ...]

    def after(self, earlier: BootstrapSample) -> BootstrapSample:
        """The sample of a network that goes on from one of an earlier sample: it has seen the patients of both.

        Of many patients about one in seven is in neither (e⁻²); of few, it may be nobody.
        """
        seen = set(earlier.drawn)
        return BootstrapSample(self.drawn, tuple(name for name in self.out_of_bag if name not in seen))


def same_root(first: Dataset, second: Dataset) -> bool:
    """Whether two datasets lie in the same folder, so that equal patient names mean the same person."""
    return first.root.resolve() == second.root.resolve()


def labelled_patients(dataset: Dataset, excluded: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """Patients all of whose cases have a label, with their cases."""
    return {
        patient: tuple(case.name for case in cases)
        for patient, cases in dataset.by_patient().items()
        if patient not in excluded and all(case.label is not None for case in cases)
    }


def _require(dataset: Dataset, available: int, wanted: Mapping[str, int], used: str = "") -> None:
    """Refuses a draw of more patients than there are."""
    negative = next((key for key, count in wanted.items() if count < 0), None)
    if negative is not None:
        raise DataError(f"`{negative}` is {wanted[negative]}", expected="0 or more patients", fix=f"raise `{negative}`")
    total = sum(wanted.values())
    if total <= available:
        return
    asked = " + ".join(f"{count} (`{key}`)" for key, count in wanted.items())
    unlabelled = len(dataset.by_patient()) - len(labelled_patients(dataset))
    note = f", {unlabelled} more have cases without a label" if unlabelled else ""
    keys = " or ".join(f"`{key}`" for key, count in wanted.items() if count)
    raise DataError(
        f"{dataset.root}: {asked} patients are requested, but only {available} labelled patients are "
        f"available{used}{note}",
        expected=f"at most {available} in all",
        fix=f"lower {keys}",
    )


def draw_split(
    source: Dataset,
    target: Dataset,
    *,
    source_choice: Choice,
    pool: Choice | None,
    test: Choice,
    seed: int,
) -> Split:
    """Draws the source, pool and test patients, or takes the cases that are listed for them.

    Test patients are drawn first, then the pool, then the source, so the test set stays the same when the other counts
    change. A drawn patient has labels for all of their cases; of a listed patient only the listed cases count. If both
    datasets are one folder, the three sets are disjoint.

    Args:
        source: the source dataset.
        target: the target dataset; may be the same folder.
        source_choice: a number of source patients (config key `source.patients`) or a list of cases (`source.cases`).
        pool: where the target subsets are taken from: a number (`target.pool`), a list (`target.pool_cases`), or `None`
            for all other patients.
        test: the test patients: a number (`target.test`; 0 if the pool is cross-validated) or a list
            (`target.test_cases`).
        seed: the study's seed.

    Raises:
        DataError: there are too few labelled patients, a listed case is unknown, repeated or unlabelled, or a patient
            has cases on two sides.
    """
    choices = {"source.cases": source_choice, "target.pool_cases": pool, "target.test_cases": test}
    listed = {
        role: _listed(source if role == "source.cases" else target, choice, role)
        for role, choice in choices.items()
        if not isinstance(choice, int | None)
    }
    one_folder = same_root(source, target)
    for first, second in combinations(listed, 2):
        if one_folder or first != "source.cases":
            _refuse_shared_patient(listed[first], first, listed[second], second)
    sides: dict[str, PatientCases] = {role: _grouped(cases) for role, cases in listed.items()}
    if isinstance(pool, int | None) and isinstance(test, int):
        beside = "those of `source.cases`"
        taken = sides.get("source.cases", {}) if one_folder else {}
        wanted: dict[str, int | None] = {"target.test": test, "target.pool": pool}
        sides["target.test_cases"], sides["target.pool_cases"] = _drawn(target, "target", wanted, taken, beside, seed)
        drawn_test, drawn_pool = (len(sides[role]) for role in ("target.test_cases", "target.pool_cases"))
        roles = f"the {drawn_test} of `target.test` and the {drawn_pool} of the pool"
    else:
        roles = "those of `target.pool_cases` and `target.test_cases`"
    if isinstance(source_choice, int):
        taken = {**sides["target.test_cases"], **sides["target.pool_cases"]} if one_folder else {}
        wanted = {"source.patients": source_choice}
        (sides["source.cases"],) = _drawn(source, "source", wanted, taken, roles, seed)
    return Split(*(sides[role] for role in choices))


def _drawn(
    dataset: Dataset, stream: str, wanted: Mapping[str, int | None], taken: Collection[str], beside: str, seed: int
) -> list[PatientCases]:
    """Draws sets of labelled patients, `None` for all others; `beside` says which patients are `taken` already."""
    labelled = labelled_patients(dataset, excluded=taken)
    others = max(len(labelled) - sum(count for count in wanted.values() if count is not None), 0)
    counts = {key: others if count is None else count for key, count in wanted.items()}
    _require(dataset, len(labelled), counts, f" beside {beside} in the same folder" if taken else "")
    ordered = sorted(labelled)
    order = iter(random_stream(seed, "split", stream).permutation(len(ordered)))
    return [{p: labelled[p] for p in (ordered[i] for i in islice(order, count))} for count in counts.values()]


def _listed(dataset: Dataset, names: Sequence[str], role: str) -> list[Case]:
    cases = []
    for name in names:
        case = dataset.case(name)
        if case in cases:
            raise DataError(
                f"case {name!r} is listed twice under `{role}`", expected="each case once", fix="remove one"
            )
        if case.label is None:
            raise DataError(
                f"{dataset.root}: case {name!r}, listed under `{role}`, has no label",
                expected="a labelled case",
                fix="add its label to the dataset or remove it from the list",
            )
        cases.append(case)
    return cases


def _refuse_shared_patient(first: Sequence[Case], first_role: str, second: Sequence[Case], second_role: str) -> None:
    patients = {case.patient: case for case in first}
    for case in second:
        other = patients.get(case.patient)
        if other is not None:
            raise DataError(
                f"patient {case.patient!r} is on both sides of the split: "
                f"case {other.name!r} under `{first_role}`, case {case.name!r} under `{second_role}`",
                expected="all cases of a patient on one side",
                fix=f"move or remove one of the two cases, or correct who is the patient of {case.name!r}",
            )


def _grouped(cases: Sequence[Case]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for case in cases:
        groups[case.patient] = (*groups.get(case.patient, ()), case.name)
    return groups


def nested_subsets(pool: Sequence[str], sizes: Sequence[int], repeat: int, seed: int) -> dict[int, tuple[str, ...]]:
    """Draws one training subset of the pool for each size; within a repeat the smaller lie inside the larger.

    Args:
        pool: patients to draw from; their order does not matter.
        sizes: numbers of patients.
        repeat: which repeat; every repeat has its own order of the pool.
        seed: the study's seed.

    Returns:
        Size → patients; a subset is the beginning of every larger one.

    Raises:
        DataError: a size below 0 or above the number of patients in the pool.
    """
    patients = sorted(set(pool))
    for size in sizes:
        if not 0 <= size <= len(patients):
            raise DataError(
                f"`target_training.sizes` holds {size}, and the pool has {len(patients)} patients",
                expected=f"sizes from 0 to {len(patients)}",
                fix="correct `target_training.sizes` or raise `target.pool`",
            )
    order = random_stream(seed, "subset", repeat).permutation(len(patients))
    return {size: tuple(patients[i] for i in order[:size]) for size in sizes}


def draw_folds(patients: Sequence[str], folds: int, repeat: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """Divides patients at random into folds whose sizes differ by at most one.

    Args:
        patients: all patients; their order does not matter.
        folds: how many folds.
        repeat: which repeat; every repeat has its own partition.
        seed: the study's seed.

    Returns:
        The patients of each fold.

    Raises:
        DataError: there are more folds than patients, or fewer than two folds.
    """
    names = sorted(set(patients))
    if not 2 <= folds <= len(names):
        raise DataError(
            f"`target.folds` is {folds}, and {len(names)} annotated patients are to be cross-validated",
            expected=f"2 to {len(names)} folds" if len(names) > 1 else "2 patients or more",
            fix="lower `target.folds`, or write `folds: leave_one_out`" if len(names) > 1 else "annotate more patients",
        )
    order = random_stream(seed, "folds", repeat).permutation(len(names))
    return tuple(tuple(names[i] for i in order[fold::folds]) for fold in range(folds))


def bootstrap_sample(patients: Sequence[str], seed: int, network: int | str) -> BootstrapSample:
    """Draws as many patients as there are, with repetition.

    A draw that hits every patient once (probability n!/nⁿ, one half for n = 2) leaves nobody to validate on and is
    drawn again.

    Args:
        patients: the source patients; their order does not matter.
        seed: the study's seed.
        network: number of the source network that trains on the sample, or another name of it.

    Raises:
        DataError: there are no patients.
    """
    names = sorted(set(patients))
    if not names:
        raise DataError(
            "no patients to draw a bootstrap sample from", expected="1 or more", fix="raise `source.patients`"
        )
    generator = random_stream(seed, "bootstrap", network)
    while True:
        drawn = tuple(names[i] for i in generator.integers(len(names), size=len(names)))
        out_of_bag = tuple(name for name in names if name not in set(drawn))
        if out_of_bag or len(names) == 1:
            return BootstrapSample(drawn, out_of_bag)

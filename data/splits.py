"""Splits, nested subsets and bootstrap samples. What is drawn is always patients, never cases.

Two scans of one patient look alike, so a case of a training patient among the test cases would flatter every arm. All
draws are functions of the seed and of the *set* of patients: neither the order of a listing nor the number of workers
matters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from data.case import Case
from data.dataset import Dataset
from data.errors import DataError
from data.random_streams import random_stream

PatientCases = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Split:
    """Who is used for what; each role maps its patients to the names of the cases that count.

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


def _shuffled(patients: Mapping[str, tuple[str, ...]], seed: int, *names: str | int) -> list[str]:
    order = random_stream(seed, *names).permutation(len(patients))
    ordered = sorted(patients)
    return [ordered[i] for i in order]


def _take(
    patients: Mapping[str, tuple[str, ...]], order: Sequence[str], start: int, count: int
) -> dict[str, tuple[str, ...]]:
    return {p: patients[p] for p in order[start : start + count]}


def _require(dataset: Dataset, available: int, wanted: Mapping[str, int], used: str = "") -> None:
    """Refuses a draw that asks for more patients than there are."""
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
        f"{dataset.root}: {asked} patients are asked for, but only {available} labelled patients are "
        f"available{used}{note}",
        expected=f"at most {available} in all",
        fix=f"lower {keys}",
    )


def draw_split(
    source: Dataset,
    target: Dataset,
    *,
    source_patients: int,
    pool_patients: int | None,
    test_patients: int,
    seed: int,
) -> Split:
    """Draws source, pool and test patients at random.

    Test patients are drawn first, then the pool, then the source, so the test set stays the same when the other counts
    change. A patient counts only if all of their cases have labels. If both datasets are one folder, the three sets are
    disjoint.

    Args:
        source: the source dataset.
        target: the target dataset; may be the same folder.
        source_patients: how many source patients (config key `source.patients`).
        pool_patients: how many patients the target subsets are taken from (`target.pool`); `None` for all.
        test_patients: how many test patients (`target.test`); 0 where the pool is cross-validated.
        seed: the study's seed.

    Raises:
        DataError: there are too few labelled patients.
    """
    pool, test = _draw_target(target, pool_patients, test_patients, seed)
    used = f" beside the {len(test)} of `target.test` and the {len(pool)} of the pool in the same folder"
    elsewhere = {*test, *pool} if same_root(source, target) else set()
    return Split(_draw_source(source, source_patients, seed, elsewhere, used), pool, test)


def draw_source(
    source: Dataset,
    target: Dataset,
    *,
    source_patients: int,
    pool_cases: Sequence[str],
    test_cases: Sequence[str],
    seed: int,
) -> Split:
    """Draws the source patients beside listed target cases.

    If both datasets are one folder, the source is drawn among the patients that no listed case is of.

    Args:
        source: the source dataset.
        target: the target dataset; may be the same folder.
        source_patients: how many source patients (config key `source.patients`).
        pool_cases: cases of the target pool (`target.pool_cases`).
        test_cases: cases of the test set (`target.test_cases`).
        seed: the study's seed.

    Raises:
        DataError: as `draw_split` and `split_from_cases`.
    """
    listed = split_from_cases(source, target, source_cases=(), pool_cases=pool_cases, test_cases=test_cases)
    used = " beside those of `target.pool_cases` and `target.test_cases` in the same folder"
    elsewhere = {*listed.pool, *listed.test} if same_root(source, target) else set()
    drawn = _draw_source(source, source_patients, seed, elsewhere, used)
    return Split(drawn, listed.pool_cases, listed.test_cases)


def draw_target(
    source: Dataset,
    target: Dataset,
    *,
    source_cases: Sequence[str],
    pool_patients: int | None,
    test_patients: int,
    seed: int,
) -> Split:
    """Draws the pool and the test patients beside listed source cases.

    If both datasets are one folder, they are drawn among the patients that no listed case is of.

    Args:
        source: the source dataset.
        target: the target dataset; may be the same folder.
        source_cases: cases of the source (config key `source.cases`).
        pool_patients: how many patients the target subsets are taken from (`target.pool`); `None` for all.
        test_patients: how many test patients (`target.test`); 0 where the pool is cross-validated.
        seed: the study's seed.

    Raises:
        DataError: as `draw_split` and `split_from_cases`.
    """
    listed = split_from_cases(source, target, source_cases=source_cases, pool_cases=(), test_cases=())
    used = " beside those of `source.cases` in the same folder"
    elsewhere = set(listed.source) if same_root(source, target) else set()
    pool, test = _draw_target(target, pool_patients, test_patients, seed, elsewhere, used)
    return Split(listed.source_cases, pool, test)


def _draw_target(
    target: Dataset,
    pool_patients: int | None,
    test_patients: int,
    seed: int,
    elsewhere: Collection[str] = (),
    used: str = "",
) -> tuple[PatientCases, PatientCases]:
    """Draws pool and test; `elsewhere` are patients who play another role, `used` names it."""
    labelled = labelled_patients(target, excluded=elsewhere)
    if pool_patients is None:
        pool_patients = max(len(labelled) - test_patients, 0)
    wanted = {"target.test": test_patients, "target.pool": pool_patients}
    _require(target, len(labelled), wanted, used if elsewhere else "")
    order = _shuffled(labelled, seed, "split", "target")
    return _take(labelled, order, test_patients, pool_patients), _take(labelled, order, 0, test_patients)


def _draw_source(
    source: Dataset, source_patients: int, seed: int, elsewhere: Collection[str], used: str
) -> PatientCases:
    """Draws the source patients; `elsewhere` are patients who play another role, `used` names it."""
    labelled = labelled_patients(source, excluded=elsewhere)
    _require(source, len(labelled), {"source.patients": source_patients}, used if elsewhere else "")
    return _take(labelled, _shuffled(labelled, seed, "split", "source"), 0, source_patients)


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


def split_from_cases(
    source: Dataset,
    target: Dataset,
    *,
    source_cases: Sequence[str],
    pool_cases: Sequence[str],
    test_cases: Sequence[str],
) -> Split:
    """Makes a split from explicit lists of cases; only the listed cases of a patient count.

    Raises:
        DataError: an unknown, repeated or unlabelled case, or a patient with cases on two sides.
    """
    roles = {
        "source.cases": _listed(source, source_cases, "source.cases"),
        "target.pool_cases": _listed(target, pool_cases, "target.pool_cases"),
        "target.test_cases": _listed(target, test_cases, "target.test_cases"),
    }
    pairs = [("target.pool_cases", "target.test_cases")]
    if same_root(source, target):
        pairs += [("source.cases", "target.pool_cases"), ("source.cases", "target.test_cases")]
    for first, second in pairs:
        _refuse_shared_patient(roles[first], first, roles[second], second)
    return Split(*(_grouped(cases) for cases in roles.values()))


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
        DataError: a size below 1 or above the number of patients in the pool.
    """
    patients = sorted(set(pool))
    for size in sizes:
        if not 1 <= size <= len(patients):
            raise DataError(
                f"`target_training.sizes` holds {size}, and the pool has {len(patients)} patients",
                expected=f"sizes from 1 to {len(patients)}",
                fix="correct `target_training.sizes` or raise `target.pool`",
            )
    order = random_stream(seed, "subset", repeat).permutation(len(patients))
    return {size: tuple(patients[i] for i in order[:size]) for size in sizes}


def draw_folds(patients: Sequence[str], folds: int, repeat: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """Parts patients into folds at random, whose sizes differ by one at most.

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


def bootstrap_sample(patients: Sequence[str], seed: int, network: int) -> BootstrapSample:
    """Draws as many patients as there are, with repetition.

    A draw that hits every patient once (probability n!/nⁿ, one half for n = 2) leaves nobody to validate on and is
    drawn again.

    Args:
        patients: the source patients; their order does not matter.
        seed: the study's seed.
        network: number of the source network that trains on the sample.

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

"""The scans without annotation that a study uses: chosen apart from the patients of the source, pool and test set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.case import Case
from data.dataset import Dataset
from data.errors import DataError
from data.names import alike
from data.random_streams import random_stream
from data.splits import Split, same_root
from pipeline.arms.unlabelled_use import FEWEST_UNLABELLED
from pipeline.config.study import StudyConfig
from pipeline.config.unlabelled import ALL_CASES, UnlabelledOptions
from pipeline.deployment.input_cases import collect_cases
from pipeline.stages.cohorts import read_datasets
from pipeline.stages.study_plan import UNLABELLED, StudyPlan

logger = logging.getLogger(__name__)

_KEY = "target.unlabelled"
_LEAVE_OUT = "leave it out of `target.unlabelled`"


@dataclass(frozen=True)
class UnlabelledScans:
    """The cases that were chosen.

    Attributes:
        patients: patient → names of the cases.
        withheld: names of those whose labels are withheld; of a scan that is tested too, the test reads its label.
    """

    patients: Mapping[str, tuple[str, ...]]
    withheld: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The cases."""
        return [name for cases in self.patients.values() for name in cases]


@dataclass(frozen=True)
class _Roles:
    """Who has an annotation that the study reads.

    Attributes:
        patients: patient → the role, for patients of the source (if it is the same folder), the pool and the test set.
        learned: cases whose labels are learned from.
        tested: cases that are tested on.
    """

    patients: Mapping[str, str]
    learned: frozenset[str]
    tested: frozenset[str]

    @classmethod
    def of(cls, split: Split, one_folder: bool) -> _Roles:
        sides = {"the source": split.source_cases} if one_folder else {}
        sides |= {"the pool": split.pool_cases, "the test set": split.test_cases}
        cases = {role: frozenset(case for own in patients.values() for case in own) for role, patients in sides.items()}
        patients = {patient: role for role, own in reversed(sides.items()) for patient in own}
        learned = frozenset().union(*(own for role, own in cases.items() if role != "the test set"))
        return cls(patients, learned, cases["the test set"] - learned)


def read_unlabelled_folder(config: StudyConfig, channels: Sequence[str]) -> tuple[Case, ...]:
    """Reads the other folder of unlabelled scans; nothing without one.

    Cases whose labels are not to be withheld are left out if they have one.

    Args:
        config: of the study.
        channels: of the target, in order.

    Raises:
        DataError: there is no such folder, or a case lacks a channel.
    """
    options = config.target.unlabelled
    if options is None or options.path is None:
        return ()
    if not options.path.exists():
        raise DataError(
            f"{options.path}: there is no such folder",
            expected="a folder of scans without annotation",
            fix=f"correct `{_KEY}.path`",
        )
    found = collect_cases([options.path], channels, unannotated=not options.withhold_labels)
    for own in found:
        if own.case is None:
            raise DataError(
                f"{options.path}: the unlabelled scan {own.name} does not fit the target: {own.fault}",
                expected=f"scans with the target's channels: {', '.join(channels)}",
                fix=f"correct `{_KEY}.path`, or leave the scan out of the folder",
            )
    return tuple(own.case for own in found if own.case is not None)


def choose_unlabelled(
    config: StudyConfig, datasets: Mapping[str, Dataset], folder: Sequence[Case], split: Split
) -> UnlabelledScans:
    """Chooses the unlabelled scans that the configuration asks for; none if it asks for none.

    Args:
        config: of the study.
        datasets: the datasets of source and target.
        folder: the cases of another folder (`read_unlabelled_folder`).
        split: the patients whose annotations are used.

    Raises:
        DataError: there are no such scans or too few, a named case is unknown or has a label, or a patient is tested or
            learned from whose scans were not to be among them.
    """
    options, target = config.target.unlabelled, datasets[config.target.dataset]
    if options is None:
        return UnlabelledScans({})
    source = None if config.source_dataset is None else datasets[config.source_dataset]
    roles = _Roles.of(split, source is not None and same_root(source, target))
    named = isinstance(options.cases, tuple)
    if options.path is not None:
        _refuse_shared_names(folder, target, options.path)
        among = replace(target, root=options.path, cases=tuple(folder), findings=())
        cases = [among.case(name) for name in options.cases] if isinstance(options.cases, tuple) else list(folder)
    else:
        among = target
        cases = [among.case(name) for name in options.cases] if isinstance(options.cases, tuple) else list(among.cases)
    # A scan that the user names, or that lies in a folder that the user names, is never passed over in silence.
    strict = named or options.path is not None
    chosen, shared = [], []
    for case in cases:
        if case.label is not None and not options.withhold_labels:
            if named:
                raise DataError(
                    f"{among.root}: case {case.name!r} of `{_KEY}` has a label",
                    expected="cases without one",
                    fix=f"{_LEAVE_OUT}, or set `withhold_labels: true`, so that its label is never read",
                )
            continue
        role = roles.patients.get(case.patient)
        if role is None or (options.transductive and case.name not in roles.learned):
            chosen.append(case)
        elif strict:
            raise _of_used_patient(case, role, among.root, options)
        elif case.label is None:
            shared.append(case.name)
    if shared:
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        logger.info("unlabelled scans: left out %s%s, whose patients have another role", ", ".join(shared[:3]), more)
    chosen = _drawn(chosen, options, among.root, config.seed)
    patients: dict[str, tuple[str, ...]] = {}
    for case in chosen:
        patients[case.patient] = (*patients.get(case.patient, ()), case.name)
    withheld = (case.name for case in chosen if case.label is not None and case.name not in roles.tested)
    return UnlabelledScans(patients, tuple(withheld))


def require_enough(config: StudyConfig, scans: UnlabelledScans) -> None:
    """Refuses too few scans for the arms that learn from them.

    Raises:
        DataError: names the arm and both numbers.
    """
    wanting = [name for name, arm in config.target_training.arms.items() if arm.needs_unlabelled]
    if wanting and len(scans.names) < FEWEST_UNLABELLED:
        raise DataError(
            f"arm {wanting[0]!r} learns from unlabelled scans, and `{_KEY}` has {len(scans.names)}",
            expected=f"{FEWEST_UNLABELLED} or more",
            fix=f"add scans to `{_KEY}`, or leave the arm out",
        )


def _drawn(cases: list[Case], options: UnlabelledOptions, root: Path, seed: int) -> list[Case]:
    """All cases, or so many that are drawn; a larger number keeps those of a smaller one."""
    wanted = options.cases if isinstance(options.cases, int) else len(cases)
    if not cases or wanted > len(cases):
        what = "all scans" if options.cases == ALL_CASES else f"{wanted} scans"
        raise DataError(
            f"{root}: `{_KEY}` asks for {what} without annotation, and there {_there(len(cases))}",
            expected="scans without a label, of patients in neither source, pool nor test set",
            fix=f"lower or remove `{_KEY}`, add scans, or let annotated ones stand in with `withhold_labels: true`",
        )
    if wanted == len(cases):
        return cases
    ordered = sorted(cases, key=lambda case: case.name)
    order = random_stream(seed, "unlabelled").permutation(len(ordered))
    return sorted((ordered[i] for i in order[:wanted]), key=lambda case: case.name)


def _there(number: int) -> str:
    return "is none" if not number else "is 1" if number == 1 else f"are {number}"


def _of_used_patient(case: Case, role: str, root: Path, options: UnlabelledOptions) -> DataError:
    if options.transductive:
        return DataError(
            f"{root}: the unlabelled scan {case.name!r} is itself learned from with its label",
            expected="scans that are in neither source nor pool",
            fix=_LEAVE_OUT,
        )
    return DataError(
        f"{root}: the unlabelled scan {case.name!r} is of patient {case.patient!r}, who is in {role}",
        expected="scans of other patients: models must not have seen whom they are tested on",
        fix=f"{_LEAVE_OUT}, correct who its patient is, or allow it with `transductive: true`, which the report tells",
    )


def _refuse_shared_names(folder: Sequence[Case], target: Dataset, path: Path) -> None:
    """Results are named after cases, so two of one name could not be told apart."""
    for case in folder:
        if pair := alike([case.name, *(own.name for own in target.cases)]):
            raise DataError(
                f"{path}: the unlabelled scan {pair[0]!r} has the name of the case {pair[1]!r} of {target.root}",
                expected="names that the target's cases do not have",
                fix="rename the scan, or name it in a CSV manifest; if it is the same scan, leave it out",
            )


def with_unlabelled(target: Dataset, folder: Sequence[Case], unlabelled: Sequence[str], split: Split) -> Dataset:
    """Returns the target with its unlabelled scans, none of which has a label that could be read.

    A scan that is tested too (`transductive`) keeps its label for the tests alone.

    Args:
        target: the dataset of the target.
        folder: the cases of another folder.
        unlabelled: names of the unlabelled scans.
        split: the patients whose annotations are used.
    """
    annotated = {case for own in (split.pool_cases, split.test_cases) for cases in own.values() for case in cases}
    hidden = set(unlabelled) - annotated
    chosen = [case for case in folder if case.name in hidden]
    cases = [replace(case, label=None) if case.name in hidden else case for case in (*target.cases, *chosen)]
    return replace(target, cases=tuple(cases))


def planned_datasets(plan: StudyPlan) -> dict[str, Dataset]:
    """Reads the datasets of a study that has a plan, the target with its unlabelled scans.

    Raises:
        DataError: a folder is missing or has no known layout.
    """
    datasets, name = read_datasets(plan.config, plan.workspace), plan.dataset_of(UNLABELLED)
    unlabelled = [case for cases in plan.unlabelled.values() for case in cases]
    folder = read_unlabelled_folder(plan.config, plan.channels[name]) if unlabelled else ()
    return datasets | {name: with_unlabelled(datasets[name], folder, unlabelled, plan.split)}

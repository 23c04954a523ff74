"""check: checks the datasets of a study and draws source, pool and test patients."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.checks.battery import CONTENT_CHECKS, check_dataset
from data.checks.finding import Finding, Level
from data.dataset import Dataset
from data.errors import DataError
from data.splits import Split
from data.stored_record import ListRecord, StoredRecord, read_record
from pipeline.config.study import StudyConfig
from pipeline.execution.in_process import InProcessBackend
from pipeline.execution.progress import ProgressFile
from pipeline.execution.provenance import record_inputs
from pipeline.execution.provenance_record import InputFacts
from pipeline.execution.stage import complete, run_stage
from pipeline.execution.unit import Unit, is_done
from pipeline.execution.units import Execution
from pipeline.packs.pack_archive import open_pack
from pipeline.packs.pack_record import PACK, PackRecord
from pipeline.packs.pack_weights import require_whole
from pipeline.stages.cohorts import make_cohorts, read_datasets
from pipeline.stages.image_models import patients_learned_from
from pipeline.stages.resources import Resources
from pipeline.stages.same_task import require_same_task
from pipeline.stages.source_translation import target_patients
from pipeline.stages.study_plan import KEY, STAGE, UNLABELLED, StudyPlan, make_split, plan_folder, read_plan
from pipeline.stages.target_cells import target_cells
from pipeline.stages.target_checks import compare_with_source
from pipeline.stages.unlabelled_scans import choose_unlabelled, read_unlabelled_folder, require_enough, with_unlabelled
from pipeline.storage.atomic import write_json, write_record
from pipeline.storage.digest import digest
from pipeline.storage.file_names import PLAN
from pipeline.storage.plan_record import PlanRecord
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)

FINDINGS = "findings.json"
DATASETS = "datasets"
"""Folder of the reports, so that the name of a dataset cannot clash with another file."""


class FindingRecord(StoredRecord):
    """What a check found, and in which dataset."""

    dataset: str
    """Its name; where two share a folder, that of the first."""
    level: Level
    """How much it matters."""
    case: str | None
    """Name of the case; `None` for the dataset as a whole."""
    check: str
    """Name of the check."""
    found: str
    """What was found."""
    fix: str
    """What to do about it."""


class FindingsRecord(ListRecord):
    """The content of `findings.json`."""

    findings: tuple[FindingRecord, ...]
    """Worst first in each dataset."""


def _channels(config: StudyConfig, datasets: Mapping[str, Dataset]) -> dict[str, tuple[str, ...]]:
    chosen = {}
    for name, dataset in datasets.items():
        channels = config.datasets[name].channels or dataset.channel_names
        unknown = [c for c in channels if c not in dataset.channel_names]
        if unknown:
            raise DataError(
                f"{dataset.root}: there is no channel {unknown[0]!r}",
                expected=f"one of {', '.join(dataset.channel_names)}",
                fix=f"correct `datasets.{name}.channels`",
            )
        chosen[name] = tuple(channels)
    return chosen


def _roles(
    name: str, config: StudyConfig, split: Split, unlabelled: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Role → cases of one of the study's datasets."""
    roles = {"source": split.source_cases} if config.source_dataset == name else {}
    if config.target.dataset == name:
        if config.target.cross_validated:
            # Any two patients may lie on different sides of a fold.
            roles |= {f"patient {patient}": {patient: cases} for patient, cases in split.pool_cases.items()}
        else:
            roles |= {"pool": split.pool_cases, "test": split.test_cases}
    cases_of = {role: [case for cases in patients.values() for case in cases] for role, patients in roles.items()}
    if config.target.dataset == name:
        owner = {patient: role for role, patients in roles.items() for patient in patients}
        for patient, cases in unlabelled.items():
            # Whoever allows unlabelled scans of tested patients need not hear that these are on two sides.
            own = cases_of.setdefault(owner.get(patient, UNLABELLED), [])
            own += [case for case in cases if case not in own]
    return cases_of


def write_plan(
    folder: Path,
    progress: ProgressFile,
    *,
    datasets: Mapping[str, Dataset],
    plan: PlanRecord,
    split: Split,
    channels: Mapping[str, Sequence[str]],
    config: StudyConfig,
    pack: PackRecord | None,
    jobs: int,
) -> None:
    """Checks every dataset and writes the findings, the plan, and what the source pack holds."""
    write_record(folder / PLAN, plan)
    if pack is not None:
        write_record(folder / PACK, pack)
    # Entries with the same folder and kind of label are checked together, to find duplicates on both sides.
    findings: list[FindingRecord] = []
    folders: dict[tuple[Path, str | None], list[str]] = {}
    for name, dataset in datasets.items():
        folders.setdefault((dataset.root.resolve(), config.datasets[name].label_kind), []).append(name)
    for position, names in enumerate(folders.values()):
        # Of the target, to which its unlabelled scans belong.
        dataset = datasets[config.target.dataset if config.target.dataset in names else names[0]]
        roles = {role: own for name in names for role, own in _roles(name, config, split, plan.unlabelled).items()}
        used = {case for cases in roles.values() for case in cases}
        values = {v for name in names for vs in config.datasets[name].class_values(dataset).values() for v in vs}
        ignored = {value for name in names for value in config.datasets[name].ignored_values(dataset)}
        # Only cases that the study uses: other cases are not read and cannot stop it.
        report = check_dataset(
            replace(dataset, cases=tuple(c for c in dataset.cases if c.name in used)),
            channels=list(dict.fromkeys(c for name in names for c in channels[name])),
            foreground=sorted(values),
            splits=roles,
            jobs=jobs,
            modality=config.datasets[names[0]].modality,
            # What one entry ignores may be the foreground of another.
            ignored=ignored - values,
            beside={case for cases in plan.unlabelled.values() for case in cases} & used - _annotated(split),
        )
        write_json(folder / DATASETS / f"{names[0]}.json", report.as_json())
        findings += [FindingRecord(dataset=names[0], **finding.as_json()) for finding in report.findings]
        progress((position + 1) / len(folders))
    write_record(folder / FINDINGS, FindingsRecord(findings=tuple(findings)))


def _annotated(split: Split) -> set[str]:
    """Cases of the target whose labels are read."""
    return {case for own in (split.pool_cases, split.test_cases) for cases in own.values() for case in cases}


@dataclass(frozen=True)
class Examination:
    """The plan of the study, and the findings of the checks with the folder of the dataset, worst first in each."""

    plan: StudyPlan
    findings: tuple[tuple[Path, Finding], ...]

    def errors(self) -> list[tuple[Path, Finding]]:
        """Findings that make a case or a dataset unusable."""
        return [(root, finding) for root, finding in self.findings if finding.level is Level.ERROR]

    def empty_targets(self) -> list[tuple[Path, Finding]]:
        """Empty labels among the target patients that the arms learn from."""
        config, pool = self.plan.config, self.plan.patients("pool")
        root = read_datasets(config, self.plan.workspace)[config.target.dataset].root.resolve()
        cells = [cell for arm in config.target_training.arms for cell in target_cells(self.plan, arm)]
        patients = {patient for cell in cells for fold in cell.folds for patient in fold.learned_from}
        cases = {case for patient in patients for case in pool[patient]}
        empty = [(folder, f) for folder, f in self.findings if f.check == "empty_label" and f.case in cases]
        return [(folder, finding) for folder, finding in empty if folder == root]

    def doubts(self, root: Path) -> dict[str, list[str]]:
        """Case of a folder → doubts about its content, although it can be used."""
        found: dict[str, list[str]] = {}
        for folder, finding in self.findings:
            if folder == root.resolve() and finding.case is not None and finding.check in CONTENT_CHECKS:
                found.setdefault(finding.case, []).append(_sentence(finding))
        return found

    def bad_cases(self, root: Path) -> dict[str, str]:
        """Case of a folder → why it is unusable, in one sentence."""
        errors = [finding for folder, finding in self.errors() if folder == root.resolve()]
        return {finding.case: _sentence(finding) for finding in reversed(errors) if finding.case is not None}


def _sentence(finding: Finding) -> str:
    return f"{finding.found}; to fix it, {finding.fix}"


def refuse(errors: Sequence[tuple[Path, Finding]]) -> None:
    """Raises a DataError that names the first errors, if there are any."""
    if errors:
        root, finding = errors[0]
        first = "; ".join(f"{f.case}: {f.found}" if f.case else f.found for _, f in errors[:3])
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise DataError(f"{root}: {first}{more}", fix=f"{finding.fix} (`graft check {root}` lists everything)")


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Examines the study and refuses it if there are errors.

    Raises:
        GraftError: a case or a dataset is not usable, or a split is not possible.
    """
    examination = examine(config, workspace, resources)
    refuse(examination.errors())
    compare_with_source(examination.plan, resources.strict)
    refuse(examination.empty_targets())
    for arm, reason in config.target_training.without_model_at_zero().items():
        logger.info("arm %s has no model of n = 0: %s", arm, reason)


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """The single unit of the stage: the split of the study's cases, and the findings of the checks.

    Raises:
        PackError: the source pack cannot be used.
        GraftError: a dataset as a whole is not usable, or a split is not possible.
    """
    datasets = read_datasets(config, workspace)
    channels = _channels(config, datasets)
    split = make_split(config, datasets)
    target = config.target.dataset
    folder = read_unlabelled_folder(config, channels[target])
    scans = choose_unlabelled(config, datasets, folder, split)
    require_enough(config, scans)
    classes = {name: config.datasets[name].class_values(dataset) for name, dataset in datasets.items()}
    inputs = {name: list(of_dataset) for name, of_dataset in channels.items()}
    ignored = {name: config.datasets[name].ignored_values(dataset) for name, dataset in datasets.items()}
    # A study without them keeps what it checked before.
    beside: dict[str, Any] = {}
    if any(ignored.values()):
        beside["ignored"] = {name: values for name, values in ignored.items() if values}
    if scans.patients:
        beside["unlabelled"] = {patient: list(cases) for patient, cases in scans.patients.items()}
    if scans.withheld:
        beside["withheld"] = list(scans.withheld)
    plan = PlanRecord(split=split.as_json(), classes=classes, channels=inputs, **beside)
    pack = None if config.source_pack is None else open_pack(config.source_pack)
    record = None if pack is None else pack.record
    # Impossible sizes and folds, a source of another task, and image models or translations without scans are refused
    # before any training.
    drawn = StudyPlan(split, classes, inputs, config, workspace, record, unlabelled=scans.patients)
    require_same_task(drawn)
    for arm in config.target_training.arms:
        target_cells(drawn, arm)
    for name in config.image_models:
        patients_learned_from(drawn, name)
    target_patients(drawn)
    datasets[target] = with_unlabelled(datasets[target], folder, scans.names, split)
    files = {name: _file_digests(dataset, workspace) for name, dataset in datasets.items()}
    noticed = {name: [finding.as_json() for finding in dataset.findings] for name, dataset in datasets.items()}
    workspace.file_digests.save()
    arguments = {
        "datasets": datasets,
        "plan": plan,
        "split": split,
        "channels": channels,
        "config": config,
        "pack": record,
        "jobs": resources.execution(config).jobs,
    }
    modalities = {name: config.datasets[name].modality.value for name in datasets}
    recipe = {"plan": plan.as_json(), "files": files, "layout": noticed, "modalities": modalities, "version": 6}
    # A study without one keeps what it checked before.
    recipe |= {} if pack is None else {"pack": pack.digest}
    return [Unit(STAGE, KEY, recipe, write_plan, arguments)]


def examine(config: StudyConfig, workspace: Workspace, resources: Resources) -> Examination:
    """Makes synthetic cohorts, checks the datasets, draws the split and writes the plan.

    Single unusable cases are reported, not refused, so that a batch can continue without them.

    Raises:
        GraftError: a dataset as a whole is not usable, or a split is not possible.
    """
    make_cohorts(config, workspace, resources)
    [unit] = units(config, workspace, resources)
    if config.source_pack is not None and not is_done(unit, workspace):
        require_whole(open_pack(config.source_pack))
    datasets = unit.arguments["datasets"]
    inputs = {
        name: InputFacts(
            root=_root(name, config, d, workspace),
            layout=d.layout,
            cases=len(d.cases),
            sha256=digest(unit.recipe["files"][name]),
        )
        for name, d in datasets.items()
    }
    if config.source_pack is not None:
        pack = unit.arguments["pack"]
        inputs["source pack"] = InputFacts(
            root=str(config.source_pack), layout="source pack", cases=pack.source.cases, sha256=unit.recipe["pack"]
        )
    # The battery has its own workers, so its unit runs in this process.
    done = run_stage(STAGE, [unit], workspace, Execution(1, config.execution.threads, InProcessBackend()))
    complete(STAGE, done)
    record_inputs(workspace, inputs)
    findings = tuple(_read_findings(workspace, datasets))
    if done.count("done"):
        for root, finding in findings:
            if finding.level is Level.WARNING:
                where = f" {finding.case}" if finding.case else ""
                logger.warning("%s%s: %s (%s)", root, where, finding.found, finding.fix)
    examination = Examination(read_plan(config, workspace), findings)
    refuse([(root, finding) for root, finding in examination.errors() if finding.case is None])
    return examination


def _root(name: str, config: StudyConfig, dataset: Dataset, workspace: Workspace) -> str:
    """The folder of a dataset as named in the configuration: the report does not show paths of this machine."""
    path = config.datasets[name].path
    return str(path) if path is not None else dataset.root.relative_to(workspace.root).as_posix()


def read_examination(config: StudyConfig, workspace: Workspace) -> Examination:
    """Reads the results of `check`.

    Raises:
        WorkspaceError: it has not been run.
    """
    return Examination(read_plan(config, workspace), tuple(_read_findings(workspace, read_datasets(config, workspace))))


def _read_findings(workspace: Workspace, datasets: Mapping[str, Dataset]) -> Iterator[tuple[Path, Finding]]:
    for found in read_record(plan_folder(workspace) / FINDINGS, FindingsRecord).findings:
        yield datasets[found.dataset].root.resolve(), Finding(**found.model_dump(exclude={"dataset"}))


def _file_digests(dataset: Dataset, workspace: Workspace) -> dict[str, list[tuple[str, str]]]:
    return {case.name: workspace.file_digests.of_files(case.files()) for case in dataset.cases}

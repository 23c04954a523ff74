"""check: are the datasets usable, and who plays which role?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.checks.battery import check_dataset
from data.checks.finding import Level
from data.checks.report import Report
from data.dataset import Dataset
from data.errors import DataError
from data.splits import Split, nested_subsets
from pipeline.config.study import StudyConfig
from pipeline.progress import ProgressFile
from pipeline.stages.cohorts import make_cohorts, read_datasets
from pipeline.stages.resources import Resources
from pipeline.stages.stage import complete, run_stage
from pipeline.stages.study_plan import KEY, STAGE, StudyPlan, make_split, read_plan
from pipeline.storage.atomic import write_json
from pipeline.storage.digest import digest
from pipeline.storage.provenance import record_inputs
from pipeline.storage.units import Unit
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)


def _channels(config: StudyConfig, datasets: Mapping[str, Dataset]) -> dict[str, tuple[str, ...]]:
    chosen = {}
    for name, dataset in datasets.items():
        channels = config.datasets[name].channels or dataset.channel_names
        unknown = [c for c in channels if c not in dataset.channel_names]
        if unknown:
            raise DataError(
                f"{dataset.root}: there is no channel {unknown[0]!r}",
                expected=f"one of {', '.join(dataset.channel_names)}",
                mend=f"correct `datasets.{name}.channels`",
            )
        chosen[name] = tuple(channels)
    return chosen


def _used(dataset: Dataset, name: str, config: StudyConfig, split: Split) -> Dataset:
    """The dataset with only the cases that play a role, so that nothing else is read or can stop the study."""
    roles = [split.source_cases] if config.source.dataset == name else []
    roles += [split.pool_cases, split.test_cases] if config.target.dataset == name else []
    names = {case for patients in roles for cases in patients.values() for case in cases}
    return replace(dataset, cases=tuple(c for c in dataset.cases if c.name in names))


def write_plan(
    folder: Path,
    progress: ProgressFile,
    *,
    datasets: Mapping[str, Dataset],
    plan: Mapping[str, Any],
    split: Split,
    channels: Mapping[str, Sequence[str]],
    config: StudyConfig,
    jobs: int,
) -> None:
    """Checks every dataset and writes what was found and who plays which role.

    Raises:
        DataError: a check found an error.
    """
    write_json(folder / "study.json", dict(plan))
    for position, (name, dataset) in enumerate(datasets.items()):
        values = config.datasets[name].class_values(dataset)
        foreground = sorted({v for vs in values.values() for v in vs})
        used = _used(dataset, name, config, split)
        report = check_dataset(used, channels=channels[name], foreground=foreground, jobs=jobs)
        write_json(folder / f"{name}.json", report.as_json())
        refuse_errors(report, dataset.root)
        progress((position + 1) / len(datasets))


def refuse_errors(report: Report, root: Path) -> None:
    """Logs warnings and refuses errors.

    Raises:
        DataError: names the first errors.
    """
    for finding in report.of_level(Level.WARNING):
        logger.warning("%s%s: %s (%s)", root, f" {finding.case}" if finding.case else "", finding.found, finding.mend)
    errors = report.of_level(Level.ERROR)
    if errors:
        first = "; ".join(f"{f.case}: {f.found}" if f.case else f.found for f in errors[:3])
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise DataError(f"{root}: {first}{more}", mend=f"{errors[0].mend} (`graft check {root}` lists everything)")


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> StudyPlan:
    """Makes synthetic cohorts, checks the datasets, draws the split and writes the plan.

    Raises:
        GraftError: a dataset is not usable, or a split is not possible.
    """
    make_cohorts(config, workspace, resources)
    datasets = read_datasets(config, workspace)
    channels = _channels(config, datasets)
    split = make_split(config, datasets)
    # A size that the pool cannot serve is told now, not after the source networks are trained.
    nested_subsets(split.pool, config.inference.sizes, 0, config.seed)
    classes = {name: config.datasets[name].class_values(dataset) for name, dataset in datasets.items()}
    plan = {"split": split.as_json(), "classes": classes, "channels": {k: list(v) for k, v in channels.items()}}
    files = {name: _file_digests(dataset, workspace) for name, dataset in datasets.items()}
    workspace.file_digests.save()
    execution = resources.execution(config)
    unit = Unit(
        STAGE,
        KEY,
        {"plan": plan, "files": files, "version": 1},
        write_plan,
        {
            "datasets": datasets,
            "plan": plan,
            "split": split,
            "channels": channels,
            "config": config,
            "jobs": execution.jobs,
        },
    )
    inputs = {
        name: {"root": str(d.root), "layout": d.layout, "cases": len(d.cases), "sha256": digest(files[name])}
        for name, d in datasets.items()
    }
    # The battery has workers of its own, so its one unit runs in this process.
    complete(STAGE, run_stage(STAGE, [unit], workspace, replace(execution, jobs=1)))
    record_inputs(workspace, inputs)
    return read_plan(config, workspace)


def _file_digests(dataset: Dataset, workspace: Workspace) -> dict[str, list[tuple[str, str]]]:
    return {case.name: workspace.file_digests.of_files(case.files()) for case in dataset.cases}

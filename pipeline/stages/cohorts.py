"""The datasets of a study: synthetic ones are made in the workspace, and all are read."""

from __future__ import annotations

from pathlib import Path

from data.dataset import Dataset
from data.layouts.detection import read_dataset
from data.synthetic.cohort import (
    CohortOptions,
    case_name,
    claim_folder,
    is_whole,
    write_case,
    write_dataset_description,
)
from pipeline.config.study import StudyConfig
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stage import complete, run_stage
from pipeline.execution.unit import MARKER, Unit
from pipeline.stages.resources import Resources
from pipeline.storage.owned_folder import set_aside
from pipeline.storage.workspace import Workspace

STAGE = "synthesize"


def make_synthetic_case(folder: Path, progress: ProgressFile, *, options: CohortOptions, index: int, out: Path) -> None:
    """Writes a synthetic case into the cohort's folder; the unit's own folder holds only the marker."""
    write_case(options, index, out)


def make_cohorts(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Makes the synthetic datasets of a study; existing cases are not made again.

    Raises:
        StageError: a case could not be made.
    """
    units = []
    for name, entry in config.datasets.items():
        if entry.synthetic is None:
            continue
        out = dataset_root(name, config, workspace)
        claim_folder(entry.synthetic, out)
        for index in range(entry.synthetic.cases):
            case = case_name(entry.synthetic, index)
            unit = Unit(
                STAGE,
                f"{out.name}/{case}",
                {"options": entry.synthetic.digest, "index": index},
                make_synthetic_case,
                {"options": entry.synthetic, "index": index, "out": out},
            )
            if not is_whole(entry.synthetic, index, out):
                set_aside(workspace.unit_folder(STAGE, unit.key), MARKER)
            units.append(unit)
        write_dataset_description(entry.synthetic, out)
    if units:
        complete(STAGE, run_stage(STAGE, units, workspace, resources.execution(config)))


def dataset_root(name: str, config: StudyConfig, workspace: Workspace) -> Path:
    """The folder of a dataset; that of a synthetic one contains the digest of its options, so cohorts never mix."""
    entry = config.datasets[name]
    if entry.synthetic is not None:
        return workspace.synthetic_folder(f"{name}-{entry.synthetic.digest[:8]}")
    if entry.path is None:
        raise ValueError(f"the dataset {name} has neither a path nor a synthetic cohort")
    return entry.path


def read_datasets(config: StudyConfig, workspace: Workspace) -> dict[str, Dataset]:
    """Reads the datasets that the study uses.

    Raises:
        DataError: a folder is missing or has no known layout.
    """
    return {
        name: read_dataset(dataset_root(name, config, workspace), label_kind=config.datasets[name].label_kind)
        for name in used_datasets(config)
    }


def used_datasets(config: StudyConfig) -> list[str]:
    """Names of the datasets of source and target; a pack takes the place of the source's."""
    sides = (config.source_dataset, config.target.dataset)
    return list(dict.fromkeys(name for name in sides if name is not None))


def datasets_at_hand(config: StudyConfig, workspace: Workspace) -> bool:
    """Whether raw scans and source pack are where the configuration says: a workspace may be carried elsewhere."""
    if config.source_pack is not None and not config.source_pack.exists():
        return False
    unlabelled = config.target.unlabelled
    if unlabelled is not None and unlabelled.path is not None and not unlabelled.path.exists():
        return False
    return all(dataset_root(name, config, workspace).exists() for name in used_datasets(config))

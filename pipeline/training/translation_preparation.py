"""Preparing a translation of the source: statistics of whole scans, and evidence of what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.random_streams import stream_seed
from models.translation.histogram_matching import quantile_function
from pipeline.execution.processes import rank
from pipeline.execution.progress import ProgressFile
from pipeline.storage.atomic import write_record
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.cached_image import CachedImage
from pipeline.storage.file_names import PICTURES
from pipeline.storage.tensors import save_tensors
from pipeline.training.patches import PatchOptions
from pipeline.training.scan_statistics import foreground_values, tissue_statistics
from pipeline.training.source_translation import STATISTICS, TranslationInputs
from pipeline.training.translation_evidence import kernel_distances, pictured_scans
from pipeline.training.translation_options import HistogramMatching, RandomContrast, TranslationOptions
from pipeline.training.translation_record import ABOUT, TranslationRecord


@dataclass(frozen=True)
class TranslationTask:
    """The inputs of the preparation.

    Attributes:
        seed: of the study.
        options: of the translation.
        source: the source scans.
        targets: `pool`, `unlabelled` → patient → scans that it may use.
        patches: of the trainings.
    """

    seed: int
    options: TranslationOptions
    source: Sequence[CachedCase]
    targets: Mapping[str, Mapping[str, Sequence[CachedImage]]]
    patches: PatchOptions

    @property
    def target_scans(self) -> list[CachedImage]:
        """All target scans that it may use."""
        return [scan for own in self.targets.values() for scans in own.values() for scan in scans]

    def inputs(self, folder: Path) -> TranslationInputs:
        """What the trainings need, once a folder holds what is prepared."""
        return TranslationInputs(folder, self.options, self.target_scans)


def prepare_translation(folder: Path, progress: ProgressFile, *, task: TranslationTask) -> None:
    """Writes the statistics of a translation, its record and its pictures.

    Raises:
        WorkspaceError: a preprocessed case is damaged.
        StopRequestedError: the command was asked to stop.
    """
    if rank() != 0:
        # Of processes that train together, the first one prepares.
        return
    targets, seed = task.target_scans, stream_seed(task.seed, "source-translation")
    if statistics := _statistics(task, targets, progress):
        save_tensors(folder / STATISTICS, statistics)
    translation = task.inputs(folder).open().translation
    distances = None
    if len(targets) > 0:
        distances = kernel_distances(task.source, targets, translation, task.patches.size, seed)
    tensors, names = pictured_scans(task.source, targets, translation, seed)
    save_tensors(folder / PICTURES, tensors, names)
    record = TranslationRecord(
        options=task.options,
        source_scans=len(task.source),
        patients={role: tuple(patients) for role, patients in task.targets.items()},
        target_scans=len(targets),
        distances=distances,
    )
    write_record(folder / ABOUT, record)


def _statistics(task: TranslationTask, targets: Sequence[CachedImage], progress: ProgressFile) -> dict[str, Tensor]:
    """What the translation needs of whole scans, by name."""
    options, found = task.options, dict[str, Tensor]()
    scans = [("source", CachedImage.of(case)) for case in task.source]
    if isinstance(options, HistogramMatching):
        scans += [("target", scan) for scan in targets]
    for number, (side, scan) in enumerate(scans):
        if isinstance(options, HistogramMatching):
            quantiles = quantile_function(foreground_values(scan), options.points)
            found[f"{side}.{scan.name}.quantiles"] = torch.from_numpy(quantiles)
        elif isinstance(options, RandomContrast):
            own = tissue_statistics(scan, options.classes)
            found |= {f"{side}.{scan.name}.{what}": value.contiguous() for what, value in own.items()}
        progress((number + 1) / len(scans))
    return found

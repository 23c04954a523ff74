"""Checks for inputs that would spoil target training, before any training starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError, ModelError
from models.filters import KERNEL_VOXELS
from models.priors.factory import PriorOptions, load_prior
from pipeline.config.study import StudyConfig
from pipeline.stages.study_plan import StudyPlan
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.tensors import load_tensors

logger = logging.getLogger(__name__)

_SPACING_TOLERANCE = 0.01
"""Relative difference of spacings that is ignored."""
_STRICT = "use another source, resample both to one spacing, or run without --strict"


def _report(found: str, strict: bool) -> None:
    """Warns, or raises a DataError if `strict`."""
    if strict:
        raise DataError(found, expected="a source of the target's modality and spacing", fix=_STRICT)
    logger.warning("%s: what is learned on the source may not transfer", found)


def compare_with_source(config: StudyConfig, strict: bool = False) -> None:
    """Compares modality and configured spacing of source and target.

    Raises:
        DataError: they differ, if `strict`.
    """
    source, target = config.source.dataset, config.target.dataset
    first, second = config.datasets[source], config.datasets[target]
    if first.modality != second.modality:
        _report(
            f"the source {source!r} has the modality {first.modality.value} "
            f"and the target {target!r} {second.modality.value}",
            strict,
        )
    grids = (first.preprocessing.resampling, second.preprocessing.resampling)
    if grids[0] is not None and grids[1] is not None:
        _compare_spacings(source, np.array(grids[0].spacing), target, np.array(grids[1].spacing), strict)


def compare_grids(plan: StudyPlan, strict: bool = False) -> None:
    """Compares the spacings of the preprocessed cases, which are those of the scans if nothing is resampled.

    If both datasets are resampled, the difference is known from the configuration (`compare_with_source`).

    Raises:
        DataError: they differ, if `strict`.
    """
    config = plan.config
    source, target = config.source.dataset, config.target.dataset
    if None not in {config.datasets[name].preprocessing.resampling for name in (source, target)}:
        return
    spacings = []
    for role in ("source", "pool"):
        cases = [case for patient in plan.patients(role) for case in plan.cached(role, patient) if case.path.is_file()]
        if not cases:
            return
        spacings.append(np.median([case.spacing for case in cases], axis=0))
    _compare_spacings(source, spacings[0], target, spacings[1], strict)


def _compare_spacings(
    source: str, first: NDArray[np.float64], target: str, second: NDArray[np.float64], strict: bool
) -> None:
    if np.allclose(first, second, rtol=_SPACING_TOLERANCE, atol=0):
        return
    shown = [" × ".join(f"{step:.3g}" for step in spacing) for spacing in (first, second)]
    _report(f"the source {source!r} has the spacing {shown[0]} mm and the target {target!r} {shown[1]} mm", strict)


def refuse_empty_labels(cases: Sequence[CachedCase]) -> None:
    """Refuses training cases of the target whose label has no foreground.

    Raises:
        DataError: names the cases.
    """
    empty = [case for case in cases if not len(case.foreground)]
    if empty:
        names = ", ".join(case.name for case in empty[:5])
        more = f" (and {len(empty) - 5} more)" if len(empty) > 5 else ""
        raise DataError(
            f"{empty[0].path}: the label of the target pool is empty in {names}{more}",
            expected="foreground in every target volume that the arms learn from",
            fix="find the right label, or list the cases of the pool without it (`target.pool_cases`)",
        )


def require_kernel_size(path: Path, density: PriorOptions) -> None:
    """Refuses a prior that was fitted to kernels of another size.

    Raises:
        ModelError: names the file and both sizes.
    """
    found = load_prior(density, load_tensors(path)).kernel_voxels
    if found != KERNEL_VOXELS:
        raise ModelError(
            f"{path}: the prior was fitted to kernels of {found} voxels",
            expected=f"kernels of {KERNEL_VOXELS} voxels (3×3×3), those of the network's filters",
            fix="run `graft fit-priors CONFIG` with the source networks of this study",
        )

"""Checks for inputs that would spoil target training, before any training starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError, ModelError
from data.modality import Modality
from models.filters import KERNEL_VOXELS
from models.networks.factory import build_network, stem_parameters
from models.priors.factory import PriorOptions, load_prior
from pipeline.config.study import StudyConfig
from pipeline.packs.pack_record import PackRecord
from pipeline.stages.study_plan import StudyPlan
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.tensors import load_tensors
from preprocessing.chain import PreprocessingOptions

logger = logging.getLogger(__name__)

_SPACING_TOLERANCE = 0.01
"""Relative difference of spacings that is ignored."""
_STRICT = "use another source, resample both to one spacing, or run without --strict"


def _report(found: str, strict: bool) -> None:
    """Warns, or raises a DataError if `strict`."""
    if strict:
        raise DataError(found, expected="a source of the target's modality, channels and spacing", fix=_STRICT)
    logger.warning("%s: what is learned on the source may not transfer", found)


@dataclass(frozen=True)
class _Side:
    """What is compared of source and target.

    Attributes:
        name: for messages.
        modality: what kind of scan it holds.
        channels: in the order of the network's input.
        spacing: that all of its scans are resampled to, mm; None where they keep their own.
    """

    name: str
    modality: Modality
    channels: tuple[str, ...]
    spacing: NDArray[np.float64] | None

    @classmethod
    def of(cls, name: str, modality: Modality, channels: Sequence[str], chain: PreprocessingOptions) -> _Side:
        spacing = None if chain.resampling is None else np.array(chain.resampling.spacing)
        return cls(name, modality, tuple(channels), spacing)


def _sides(
    config: StudyConfig, channels: Mapping[str, Sequence[str]], pack: PackRecord | None
) -> tuple[_Side, _Side] | None:
    """Source and target; `None` without a source."""
    target, source = config.target.dataset, config.source_dataset
    about = config.datasets[target]
    second = _Side.of(f"the target {target!r}", about.modality, channels[target], about.preprocessing)
    if pack is not None:
        return _Side.of("the source pack", pack.modality, pack.channels, pack.preprocessing), second
    if source is None:
        return None
    about = config.datasets[source]
    return _Side.of(f"the source {source!r}", about.modality, channels[source], about.preprocessing), second


def compare_with_source(plan: StudyPlan, strict: bool = False) -> None:
    """Compares modality, channels and configured spacing of source and target.

    Raises:
        DataError: they differ, if `strict`.
    """
    compare_sides(plan.config, plan.channels, plan.pack, strict)


def compare_sides(
    config: StudyConfig, channels: Mapping[str, Sequence[str]], pack: PackRecord | None, strict: bool = False
) -> None:
    """The same for a study that has no plan yet.

    Args:
        config: of the study.
        channels: dataset → channel names in the order of the network's input.
        pack: what the source pack holds, if one is the source.
        strict: whether differences are refused.

    Raises:
        DataError: they differ, if `strict`.
    """
    sides = _sides(config, channels, pack)
    if sides is None:
        return
    source, target = sides
    if source.modality != target.modality:
        _report(
            f"{source.name} has the modality {source.modality.value} and {target.name} {target.modality.value}", strict
        )
    if source.channels != target.channels:
        _report(
            f"{source.name} has the channels {', '.join(source.channels)} and {target.name} "
            f"{', '.join(target.channels)}{_what_starts_anew(config, len(source.channels), len(target.channels))}",
            strict,
        )
    if source.spacing is not None and target.spacing is not None:
        _compare_spacings(source, source.spacing, target, target.spacing, strict)


def _what_starts_anew(config: StudyConfig, source: int, target: int) -> str:
    """Names the weights that read the image, which do not fit another number of channels."""
    if source == target:
        return ""
    classes = config.datasets[config.target.dataset].classes
    network = build_network(config.network, target, len(classes) + 1)
    return f", so the weights {', '.join(stem_parameters(network))} start at random in place of the source's"


def compare_grids(plan: StudyPlan, strict: bool = False) -> None:
    """Compares the spacings of the preprocessed cases, which are those of the scans if nothing is resampled.

    If both datasets are resampled, the difference is known from the configuration (`compare_with_source`).

    Raises:
        DataError: they differ, if `strict`.
    """
    sides = _sides(plan.config, plan.channels, plan.pack)
    if sides is None:
        return
    source, target = sides
    if source.spacing is not None and target.spacing is not None:
        return
    first = np.array(plan.pack.source.spacing) if plan.pack is not None else _median_spacing(plan, "source")
    second = _median_spacing(plan, "pool")
    if first is not None and second is not None:
        _compare_spacings(source, first, target, second, strict)


def _median_spacing(plan: StudyPlan, role: str) -> NDArray[np.float64] | None:
    cases = [case for patient in plan.patients(role) for case in plan.cached(role, patient) if case.path.is_file()]
    return np.median([case.spacing for case in cases], axis=0) if cases else None


def _compare_spacings(
    source: _Side, first: NDArray[np.float64], target: _Side, second: NDArray[np.float64], strict: bool
) -> None:
    if np.allclose(first, second, rtol=_SPACING_TOLERANCE, atol=0):
        return
    shown = [" × ".join(f"{step:.3g}" for step in spacing) for spacing in (first, second)]
    _report(f"{source.name} has the spacing {shown[0]} mm and {target.name} {shown[1]} mm", strict)


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

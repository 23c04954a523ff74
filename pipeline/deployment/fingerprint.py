"""The fingerprint of the training cases: ranges with which a new scan is compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from pydantic import Field

from data.options import Options
from data.stored_record import record_if_there
from models.heads import IGNORED
from pipeline.deployment.contrast_profile import LEVELS, TrainingProfile, tissue_profile, white_over_grey
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.file_names import RECORD
from preprocessing.step import Record
from preprocessing.step_record import ChainRecord

_PERCENTILES = (5, 25, 50, 75, 95)


class Span(Options):
    """Smallest and largest value over the training cases."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""

    @classmethod
    def over(cls, values: Iterable[float]) -> Span:
        """The span of at least one value."""
        found = list(values)
        return cls(low=min(found), high=max(found))


class CaseFacts(Options):
    """Numbers of one case, from its preprocessed image and the records of the chain."""

    shape: tuple[int, int, int]
    """Voxels of the raw scan along the axes nearest to right, anterior, superior."""
    spacing: tuple[float, float, float]
    """Spacing of the raw scan along the same axes, mm."""
    before: dict[str, dict[str, float]]
    """Channel → numbers of the scaling step (clipping limits, mean, standard deviation), in the scan's own unit."""
    after: dict[str, dict[str, float]]
    """Channel → mean, standard deviation and percentiles inside the mask, after scaling."""
    mask_ml: float
    """Volume of the mask in ml, at the scan's own size; without a mask, of the field of view."""
    structure_ml: dict[str, float] = Field(default_factory=dict)
    """Class → volume in ml, at the scan's own size."""
    histogram: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Channel → quantiles inside the mask, standard deviations from the mean."""
    tissues: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Channel → tissue → mean, standard deviations from that of the brain; of scans aligned to the template."""


class TrainingFingerprint(Options):
    """Spans of the numbers of all training cases."""

    cases: int
    """Number of cases."""
    shape: tuple[Span, Span, Span]
    """Voxels along right, anterior, superior."""
    spacing: tuple[Span, Span, Span]
    """mm along right, anterior, superior."""
    extent: tuple[Span, Span, Span]
    """Field of view in mm along right, anterior, superior."""
    before: dict[str, dict[str, Span]]
    """Channel → number of the scaling step → span."""
    after: dict[str, dict[str, Span]]
    """Channel → number after scaling → span."""
    mask_ml: Span
    """Volume of the mask."""
    structure_ml: dict[str, Span]
    """Class → volume; cases without the structure do not count."""
    histogram: dict[str, TrainingProfile] = Field(default_factory=dict)
    """Channel → shape of the histogram; empty in models that were written before it was stored."""
    tissues: dict[str, TrainingProfile] = Field(default_factory=dict)
    """Channel → means of the tissues; empty unless all training cases have them."""
    white_over_grey: dict[str, TrainingProfile] = Field(default_factory=dict)
    """Channel → how much brighter white matter is than grey; the same channels as `tissues`."""

    @classmethod
    def of(cls, facts: Sequence[CaseFacts]) -> TrainingFingerprint:
        """Takes the spans over at least one case."""
        shapes, spacings = (np.array([getattr(f, name) for f in facts]) for name in ("shape", "spacing"))
        return cls(
            cases=len(facts),
            shape=_spans(shapes),
            spacing=_spans(spacings),
            extent=_spans(shapes * spacings),
            before=_nested_spans([f.before for f in facts]),
            after=_nested_spans([f.after for f in facts]),
            mask_ml=Span.over(f.mask_ml for f in facts),
            structure_ml=_flat_spans([{k: v for k, v in f.structure_ml.items() if v > 0} for f in facts]),
            histogram=_profiles([f.histogram for f in facts]),
            tissues=_profiles([{name: tissue_profile(of) for name, of in f.tissues.items()} for f in facts]),
            white_over_grey=_profiles(
                [{name: (white_over_grey(of),) for name, of in f.tissues.items()} for f in facts]
            ),
        )


def _profiles(rows: Sequence[Mapping[str, tuple[float, ...]]]) -> dict[str, TrainingProfile]:
    """Profiles of the channels that all cases have."""
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: TrainingProfile.of([row[name] for row in rows]) for name in names}


def _spans(rows: NDArray[Any]) -> tuple[Span, Span, Span]:
    x, y, z = (Span.over(map(float, column)) for column in rows.T)
    return x, y, z


def _flat_spans(rows: Sequence[Mapping[str, float]]) -> dict[str, Span]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: Span.over(row[name] for row in rows if name in row) for name in names}


def _nested_spans(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, Span]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _flat_spans([row[name] for row in rows if name in row]) for name in names}


def case_facts(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    channels: Sequence[str],
    records: Sequence[Record],
    structures: Mapping[str, NDArray[np.bool_]] | None = None,
) -> CaseFacts:
    """Collects the numbers of a preprocessed case.

    Args:
        image: `[C, X, Y, Z]`, scaled.
        mask: `[X, Y, Z]`, the voxels for the statistics; all voxels if it is empty.
        affine: `[4, 4]` of the preprocessed grid.
        channels: names in the order of the image.
        records: of the chain, in its order; without any, the raw geometry is that of the preprocessed grid.
        structures: class → `[X, Y, Z]`, where the label is known.
    """
    scaling = next((r for r in records if r["step"] == "intensity"), {})
    before = {
        name: {key: float(value) for key, value in facts.items() if isinstance(value, int | float)}
        for name, facts in scaling.get("channels", {}).items()
    }
    inside = mask if mask.any() else np.ones_like(mask)
    after, histogram = {}, {}
    for name, channel in zip(channels, image, strict=True):
        values = channel[inside]
        after[name] = {"mean": float(values.mean(dtype=np.float64)), "std": float(values.std(dtype=np.float64))}
        deviation = max(after[name]["std"], 1e-12)
        histogram[name] = tuple(((np.quantile(values, LEVELS) - after[name]["mean"]) / deviation).tolist())
        levels = np.percentile(values, _PERCENTILES)
        after[name] |= {f"p{p:02d}": float(level) for p, level in zip(_PERCENTILES, levels, strict=True)}
    shape, spacing = raw_geometry(records, mask.shape, affine)
    millilitres = voxel_ml(affine, records)
    volumes = {name: float(np.count_nonzero(where)) * millilitres for name, where in (structures or {}).items()}
    return CaseFacts(
        shape=shape,
        spacing=spacing,
        before=before,
        after=after,
        mask_ml=float(np.count_nonzero(inside)) * millilitres,
        structure_ml=volumes,
        histogram=histogram,
        tissues=next((r["tissues"] for r in records if r.get("tissues")), {}),
    )


def cached_facts(case: CachedCase, channels: Sequence[str]) -> CaseFacts:
    """Collects the numbers of a training case from the workspace.

    Raises:
        WorkspaceError: its arrays are missing, or they or its record are damaged.
    """
    chain = record_if_there(case.folder / RECORD, ChainRecord)
    records = chain.records() if chain else []
    label = case.label().numpy()
    structures = {name: case.heads.belongs(label, number) for number, name in enumerate(case.classes, start=1)}
    if (label[case.scan] == IGNORED).any():
        # How large a structure is cannot be told where parts of it may not be annotated.
        structures = {}
    return case_facts(case.image().numpy(), case.mask().numpy(), case.affine, channels, records, structures)


def voxel_ml(affine: NDArray[np.float64], records: Sequence[Record]) -> float:
    """Returns the volume in ml of a voxel of the preprocessed grid in the patient.

    An affine alignment to the template changes sizes; the determinant of its matrix, from the template's world to the
    scan's, corrects for it.
    """
    scale = 1.0
    for record in records:
        if record["step"] == "alignment":
            scale *= abs(float(np.linalg.det(np.asarray(record["matrix"])[:3, :3])))
    return scale * abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def raw_geometry(
    records: Sequence[Record], shape: Sequence[int], affine: NDArray[np.float64]
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Returns shape and spacing of the raw scan along the axes nearest to right, anterior, superior.

    Args:
        records: of the chain; the first one with a grid has the raw one.
        shape: of the preprocessed grid, for chains without such a record.
        affine: of the preprocessed grid.
    """
    for record in records:
        grid = record.get("native") or record.get("before")
        if grid is not None:
            shape, affine = grid["shape"], np.asarray(grid["affine"], dtype=np.float64)
            break
    axes = io_orientation(affine)[:, 0].astype(int)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    order = [int(np.flatnonzero(axes == world)[0]) for world in range(3)]
    x, y, z = (int(shape[axis]) for axis in order)
    sx, sy, sz = (float(spacing[axis]) for axis in order)
    return (x, y, z), (sx, sy, sz)

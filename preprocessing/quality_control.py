"""One picture and a few numbers per case, so that a bad mask or alignment is seen at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data.stored_record import StoredRecord
from data.volume import Volume
from preprocessing.content import foreground_mask
from preprocessing.grid import resample
from preprocessing.orientation import to_canonical
from preprocessing.step import Interpolation, Record
from preprocessing.subject import Subject
from preprocessing.template import load_template

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLANES = ("sagittal", "coronal", "axial")
_MASK_COLOUR, _TEMPLATE_COLOUR, _LABEL_COLOUR, _IGNORED_COLOUR = "#ffb000", "#00d0ff", "#ff3060", "#b0b0b0"
_NOT_ANNOTATED = "not annotated"
_MARGINS = {"left": 0.03, "right": 0.99, "bottom": 0.05, "wspace": 0.06, "hspace": 0.2}
Overlays = Mapping[str, tuple[Volume | None, str]]
"""What is drawn → its share of each voxel, and the colour of its outline."""


class QualityRecord(StoredRecord):
    """The numbers by which a preprocessed case is judged: `qc.json`."""

    case: str
    """Name of the case."""
    doubts: tuple[str, ...] = ()
    """What the checks found wrong with the scan itself."""
    suspect: tuple[str, ...] = ()
    """What the steps found implausible, each after its step's name."""
    mask_volume_ml: float | None = None
    """Volume of the brain mask, if one was made."""
    registration_metric: float | None = None
    """Mutual information with the template in nats, if the case was aligned."""
    template_overlap: float | None = None
    """Dice of the case's brain mask and the template's."""

    def numbers(self) -> dict[str, float]:
        """The available numbers, by name."""
        names = ("mask_volume_ml", "registration_metric", "template_overlap")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def case_picture(
    raw: Subject, processed: Subject, records: Sequence[Record], path: Path, doubts: Sequence[str] = ()
) -> QualityRecord:
    """Draws one case and returns its numbers.

    The rows show the raw scan with the brain mask, the result with the template's edges and the label, both in three
    planes, and the histograms of intensities before and after.

    Returns:
        The numbers by which the case is judged.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    quality = case_numbers(raw, records).model_copy(update={"doubts": tuple(doubts)})
    figure = Figure(figsize=(12, 7.2), facecolor="white")
    FigureCanvasAgg(figure)
    # A layout that is looked for takes a third of the time, and a cohort has thousands of these pictures.
    headline = _headline(quality)
    axes = figure.subplots(2, 4, gridspec_kw={**_MARGINS, "top": 0.94 - 0.025 * _lines(headline)})
    native = to_canonical(raw.reference)
    mask, label = _native_mask(native, processed, records), raw.label
    overlays: dict[str, tuple[Volume | None, str]] = {"mask": (mask, _MASK_COLOUR)}
    if label is not None:
        for name, (drawn, colour) in _drawn(raw, to_canonical(label)).items():
            share = resample(drawn, native.shape, native.affine, Interpolation.LINEAR, antialias=False)
            overlays[name] = (share, colour)
    _draw_row(axes[0, :3], "raw scan", native, overlays)
    edges = _template_edges(processed, records)
    overlays = {"template": (edges, _TEMPLATE_COLOUR)}
    if processed.label is not None:
        overlays |= _drawn(processed, processed.label)
    _draw_row(axes[1, :3], "result", processed.reference, overlays)
    _draw_histogram(axes[0, 3], raw, raw.mask, "before")
    _draw_histogram(axes[1, 3], processed, processed.mask, "after")
    colour = "#b00020" if quality.suspect or doubts else "black"
    figure.suptitle(_literal(headline), fontsize=10, color=colour, wrap=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the software's name and version the same case gives the same bytes.
    figure.savefig(path, dpi=80, metadata={"Software": None})
    return quality


def case_numbers(raw: Subject, records: Sequence[Record]) -> QualityRecord:
    """Returns the numbers of `case_picture` from the records alone."""
    by_step = {record["step"]: record for record in records}
    suspect = tuple(f"{record['step']}: {reason}" for record in records for reason in record["suspect"])
    numbers: dict[str, float] = {}
    for key, step, field in (
        ("mask_volume_ml", "skull_strip", "volume_ml"),
        ("registration_metric", "alignment", "metric"),
        ("template_overlap", "alignment", "overlap"),
    ):
        if field in by_step.get(step, {}):
            numbers[key] = float(by_step[step][field])
    return QualityRecord(case=raw.name, suspect=suspect, **numbers)


def _headline(quality: QualityRecord) -> str:
    parts = [quality.case]
    if quality.mask_volume_ml is not None:
        parts.append(f"mask {quality.mask_volume_ml:.0f} ml")
    if quality.template_overlap is not None:
        parts.append(f"overlap with template {quality.template_overlap:.3f}")
        parts.append(f"mutual information {quality.registration_metric:.2f} nats")
    return "   ".join(parts) + "".join(f"\nSUSPECT  {reason}" for reason in [*quality.doubts, *quality.suspect])


def _lines(text: str) -> int:
    """Lines of the headline, of about 170 characters each."""
    return sum(1 + len(line) // 170 for line in text.splitlines())


def _native_mask(native: Volume, processed: Subject, records: Sequence[Record]) -> Volume | None:
    """Carries the mask to the raw scan in one step: the alignment's matrix says where the world went."""
    if processed.mask is None:
        return None
    back = np.eye(4)
    for record in records:
        if record["step"] == "alignment":
            back = np.asarray(record["matrix"])
    share = Volume(processed.mask.array.astype(np.float32), back @ processed.mask.affine)
    return resample(share, native.shape, native.affine, Interpolation.LINEAR, antialias=False)


def _template_edges(processed: Subject, records: Sequence[Record]) -> Volume | None:
    """Returns a map on the result's grid whose contour at one half are the template's grey-white and outer edges."""
    if not any(record["step"] == "alignment" and record["kind"] != "none" for record in records):
        return None
    template = load_template(2.0)
    edges = np.where(template.white.array > template.grey.array, 0.0, 1.0) * template.mask
    grid = processed.reference
    return resample(
        Volume(edges.astype(np.float32), template.image.affine), grid.shape, grid.affine, Interpolation.LINEAR
    )


def _drawn(subject: Subject, label: Volume) -> dict[str, tuple[Volume, str]]:
    """Shares of the structures and, where there are any, of the voxels without annotation, with their colours."""
    shares = {"label": (label.with_array(subject.structures(label).astype(np.float32)), _LABEL_COLOUR)}
    ignored = np.isin(label.array, subject.ignored)
    if ignored.any():
        shares[_NOT_ANNOTATED] = (label.with_array(ignored.astype(np.float32)), _IGNORED_COLOUR)
    return shares


def row_title(what: str, drawn: Sequence[str]) -> str:
    """Returns the title of a row: what it shows, and which outlines are drawn on it."""
    return what + (f", {' and '.join(drawn)}" if drawn else "")


def _draw_row(axes: Sequence[Axes], what: str, volume: Volume, overlays: Overlays) -> None:
    there = {name: (overlay.array, colour) for name, (overlay, colour) in overlays.items() if overlay is not None}
    axes[0].set_ylabel(row_title(what, list(there)))
    shown = list(there.values())
    index = _interesting(volume, [array for name, (array, _) in there.items() if name != _NOT_ANNOTATED])
    low, high = np.percentile(volume.array, [1, 99.5])
    for plane, axis in enumerate(axes):
        rows, columns = [a for a in (2, 1, 0) if a != plane][:2]
        aspect = volume.spacing[rows] / volume.spacing[columns]
        image = volume.array.take(index[plane], axis=plane).T
        axis.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=aspect)
        for array, colour in shown:
            cut = array.take(index[plane], axis=plane).T
            if cut.min() < 0.5 <= cut.max():
                axis.contour(cut, levels=[0.5], colors=colour, linewidths=0.8)
        axis.set(xticks=[], yticks=[])
        axis.set_title(PLANES[plane], fontsize=8)


def _interesting(volume: Volume, overlays: list[NDArray]) -> list[int]:
    """Slices through the middle of mask or template, moved to the largest section of the label where there is one."""
    index = [n // 2 for n in volume.shape]
    for array in overlays:
        inside = array > 0.5
        if inside.any():
            for axis in range(3):
                profile = inside.sum(axis=tuple(a for a in range(3) if a != axis))
                # The mask's middle is what a reader expects; a label is small, so its largest section counts.
                whole = profile.sum() > 0.05 * volume.array.size
                middle = np.average(np.arange(len(profile)), weights=profile)
                index[axis] = round(float(middle)) if whole else int(profile.argmax())
    return index


def _literal(text: str) -> str:
    """Escapes `$`, which would begin a formula in the name of a case or channel."""
    return text.replace("$", r"\$")


def _draw_histogram(axis: Axes, subject: Subject, mask: Volume | None, title: str) -> None:
    for name, volume in subject.channels.items():
        same = mask is not None and mask.shape == volume.shape and bool(mask.array.any())
        # Air would dwarf everything else.
        inside = mask.array > 0 if mask is not None and same else foreground_mask(volume)
        values = (volume.array[inside] if inside.any() else volume.array.ravel()).astype(np.float64)
        low, high = (float(p) for p in np.percentile(values, [0.5, 99.5]))
        counts, edges = np.histogram(values, bins=80, range=(low, max(high, low + 1e-3)), density=True)
        axis.stairs(counts, edges, label=_literal(name))
    axis.set_title(f"intensities {title}", fontsize=8)
    axis.set_yticks([])
    axis.tick_params(labelsize=7)
    # More numbers of six digits would run into each other.
    axis.locator_params(axis="x", nbins=5)
    axis.legend(fontsize=7)

"""Translated source images: what the source networks were shown, and how far it is from the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data.stored_record import record_if_there
from pipeline.report.image_model_figures import slice_grid
from pipeline.report.number_text import counted, listing, number, percent
from pipeline.report.section import Material, Section
from pipeline.storage.file_names import PICTURES, TRANSLATIONS
from pipeline.storage.tensors import load_about, load_arrays
from pipeline.training.translation_options import NoTranslation, RandomContrast
from pipeline.training.translation_record import ABOUT, TranslationRecord

_SCAN_COLOURS = 64
"""Of a picture of grey slices."""
_WORDS = {"pool": "pool patient", "unlabelled": "unlabelled patient"}


def translation_section(material: Material) -> Section:
    """Builds the section from `translate-source/KIND/`, of the kind that the study has."""
    title, config = "Translated source", material.files.config
    options = NoTranslation() if config is None or config.source is None else config.source.translate
    folder = material.files.root / TRANSLATIONS / options.kind
    record = record_if_there(folder / ABOUT, TranslationRecord)
    if record is None or isinstance(options, NoTranslation):
        text = f"translate-source/{options.kind} holds no record: the train-source stage writes it before it trains."
        return Section("translation", title, missing=(text,))
    content: dict[str, Any] = {
        "kind": record.options.kind.replace("_", " "),
        "drawn": isinstance(record.options, RandomContrast),
        # Another share prepares nothing anew: the record has that of the first training.
        "share": percent(options.share),
        "source_scans": counted(record.source_scans, "source scan"),
        "whose": listing([counted(len(own), _WORDS[role]) for role, own in record.patients.items()]),
        "distances": _distances(record),
    }
    path = folder / PICTURES
    if path.is_file():
        slices, names = load_arrays(path), load_about(path)
        figure = translation_figure(slices, names["source"], names["target"])
        alt = f"Slices of {counted(len(names['source']), 'source scan')}, translated, and of target scans"
        content["picture"] = material.pictures.add("source-translation", figure, alt, colours=_SCAN_COLOURS)
    return Section("translation", title, content)


def _distances(record: TranslationRecord) -> dict[str, Any] | None:
    found = record.distances
    if found is None:
        return None
    values = {name: number(getattr(found, name), 3) for name in ("before", "after", "within")}
    return {**values, "patches": found.patches, "nearer": found.after < found.before}


def translation_figure(slices: Mapping[str, NDArray[np.float32]], source: list[str], target: list[str]) -> Figure:
    """Draws slices `[S, X, Y]` in rows: a source scan, the same translated, and a target scan beside it.

    Args:
        slices: `source`, `translated` and, where there are target scans, `target`.
        source: names of the source scans.
        target: names of the target scans.
    """
    rows = min(len(slices["source"]), len(slices["target"])) if target else len(slices["source"])
    columns = ["source", "translated", *(["target"] if target else [])]
    drawn = np.stack([slices[name][:rows] for name in columns], axis=1)
    beside = [f"{own} / {other}" for own, other in zip(source, target, strict=False)] if target else source
    # A drawn contrast may reach far beyond what scans hold.
    scale = np.delete(drawn, columns.index("translated"), axis=1)
    return slice_grid(drawn, columns, beside[:rows], scale)

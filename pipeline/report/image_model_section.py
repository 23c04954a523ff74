"""Image models: what they learned from, how their training went, and what they make of scans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from models.image_models.objectives import Variational
from models.latent_walks import USED
from pipeline.report.image_model_figures import latent_figure, reconstruction_figure, way_figure
from pipeline.report.image_model_files import ImageModelFiles, read_image_models
from pipeline.report.number_text import counted, listing, number
from pipeline.report.page import page_environment
from pipeline.report.section import Material, Section
from pipeline.report.training_figures import image_training
from pipeline.storage.atomic import write_text

PAGE = "latents.html"
_SCAN_COLOURS = 64
"""Of a picture of grey slices."""


def image_model_section(material: Material) -> Section:
    """Builds the section from `train-image-model/NAME/`, and the page of the latents, which it links."""
    title, models = "Image models", read_image_models(material.files.root)
    if not models:
        text = "train-image-model/ holds no models: the infer stage trains them, so no arm can start from one yet."
        return Section("image-models", title, missing=(text,))
    histories = {name: own.history for name, own in models.items() if own.history}
    alt = "Error, penalty, negative ELBO, KL and learning rate of every image model"
    content: dict[str, Any] = {
        "rows": [_row(material, name, own) for name, own in models.items()],
        "picture": material.pictures.add("image-models", image_training(histories), alt) if histories else None,
        "models": [_pictured(material, name, own) for name, own in models.items() if own.slices],
        "latents": _write_latents(material, models),
    }
    return Section("image-models", title, content)


def _row(material: Material, name: str, model: ImageModelFiles) -> dict[str, Any]:
    own, options = model.record, material.files.arm_options()
    variational = isinstance(own.objective, Variational)
    return {
        "name": name,
        "objective": own.objective.kind,
        "scans": own.scans,
        "whose": listing(model.whose),
        "start": "source network 0" if own.from_source else "random",
        "steps": own.steps,
        "loss": number(_last(model, "negative_elbo" if variational else "error"), 0 if variational else 3),
        "unit": "nats per patch" if variational else "squared error",
        "arms": listing([arm for arm, choices in options.items() if choices.image_model == name]) or "–",
    }


def _last(model: ImageModelFiles, column: str) -> float:
    """Mean over the last tenth of the logged steps: single batches differ by more than training changes."""
    values = model.history.get(column, np.empty(0))
    tail = values[-max(1, len(values) // 10) :]
    return float(np.nanmean(tail)) if len(tail) and np.isfinite(tail).any() else math.nan


def _pictured(material: Material, name: str, model: ImageModelFiles) -> dict[str, Any]:
    slices, scans = model.slices, [str(scan) for scan in model.about.get("scans", ())]
    figure = reconstruction_figure(slices["original"], slices["shown"], slices["reconstructed"], scans)
    alt = f"Slices of {counted(len(scans), 'scan')}, and what the image model {name} makes of them"
    return {
        "name": name,
        "kind": model.record.objective.kind,
        "picture": material.pictures.add(f"image-model-{name}", figure, alt, colours=_SCAN_COLOURS),
    }


def _write_latents(material: Material, models: Mapping[str, ImageModelFiles]) -> str | None:
    """Writes the page of the latents of variational models; returns its address, or None where there is none."""
    walked = {name: own for name, own in models.items() if "traversal" in own.slices}
    if not walked:
        return None
    pictures = [_walks(material, name, own) for name, own in walked.items()]
    page = page_environment().get_template("latents.html.j2").render(study=material.files.title, models=pictures)
    write_text(material.pictures.folder.parent / PAGE, page)
    return PAGE


def _walks(material: Material, name: str, model: ImageModelFiles) -> dict[str, Any]:
    slices, about, add = model.slices, model.about, material.pictures.add
    activity = about["activity"]
    traversal = latent_figure(slices["traversal"], about["explained"], about["grid"], slices["original"])
    way = way_figure(slices["interpolation"], about["shares"], slices["original"])
    ends = [str(scan) for scan in about["scans"]]
    return {
        "name": name,
        "traversal": add(
            f"latent-{name}", traversal, f"Walks along principal axes of the latent of {name}", colours=_SCAN_COLOURS
        ),
        "interpolation": add(
            f"latent-{name}-way", way, f"The way from one scan to another through the latent of {name}",
            colours=_SCAN_COLOURS,
        ),
        "used": sum(value > USED for value in activity),
        "latent": len(activity),
        "encoded": about["encoded"],
        "first": ends[0],
        "second": ends[min(1, len(ends) - 1)],
    }  # fmt: skip

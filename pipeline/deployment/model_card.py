"""`docs/README.md` of a bundle: the model card (after Mitchell et al., "Model Cards for Model Reporting", 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.deployment.bundle_input import BundleInput
from pipeline.deployment.bundle_metadata import needed_packages
from pipeline.deployment.export_options import UNFILLED, ExportOptions
from pipeline.deployment.model_description import ModelDescription
from pipeline.deployment.study_evidence import StudyEvidence
from pipeline.evaluation.tables import SummaryRow

_METRICS = {
    "dice": "Dice",
    "dice_worst_tenth": "Dice of the worst tenth of patients",
    "iou": "IoU",
    "hd95": "HD95 (mm)",
    "average_surface_distance": "average surface distance (mm)",
    "surface_dice": "surface Dice",
    "relative_volume_error": "relative volume error",
    "lesion_sensitivity": "lesion sensitivity",
    "lesion_precision": "lesion precision",
    "lesion_f1": "lesion F1",
}


@dataclass(frozen=True)
class OnnxFacts:
    """What the ONNX files take.

    Attributes:
        files: their names.
        any_size: whether windows of any size go in; otherwise those of the sliding window.
    """

    files: tuple[str, ...]
    any_size: bool


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("pipeline.deployment"),
        # Markdown, not HTML.
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def model_card(
    about: ModelDescription,
    takes: BundleInput,
    digest: str,
    copies: bool,
    onnx: OnnxFacts | None,
    options: ExportOptions,
    evidence: StudyEvidence | None,
) -> str:
    """Returns the text of the card.

    Args:
        about: the model.
        takes: raw scans, or volumes that are ready for the network.
        digest: SHA-256 of the model folder's checksums.
        copies: whether the bundle holds copies of Graft's modules.
        onnx: of the ONNX files; `None` where there are none.
        options: what the owner says.
        evidence: what the study found; `None` where it is not at hand.
    """
    return (
        _templates()
        .get_template("model_card.md.j2")
        .render(
            about=about,
            takes=takes,
            digest=digest,
            copies=copies,
            onnx=onnx,
            options=options,
            evidence=evidence,
            scores=[] if evidence is None else [_score(row) for row in evidence.scores],
            packages=["monai", *needed_packages(copies)],
            window="×".join(map(str, about.patch)),
            spacing=" × ".join(_span(span.low, span.high) for span in about.fingerprint.spacing),
            shape=" × ".join(_span(span.low, span.high) for span in about.fingerprint.shape),
            structures={name: _span(span.low, span.high) for name, span in about.fingerprint.structure_ml.items()},
            unfilled=UNFILLED,
        )
    )


def _score(row: SummaryRow) -> dict[str, str]:
    name, _, label = row.metric.partition("[")
    title = _METRICS.get(name, name) + (f", {label.removesuffix(']')}" if label else "")
    return {
        "metric": title,
        "mean": f"{row.mean:.3f}",
        "interval": f"{row.ci_low:.3f} to {row.ci_high:.3f}",
        "cases": str(row.cases),
    }


def _span(low: float, high: float) -> str:
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g}–{high:.3g}"

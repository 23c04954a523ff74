"""`docs/README.md` of a bundle: the model card (Mitchell et al. 2019, "Model Cards for Model Reporting")."""

from __future__ import annotations

from typing import Any

from pipeline.deployment.bundle_facts import BundleFacts
from pipeline.deployment.card_templates import card_templates
from pipeline.deployment.export_options import UNFILLED
from pipeline.deployment.fingerprint import TrainingFingerprint
from pipeline.evaluation.measure_titles import metric_title
from pipeline.evaluation.tables import SummaryRow
from pipeline.execution.provenance import graft_version


def model_card(facts: BundleFacts) -> str:
    """Returns the text of the card."""
    about, evidence = facts.model, facts.evidence
    return (
        card_templates()
        .get_template("model_card.md.j2")
        .render(
            facts=facts,
            about=about,
            evidence=evidence,
            scores=[] if evidence is None else [_score(row) for row in evidence.scores],
            exporter=graft_version(),
            window="×".join(map(str, about.patch)),
            cases={} if about.fingerprint is None else _training_cases(about.fingerprint),
            unfilled=UNFILLED,
        )
    )


def _training_cases(spans: TrainingFingerprint) -> dict[str, Any]:
    return {
        "number": spans.cases,
        "spacing": " × ".join(_span(span.low, span.high) for span in spans.spacing),
        "shape": " × ".join(_span(span.low, span.high) for span in spans.shape),
        "structures": {name: _span(span.low, span.high) for name, span in spans.structure_ml.items()},
    }


def _score(row: SummaryRow) -> dict[str, str]:
    return {
        "metric": metric_title(row.metric),
        "mean": f"{row.mean:.3f}",
        "interval": row.no_interval or f"{row.ci_low:.3f} to {row.ci_high:.3f}",
        "cases": str(row.cases),
    }


def _span(low: float, high: float) -> str:
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g}–{high:.3g}"

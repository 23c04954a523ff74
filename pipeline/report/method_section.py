"""Methods: paragraphs made from the resolved configuration, ready for a paper, and the configuration itself."""

from __future__ import annotations

import yaml

from pipeline.report.methods_data import data_sentences, preprocessing_sentences
from pipeline.report.methods_learning import (
    arm_sentences,
    network_sentences,
    prediction_sentences,
    prior_sentences,
    source_sentences,
)
from pipeline.report.methods_statistics import measure_sentences, software_sentences, statistics_sentences
from pipeline.report.section import Material, Section
from pipeline.report.source_use import source_use


def method_section(material: Material) -> Section:
    """Builds the section of methods from `config.resolved.yaml` and what the stages wrote."""
    files = material.files
    if not files.config:
        text = "config.resolved.yaml is missing: every command writes it, so the settings of this study are not known."
        return Section("methods", "Methods", missing=(text,))
    paragraphs = {
        "Data and preprocessing": [*data_sentences(files, source_use(files)), *preprocessing_sentences(files)],
        "Networks and filter priors": [
            *network_sentences(files), *source_sentences(files), *prior_sentences(files),
        ],
        "Learning the target": arm_sentences(files),
        "Evaluation": [
            *prediction_sentences(files), *measure_sentences(files), *statistics_sentences(material),
            *software_sentences(files),
        ],
    }  # fmt: skip
    text = yaml.safe_dump(files.config, sort_keys=False, allow_unicode=True, width=100)
    shown = [(title, " ".join(sentences)) for title, sentences in paragraphs.items() if sentences]
    return Section("methods", "Methods", {"paragraphs": shown, "config": text})

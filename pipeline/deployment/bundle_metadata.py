"""`configs/metadata.json` of a bundle, following MONAI's bundle specification."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any

from data.modality import Modality
from models.heads import Heads
from pipeline.deployment.bundle_facts import BundleFacts
from pipeline.deployment.export_options import UNFILLED
from pipeline.deployment.model_description import ModelDescription
from pipeline.execution.provenance import graft_version

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def bundle_metadata(facts: BundleFacts) -> dict[str, Any]:
    """Returns the content of `configs/metadata.json`."""
    about, options, evidence = facts.model, facts.options, facts.evidence
    structures = ", ".join(about.classes)
    metadata: dict[str, Any] = {
        "schema": SCHEMA,
        "version": options.version,
        "changelog": {options.version: options.changelog},
        "monai_version": importlib.metadata.version("monai"),
        # Without the suffix of a build, such as +cpu.
        "pytorch_version": importlib.metadata.version("torch").partition("+")[0],
        "numpy_version": importlib.metadata.version("numpy"),
        "required_packages_version": _installed(facts.packages),
        "name": f"{about.study}: {about.arm_name}, {facts.patients}",
        "task": f"Segmentation of {structures} in {facts.kind}",
        "description": f"{_network_words(about)} of the arm {about.arm_name} of the study {about.study}, trained on "
        f"{facts.patients}; objective: {about.objective}.",
        "authors": options.authors or UNFILLED,
        "copyright": options.copyright or UNFILLED,
        "intended_use": options.intended_use or "Research on scans like the training cases; not a medical device.",
        "label_classes": f"{len(about.classes)} structures: "
        + ", ".join(f"{value} is {name}" for name, value in about.classes.items())
        + ("" if about.heads is Heads.EXCLUSIVE else "; they overlap, and a voxel has the sum of all that hold it"),
        "network_data_format": _data_format(about),
        "graft": {
            "version": graft_version(),
            "model_version": about.graft_version,
            "model_sha256": facts.digest,
            "input": "raw scans" if facts.takes.raw else "preprocessed volumes",
        },
    }
    if facts.kept:
        metadata["graft"]["post_processing"] = facts.kept
    if evidence is not None:
        metadata["data_source"] = evidence.data
        metadata["eval_metrics"] = {row.metric: row.mean for row in evidence.scores}
        metadata["eval_metrics_note"] = " ".join(facts.caveats)
    return metadata


def _installed(names: Sequence[str]) -> dict[str, str]:
    """Versions of the installed packages; those that only running the bundle needs may be missing."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _network_words(about: ModelDescription) -> str:
    if len(about.members) > 1:
        return f"Average over the {len(about.members)} mean networks"
    return "Mean network" if about.arm.is_bayesian else "Network"


def _data_format(about: ModelDescription) -> dict[str, Any]:
    """Input and output of the network for one window."""
    channels = [*(["background"] if about.heads is Heads.EXCLUSIVE else []), *about.classes]
    return {
        "inputs": {
            "image": {
                "type": "image",
                "format": "hounsfield" if about.modality is Modality.CT else "magnitude",
                "modality": "CT" if about.modality is Modality.CT else "MR",
                "num_channels": len(about.channels),
                "spatial_shape": list(about.patch),
                "dtype": "float32",
                "value_range": _value_range(about),
                "is_patch_data": True,
                "channel_def": {str(number): name for number, name in enumerate(about.channels)},
            }
        },
        "outputs": {
            "pred": {
                "type": "image",
                "format": "segmentation",
                "num_channels": about.target_network.outputs,
                "spatial_shape": list(about.patch),
                "dtype": "float32",
                "value_range": [],
                "is_patch_data": True,
                "channel_def": {str(number): name for number, name in enumerate(channels)},
            }
        },
    }


def _value_range(about: ModelDescription) -> list[float]:
    """Span from the 5th to the 95th percentile of the training cases after scaling; empty where it is not known."""
    if about.fingerprint is None:
        return []
    channels = about.fingerprint.after.values()
    low = min(facts["p05"].low for facts in channels)
    high = max(facts["p95"].high for facts in channels)
    return [round(low, 4), round(high, 4)]

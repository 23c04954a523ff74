"""What makes a folder of predictions a BIDS derivative: its description, the names of the labels, and what to ignore.

BIDS 1.10, "Derivatives": common data types, and imaging derivatives.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.deployment.case_files import bids_label
from pipeline.deployment.model_description import ModelDescription
from pipeline.storage.atomic import write_json, write_text
from pipeline.storage.provenance import graft_version

_IGNORED = (
    "predictions.csv",
    "prediction.json",
    "file-digests.json",
    "**/done.json",
    "**/*_dseg.png",
    "**/*_uncertainty.nii.gz",
)


def write_derivative_files(folder: Path, model: ModelDescription, digest: str) -> None:
    """Writes `dataset_description.json`, `desc-graft_dseg.tsv` and `.bidsignore`.

    Args:
        folder: of the prediction.
        model: that predicts.
        digest: SHA-256 of the model.
    """
    generator = {
        "Name": "graft",
        "Version": graft_version(),
        "Description": f"arm {model.arm_name} of the study {model.study}, {model.training_patients} training patients; "
        f"SHA-256 of the model {digest}",
    }
    description = {
        "Name": f"Segmentations of the study {model.study}",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [generator],
    }
    write_json(folder / "dataset_description.json", description)
    lines = [f"{value}\t{name}\t{bids_label(name)}\n" for name, value in sorted(model.classes.items(), key=_by_value)]
    write_text(folder / "desc-graft_dseg.tsv", "index\tname\tabbreviation\n" + "".join(lines))
    write_text(folder / ".bidsignore", "".join(f"{pattern}\n" for pattern in _IGNORED))


def _by_value(item: tuple[str, int]) -> int:
    return item[1]

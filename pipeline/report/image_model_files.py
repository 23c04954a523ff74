"""What the report reads of image models: record, history and pictures of each that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.stored_record import record_if_there
from pipeline.report.number_text import counted
from pipeline.report.study_files import History, folders, read_history
from pipeline.storage.file_names import HISTORY, IMAGE_MODELS, PICTURES
from pipeline.storage.tensors import load_about, load_arrays
from pipeline.training.image_model_files import ABOUT, ImageModelRecord
from pipeline.training.image_model_options import Scans


@dataclass(frozen=True)
class ImageModelFiles:
    """An image model of a workspace.

    Attributes:
        record: what it is.
        history: of its training.
        slices: of `pictures.safetensors`; none where they are missing.
        about: what that file says of them.
    """

    record: ImageModelRecord
    history: History
    slices: Mapping[str, NDArray[np.float32]]
    about: Mapping[str, Any]

    @property
    def whose(self) -> list[str]:
        """Whose scans it learned from, in words."""
        words = {Scans.SOURCE: "source patient", Scans.POOL: "pool patient", Scans.UNLABELLED: "unlabelled patient"}
        patients = self.record.patients
        return [counted(len(patients[role]), word) for role, word in words.items() if patients.get(role)]


def read_image_models(root: Path) -> dict[str, ImageModelFiles]:
    """Reads the image models of a workspace by name.

    Raises:
        WorkspaceError: a file is damaged.
    """
    found = {}
    for folder in folders(root / IMAGE_MODELS):
        record = record_if_there(folder / ABOUT, ImageModelRecord)
        if record is None:
            continue
        path = folder / PICTURES
        slices, about = (load_arrays(path), load_about(path)) if path.is_file() else ({}, {})
        found[folder.name] = ImageModelFiles(record, read_history(folder / HISTORY), slices, about)
    return found

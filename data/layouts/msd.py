"""The layout of the Medical Segmentation Decathlon: `dataset.json` lists the images and labels for training.

Several channels are the frames of one 4D image. Antonelli et al. 2022, The Medical Segmentation Decathlon,
Nature Communications 13, 4128.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.case import Case, ImageSource
from data.checks.finding import Level
from data.dataset import Dataset
from data.errors import DataError
from data.image_file import image_stem
from data.layouts.dataset_json import DATASET_FILE, channel_names, label_names, label_regions, path_inside, peek
from data.layouts.decathlon_case import decathlon_case
from data.layouts.patients import group_cases
from data.layouts.unused_files import unused_files


class MsdLayout:
    """`dataset.json` with `training`, `modality` and `labels`."""

    name = "msd"
    description = "MSD: dataset.json with `training`, `modality` and `labels`"

    def matches(self, root: Path) -> bool:
        """Whether `dataset.json` lists images for training."""
        content = peek(root) if root.is_dir() else None
        return content is not None and "training" in content

    def read(self, root: Path, labels: bool = True) -> Dataset:
        """Reads the dataset; see `Layout.read`."""
        path = root / DATASET_FILE
        content = peek(root) or {}
        training = content.get("training")
        if not isinstance(training, list) or not training:
            raise DataError(
                f"{path}: `training` is not a list of images",
                expected='`"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]`',
                fix="list the images that have a label or will get one",
            )
        key = "channel_names" if "channel_names" in content and "modality" not in content else "modality"
        channels = channel_names(path, content, key)
        grouped, has_patients = group_cases(root, [_case(root, entry, channels) for entry in training])
        names = label_names(path, content) if labels else {}
        regions = label_regions(path, content) if labels else {}
        findings = unused_files(root, grouped, Level.INFO, "list them in `training` if they are cases")
        return Dataset(root, self.name, grouped, channels, names, has_patients, tuple(findings), regions)


def _case(root: Path, entry: Any, channels: tuple[str, ...]) -> Case:
    if isinstance(entry, str):
        entry = {"image": entry}
    image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (None, None)
    if not isinstance(image, str) or not image or not isinstance(label, str | None):
        raise DataError(
            f"{root / DATASET_FILE}: `training` has the entry {str(entry)[:100]}",
            expected='`{"image": PATH, "label": PATH}`, where `label` may be left out',
            fix="correct that entry",
        )
    path = path_inside(root, "training", image)
    frames: list[int | None] = list(range(len(channels))) if len(channels) > 1 else [None]
    sources = {channel: ImageSource(path, frame) for channel, frame in zip(channels, frames, strict=True)}
    return decathlon_case(root, image_stem(path), sources, path_inside(root, "training", label) if label else None)

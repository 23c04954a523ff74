"""nnU-Net's raw layout: `imagesTr/CASE_0000.nii.gz`, one file for each channel, and `labelsTr/CASE.nii.gz`.

Version 2 (`channel_names`, labels name → value, `file_ending`) and version 1 (`modality`, labels value → name). Isensee
et al. 2021, nnU-Net, Nature Methods 18, 203–211; format: documentation/dataset_format.md of nnU-Net.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.case import Case, ImageSource
from data.dataset import Dataset
from data.errors import DataError
from data.image_file import SUFFIXES, image_stem, image_suffix
from data.layouts.brain_masks import ready_made_mask
from data.layouts.dataset_json import DATASET_FILE, channel_names, label_names, peek
from data.layouts.patients import group_cases

IMAGE_FOLDER = "imagesTr"
LABEL_FOLDER = "labelsTr"

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


class NnunetLayout:
    """`dataset.json` with `channel_names` and `labels`, images with a channel number at the end of their names."""

    name = "nnunet"
    description = "nnU-Net raw: dataset.json with `channel_names`, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz"

    def matches(self, root: Path) -> bool:
        """Whether `dataset.json` names channels as nnU-Net 2 does, or as version 1 with numbered images."""
        content = peek(root) if root.is_dir() else None
        if content is None:
            return False
        return "channel_names" in content or ("modality" in content and self._is_version_1(root, content))

    def _is_version_1(self, root: Path, content: Mapping[str, Any]) -> bool:
        """Version 1 lists `imagesTr/CASE.nii.gz` like MSD, but the files are `imagesTr/CASE_0000.nii.gz`."""
        training = content.get("training")
        entry = training[0] if isinstance(training, list) and training else None
        image = entry.get("image") if isinstance(entry, dict) else None
        if not isinstance(image, str):
            return False
        path = root / image
        first_channel = path.with_name(f"{image_stem(path)}_0000{image_suffix(path)}")
        return not path.exists() and first_channel.exists()

    def read(self, root: Path) -> Dataset:
        """Reads the dataset; see `Layout.read`."""
        path = root / DATASET_FILE
        content = peek(root) or {}
        key = "channel_names" if "channel_names" in content else "modality"
        channels = channel_names(path, content, key)
        ending = str(content.get("file_ending", ".nii.gz"))
        if ending not in SUFFIXES:
            raise DataError(
                f"{path}: `file_ending` is {ending!r}",
                expected=f"one of {', '.join(SUFFIXES)}",
                fix="convert the images",
            )
        listed = content.get("dataset")
        if isinstance(listed, dict):
            cases = [_listed_case(root, name, entry, channels) for name, entry in listed.items()]
        else:
            cases = _found_cases(root, channels, ending)
        grouped, has_patients = group_cases(root, cases)
        return Dataset(root, self.name, grouped, channels, label_names(path, content), has_patients)


def _found_cases(root: Path, channels: tuple[str, ...], ending: str) -> list[Case]:
    """Cases of which the folders hold at least one image or the label; what is missing of a case keeps its path."""
    images, labels = root / IMAGE_FOLDER, root / LABEL_FOLDER
    # Not hidden files, such as the `._…` that macOS leaves in archives.
    names = {image_stem(file) for file in labels.glob(f"[!.]*{ending}")}
    for file in images.glob(f"[!.]*{ending}"):
        match = _NUMBERED.fullmatch(image_stem(file))
        if match is None or int(match["channel"]) >= len(channels):
            raise DataError(
                f"{file}: the name does not end in the number of a channel",
                expected=f"CASE_0000{ending} to CASE_{len(channels) - 1:04d}{ending}, as `channel_names` has it",
                fix="rename the file, or correct `channel_names` in dataset.json",
            )
        names.add(match["case"])
    if not names:
        raise DataError(
            f"{images}: holds no image CASE_0000{ending}",
            expected="one for each case and channel",
            fix="put them there",
        )
    return [
        Case(
            name=name,
            patient=name,
            channels={c: ImageSource(images / f"{name}_{i:04d}{ending}") for i, c in enumerate(channels)},
            label=path if (path := labels / f"{name}{ending}").exists() else None,
            brain_mask=ready_made_mask(root, name),
        )
        for name in sorted(names)
    ]


def _listed_case(root: Path, name: str, entry: Any, channels: tuple[str, ...]) -> Case:
    """One entry of the key `dataset`: `{"images": [PATH, …], "label": PATH}`."""
    images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
    if not isinstance(images, list) or len(images) != len(channels) or not isinstance(label, str | None):
        raise DataError(
            f"{root / DATASET_FILE}: `dataset` has the entry {name!r}: {str(entry)[:100]}",
            expected=f"a list of {len(channels)} `images`, one for each channel, and a `label`",
            fix="correct that entry",
        )
    return Case(
        name=name,
        patient=name,
        channels={c: ImageSource(root / str(image)) for c, image in zip(channels, images, strict=True)},
        label=root / label if label else None,
        brain_mask=ready_made_mask(root, name),
    )

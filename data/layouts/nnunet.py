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
from data.checks.finding import Level
from data.dataset import Dataset
from data.errors import DataError
from data.image_file import SUFFIXES, image_stem, image_suffix
from data.input_file import is_there
from data.layouts.dataset_json import DATASET_FILE, channel_names, label_names, label_regions, path_inside, peek
from data.layouts.decathlon_case import decathlon_case
from data.layouts.patients import group_cases
from data.layouts.unused_files import unused_files

IMAGE_FOLDER = "imagesTr"
LABEL_FOLDER = "labelsTr"

NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


class NnunetLayout:
    """`dataset.json` with `channel_names` and `labels`, images with a channel number at the end of their names."""

    name = "nnunet"
    description = "nnU-Net raw: dataset.json with `channel_names`, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz"

    def matches(self, root: Path) -> bool:
        """Whether `dataset.json` names channels, unless it lists images as MSD does.

        Version 1 lists `imagesTr/CASE.nii.gz` like MSD, but the files are `imagesTr/CASE_0000.nii.gz`; and files for
        MSD are found with the key `channel_names` beside `modality`. So the first listed image that exists decides,
        unless nnU-Net's own list `dataset` is there.
        """
        content = peek(root) if root.is_dir() else None
        if content is None or not {"channel_names", "modality"} & set(content):
            return False
        if "channel_names" in content and "dataset" in content:
            return True
        numbered = self._lists_numbered(root, content)
        return "channel_names" in content if numbered is None else numbered

    def _lists_numbered(self, root: Path, content: Mapping[str, Any]) -> bool | None:
        """Whether the images that `training` lists are files with a channel number; `None` if it lists no image."""
        training = content.get("training")
        for entry in training if isinstance(training, list) else ():
            image = entry.get("image") if isinstance(entry, dict) else entry
            if not isinstance(image, str) or not Path(image).name:
                continue
            path = root / image
            if is_there(path):
                return "channel_names" in content and NUMBERED.fullmatch(image_stem(path)) is not None
            if is_there(path.with_name(f"{image_stem(path)}_0000{image_suffix(path)}")):
                return True
        return None

    def read(self, root: Path, labels: bool = True) -> Dataset:
        """Reads the dataset; see `Layout.read`."""
        path = root / DATASET_FILE
        content = peek(root) or {}
        key = "channel_names" if "channel_names" in content else "modality"
        channels = channel_names(path, content, key)
        ending = content.get("file_ending", ".nii.gz")
        if ending not in SUFFIXES:
            raise DataError(
                f"{path}: `file_ending` is {ending!r}",
                expected=f"one of {', '.join(SUFFIXES)}",
                fix="convert the images",
            )
        listed = content.get("dataset")
        if listed is None:
            cases = _found_cases(root, channels, ending)
        elif isinstance(listed, dict) and listed:
            cases = [_listed_case(root, name, entry, channels) for name, entry in listed.items()]
        else:
            raise DataError(
                f"{path}: `dataset` is {'empty' if listed == {} else 'not an object'}",
                expected='`"dataset": {"CASE": {"images": [PATH, …], "label": PATH}}`',
                fix="list the cases there, or remove the key to use those in imagesTr",
            )
        grouped, has_patients = group_cases(root, cases)
        names = label_names(path, content) if labels else {}
        regions = label_regions(path, content) if labels else {}
        fix = f"name them CASE_0000{ending} and CASE{ending}, as `file_ending` in dataset.json says"
        findings = unused_files(root, grouped, Level.WARNING, fix) if listed is None else []
        return Dataset(root, self.name, grouped, channels, names, has_patients, tuple(findings), regions)


def _found_cases(root: Path, channels: tuple[str, ...], ending: str) -> list[Case]:
    """Cases with at least one image or the label in the folders; files that are missing keep their paths."""
    images, labels = root / IMAGE_FOLDER, root / LABEL_FOLDER
    # Not hidden files, such as the `._…` that macOS leaves in archives.
    names = {image_stem(file) for file in labels.glob(f"[!.]*{ending}")}
    for file in images.glob(f"[!.]*{ending}"):
        match = NUMBERED.fullmatch(image_stem(file))
        if match is None or int(match["channel"]) >= len(channels):
            raise DataError(
                f"{file}: the name does not end in the number of a channel",
                expected=f"CASE_0000{ending} and so on up to the last channel, {len(channels) - 1:04d}",
                fix="rename the file, or correct `channel_names` in dataset.json",
            )
        names.add(match["case"])
    if not names:
        raise DataError(
            f"{images}: holds no image CASE_0000{ending}",
            expected="one for each case and channel",
            fix="put them there",
        )
    cases = []
    for name in sorted(names):
        sources = {c: ImageSource(images / f"{name}_{i:04d}{ending}") for i, c in enumerate(channels)}
        label = labels / f"{name}{ending}"
        cases.append(decathlon_case(root, name, sources, label if label.exists() else None))
    return cases


def _listed_case(root: Path, name: str, entry: Any, channels: tuple[str, ...]) -> Case:
    """One entry of the key `dataset`: `{"images": [PATH, …], "label": PATH}`."""
    images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
    names = [image for image in images if isinstance(image, str) and image] if isinstance(images, list) else []
    if images != names or len(names) != len(channels) or not isinstance(label, str | None):
        raise DataError(
            f"{root / DATASET_FILE}: `dataset` has the entry {name!r}: {str(entry)[:100]}",
            expected=f"a list of {len(channels)} `images`, one for each channel, and a `label`",
            fix="correct that entry",
        )
    sources = {c: ImageSource(path_inside(root, "dataset", i)) for c, i in zip(channels, names, strict=True)}
    return decathlon_case(root, name, sources, path_inside(root, "dataset", label) if label else None)

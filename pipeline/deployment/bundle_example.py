"""An example in a bundle: an input as the bundle takes it, and the mask that Graft's own code makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from data.case import Case
from data.image_file import write_volume
from pipeline.deployment.bundle_input import BundleInput
from pipeline.deployment.mean_network import mean_probability
from pipeline.deployment.model_description import ModelDescription
from pipeline.prediction.native_maps import NativeMaps
from pipeline.prediction.native_mask import native_mask
from pipeline.prediction.stored_prediction import read_average
from preprocessing.chain import Chain
from preprocessing.subject import load_subject

INPUT, EXPECTED = "input", "expected"


def write_example(
    folder: Path, case: Case, networks: Sequence[nn.Module], about: ModelDescription, takes: BundleInput
) -> None:
    """Writes a scan as the bundle takes it (`input/`) and the mask of the mean networks on its grid (`expected/`).

    Raises:
        GraftError: the scan cannot be read, or a preprocessing step fails on it.
    """
    raw = load_subject(case, about.channels)
    chain = Chain(about.preprocessing)
    processed, records = chain.apply(raw)
    image, grid = processed.image(), processed.reference
    probability = mean_probability(networks, torch.from_numpy(image), about)
    read = read_average(probability, about.arm.reading, tuple(about.classes), grid.spacing.tolist(), about.heads)
    values = list(about.classes.values())
    if takes.raw:
        given = list(raw.channels.values())
        native = NativeMaps(chain, records, grid.affine)
        maps = (native(own) for own in read.foreground)
    else:
        given = [grid.with_array(array) for array in image]
        maps = (grid.with_array(own.numpy()) for own in read.foreground)
    mask = native_mask(maps, values, read.thresholds, read.rules, about.heads)
    names = input_names(case.name, len(given))
    for path in (folder / INPUT, folder / EXPECTED):
        path.mkdir(parents=True, exist_ok=True)
    for name, volume in zip(names, given, strict=True):
        write_volume(volume, folder / INPUT / f"{name}.nii.gz")
    write_volume(mask, folder / EXPECTED / f"{names[0]}_mask.nii.gz")


def input_names(case: str, channels: int) -> list[str]:
    """Names of a case's files in a bundle, without suffix."""
    return [case] if channels == 1 else [f"{case}_{number:04d}" for number in range(channels)]

"""Predictions in native space: probabilities carried back to the grid on which the reference was drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.case import Case
from data.errors import DataError, WorkspaceError
from data.shared_grid import place
from data.stored_record import read_record
from data.volume import Volume, snap
from models.heads import Heads
from pipeline.prediction.native_maps import NativeMaps
from pipeline.prediction.native_mask import native_mask
from pipeline.prediction.post_processing import ComponentRule
from pipeline.storage.file_names import RECORD
from preprocessing.chain import Chain, PreprocessingOptions
from preprocessing.coregistration import moved
from preprocessing.grid import resample
from preprocessing.step import Interpolation, Record
from preprocessing.step_record import ChainRecord

_AGAIN = "delete its folder and run `graft preprocess` again"


@dataclass(frozen=True)
class NativeCase:
    """What it takes to compare a prediction with the label as it was drawn.

    Attributes:
        case: files of the raw scan.
        channels: names of the channels in the order of preprocessing; the first one's grid is the native one.
        preprocessing: the chain that the case went through.
        classes: class name → values in the raw label map; class number k (from 1) is the k-th name.
        ignored: values of voxels without annotation.
    """

    case: Case
    channels: Sequence[str]
    preprocessing: PreprocessingOptions
    classes: Mapping[str, Sequence[int]]
    ignored: Sequence[int] = ()

    def label_files(self) -> list[Path]:
        """Files of the label as it was drawn."""
        return dataclasses.replace(self.case, channels={}, brain_mask=None).files()

    def require_label(self) -> None:
        """Checks that the raw label is at hand.

        Raises:
            WorkspaceError: it is not.
        """
        path = self.case.label
        if path is None or not path.is_file():
            raise labels_missing(f"the raw label of case {self.case.name} is missing ({path})")


def labels_missing(found: str) -> WorkspaceError:
    """Returns the error of a study that is to be measured in native space and lacks the raw labels."""
    return WorkspaceError(
        f"`evaluation.space` is `native`, but {found}",
        expected="the raw labels of the test cases where `check` found them",
        fix="bring them back, or measure on the preprocessed grid with `--set evaluation.space=preprocessed`",
    )


def in_native_space(
    probability: NDArray[np.floating],
    affine: NDArray[np.float64],
    native: NativeCase,
    folder: Path,
    thresholds: Sequence[float] | None = None,
    rules: Sequence[ComponentRule] = (),
) -> tuple[Volume, Volume]:
    """Makes the mask of a prediction as `graft predict` does, and reads the reference it is to be compared with.

    The probabilities are carried to the grid of the first channel, and the mask is made there. Where the label was
    drawn on another channel, the mask goes on to that channel's grid, by the registration that preprocessing found. A
    label whose axes are stored in another order gets the mask in that order.

    Args:
        probability: `[K, X, Y, Z]` of the classes but the background, on the preprocessed grid.
        affine: `[4, 4]` of that grid.
        native: the raw case.
        folder: of its preprocessing, with the record of what was done.
        thresholds: of the mask, of each class; `None` for the most probable class.
        rules: what is kept of the components of each class; everything without rules.

    Returns:
        Prediction and reference as codes of `Heads` `[X, Y, Z]`, on the label's own grid.

    Raises:
        WorkspaceError: the raw label or the record is missing or damaged.
        PreprocessingError: the record is of another chain.
        DataError: the label lies on the grid of no channel.
    """
    native.require_label()
    records = read_record(folder / RECORD, ChainRecord, _AGAIN).records()
    raw = native.case.read_label()
    reference = raw.with_array(Heads.of(native.classes).codes(raw.array, native.classes, native.ignored))
    maps = NativeMaps(Chain(native.preprocessing), records, affine)
    shares = (maps(torch.from_numpy(own)) for own in probability)
    heads = Heads.of(native.classes)
    codes = [heads.code(number) for number in range(1, len(probability) + 1)]
    carried = native_mask(shares, codes, thresholds, rules, heads)
    grid, affine = _drawn_on(reference, carried, native, records)
    array = resample(carried, grid.shape, affine, Interpolation.NEAREST).array
    return snap(Volume(array, grid.affine), reference), reference


def _drawn_on(
    label: Volume, carried: Volume, native: NativeCase, records: Sequence[Record]
) -> tuple[Volume, NDArray[np.float64]]:
    """The grid of the channel that a label was drawn on, and its affine in the world of the first channel.

    The two differ where coregistration moved that channel.
    """
    first, *others = native.channels
    try:
        place(label, {first: carried}, "label")
        return carried, carried.affine
    except DataError:
        grids = {name: native.case.channels[name].read() for name in others}
    name = place(label, {first: carried, **grids}, "label").channel
    registered: dict[str, Record] = next((r["channels"] for r in records if r["step"] == "coregistration"), {})
    facts, grid = registered.get(name, {}), grids[name]
    if not facts.get("moved"):
        return grid, grid.affine
    return grid, moved(grid, np.asarray(facts["matrix"], dtype=np.float64)).affine

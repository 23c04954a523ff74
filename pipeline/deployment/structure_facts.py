"""Volume, interval and expected Dice of each predicted structure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.volume import Volume
from pipeline.evaluation.case_review import predicted_uncertainty
from pipeline.evaluation.dice_fit import DiceFit, unchecked
from pipeline.evaluation.options import CalibrationOptions
from pipeline.evaluation.volume_interval import volume_interval
from pipeline.prediction.boundary_band import possible_voxels
from pipeline.prediction.correlated_volume import correlated_volume_interval
from pipeline.prediction.expected_dice import DrawMasks, expected_dice
from pipeline.prediction.stored_prediction import ReadPrediction


def structure_facts(
    mask: Volume,
    values: Mapping[str, int],
    read: ReadPrediction,
    draws: DrawMasks,
    spacing: Sequence[float],
    voxel_ml: float,
    fits: Mapping[str, DiceFit],
    information: NDArray[np.floating] | None = None,
) -> dict[str, dict[str, Any]]:
    """Collects the numbers of each structure.

    Args:
        mask: label map on the raw grid.
        values: class name → value in it.
        read: the averaged probabilities on the preprocessed grid, and how they are read.
        draws: masks of the draws on the preprocessed grid.
        spacing: mm between voxel centres of the preprocessed grid.
        voxel_ml: volume of a voxel of the preprocessed grid in the patient.
        fits: class → fit of expected to real Dice.
        information: `[X, Y, Z]` mutual information in nats on the preprocessed grid; `None` for one draw.

    Returns:
        Class → numbers, JSON-able; `None` where a number is not known.
    """
    foreground = read.foreground.cpu()
    facts = {}
    for number, (name, value) in enumerate(values.items(), start=1):
        voxels = int(np.count_nonzero(read.heads.holds(mask.array, value)))
        own, predicted = foreground[number - 1].numpy(), read.heads.belongs(read.mask, number)
        expected = expected_dice(own, predicted, spacing)
        if read.voxel_correlation is None:
            found = volume_interval(np.asarray(draws.voxels(number)) * voxel_ml)
            interval = None if found is None else (found.low, found.high)
        else:
            possible = own[possible_voxels(read.heads.belongs(read.most_probable, number), spacing)]
            # A structure that was not found has no interval.
            interval = correlated_volume_interval(possible, read.voxel_correlation, voxel_ml) if possible.size else None
        facts[name] = {
            "label": value,
            "voxels": voxels,
            "volume_ml": voxels * mask.voxel_volume / 1000,
            "volume_90_percent_ml": None if interval is None else list(interval),
            "dice": _estimate(fits.get(name), expected),
            "expected_dice": _known(expected),
            "dice_between_draws": _known(draws.agreement(number)),
            **_uncertainty(read, information, number, spacing),
            "dice_line": _on_the_line(fits.get(name), expected),
        }
    return facts


def _uncertainty(
    read: ReadPrediction,
    information: NDArray[np.floating] | None,
    number: int,
    spacing: Sequence[float],
) -> dict[str, float | None]:
    """What the report measures of test cases, in the same band around the boundary of the mask."""
    usual = CalibrationOptions()
    found = predicted_uncertainty(
        read.foreground.cpu().numpy(),
        read.mask,
        information,
        number,
        spacing,
        band=usual.band,
        clamp=usual.clamp,
        heads=read.heads,
    )
    return {"entropy": _known(found.entropy), "mutual_information": _known(found.mutual_information)}


def _estimate(fit: DiceFit | None, expected: float) -> dict[str, Any] | None:
    """The number that is shown (`DiceEstimate`); the others are only in the file."""
    if math.isnan(expected):
        return None
    return asdict(unchecked(expected) if fit is None else fit.estimate(expected))


def _on_the_line(fit: DiceFit | None, expected: float) -> dict[str, float | int] | None:
    if fit is None or math.isnan(expected):
        return None
    return {"dice": fit.line(expected), "residual": fit.residual, "slope": fit.slope, "test_cases": fit.cases}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value

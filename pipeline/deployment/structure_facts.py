"""Volume, interval and expected Dice of each predicted structure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from data.volume import Volume
from pipeline.evaluation.dice_fit import DiceFit, unchecked
from pipeline.evaluation.volume_interval import volume_interval
from pipeline.prediction.boundary_band import possible_voxels
from pipeline.prediction.correlated_volume import correlated_volume_interval
from pipeline.prediction.expected_dice import DrawMasks, expected_dice
from pipeline.prediction.most_probable import predicted_classes
from pipeline.prediction.posterior_average import PosteriorAverage


def structure_facts(
    mask: Volume,
    values: Mapping[str, int],
    average: PosteriorAverage,
    draws: DrawMasks,
    spacing: Sequence[float],
    voxel_ml: float,
    fits: Mapping[str, DiceFit],
    thresholds: Sequence[float] | None = None,
    voxel_correlation: float | None = None,
) -> dict[str, dict[str, Any]]:
    """Collects the numbers of each structure.

    Args:
        mask: label map on the raw grid.
        values: class name → value in it.
        average: moments on the preprocessed grid.
        draws: masks of the draws on the preprocessed grid.
        spacing: mm between voxel centres of the preprocessed grid.
        voxel_ml: volume of a voxel of the preprocessed grid in the patient.
        fits: class → expected against real Dice.
        thresholds: of the mask, of each class; `None` for the most probable class.
        voxel_correlation: ρ of the volume interval; `None` for the interval of the draws' masks.

    Returns:
        class → numbers, JSON-able; `None` where something cannot be said.
    """
    foreground = average.probability[1:].cpu()
    most_probable = predicted_classes(foreground).numpy()
    chosen = most_probable if thresholds is None else predicted_classes(foreground, thresholds).numpy()
    facts = {}
    for number, (name, value) in enumerate(values.items(), start=1):
        voxels = int(np.count_nonzero(mask.array == value))
        own, predicted = foreground[number - 1].numpy(), chosen == number
        expected = expected_dice(own, predicted, spacing)
        if voxel_correlation is None:
            found = volume_interval(np.asarray(draws.voxels(number)) * voxel_ml)
            interval = None if found is None else (found.low, found.high)
        else:
            possible = own[possible_voxels(most_probable == number, spacing)]
            # That nothing was found says nothing of how large it is.
            interval = correlated_volume_interval(possible, voxel_correlation, voxel_ml) if possible.size else None
        facts[name] = {
            "label": value,
            "voxels": voxels,
            "volume_ml": voxels * mask.voxel_volume / 1000,
            "volume_90_percent_ml": None if interval is None else list(interval),
            "dice": _estimate(fits.get(name), expected),
            "expected_dice": _known(expected),
            "dice_between_draws": _known(draws.agreement(number)),
            "dice_line": _on_the_line(fits.get(name), expected),
        }
    return facts


def _estimate(fit: DiceFit | None, expected: float) -> dict[str, Any] | None:
    """The one number that is shown, `DiceEstimate`; the others are for those who look into the file."""
    if math.isnan(expected):
        return None
    return asdict(unchecked(expected) if fit is None else fit.estimate(expected))


def _on_the_line(fit: DiceFit | None, expected: float) -> dict[str, float | int] | None:
    if fit is None or math.isnan(expected):
        return None
    return {
        "dice": fit.line(expected),
        "residual": fit.residual,
        "slope": fit.slope,
        "test_cases": fit.cases,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value

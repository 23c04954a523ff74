"""`graft.metrics` are the metrics of `graft evaluate`, with its policy for empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from data.errors import ConfigError, DataError
from data.volume import Volume
from graft import metrics


def cube(low: int, high: int, size: int = 12) -> np.ndarray:
    array = np.zeros((size, size, size), dtype=bool)
    array[low:high, low:high, low:high] = True
    return array


def test_overlap_of_two_cubes() -> None:
    first, second = cube(2, 6), cube(4, 8)
    assert metrics.dice(first, second) == 2 * 8 / 128
    assert metrics.iou(first, second) == 8 / 120
    assert metrics.relative_volume_error(cube(2, 6), cube(2, 7)) == (125 - 64) / 125


def test_distances_take_the_spacing_of_a_volume() -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    shifted = np.roll(cube(3, 7), 1, axis=0)
    first, second = Volume(cube(3, 7), affine), Volume(shifted.astype(np.uint8) * 4, affine)
    assert metrics.hd95(first, second) == 2.0
    assert metrics.hd95(first, second.to_nibabel()) == 2.0
    assert metrics.hd95(cube(3, 7), shifted, (2, 2, 2)) == 2.0
    assert metrics.hd95(cube(3, 7), shifted, (1, 1, 1)) == 1.0
    assert metrics.surface_dice(first, second, tolerance=2.0) == 1.0
    assert metrics.surface_dice(first, second, tolerance=1.0) < 1.0
    assert 0 < metrics.average_surface_distance(first, second) < 2.0


def test_the_policy_decides_on_empty_masks() -> None:
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert metrics.dice(empty, empty) == 1.0
    assert math.isnan(metrics.dice(empty, empty, empty="skip_agreement"))
    assert metrics.dice(full, empty) == 0.0
    assert math.isnan(metrics.dice(full, empty, empty="skip_empty_reference"))
    assert metrics.dice(empty, full, empty="skip_empty_reference") == 0.0
    assert metrics.hd95(empty, full, (1, 1, 1)) == pytest.approx(math.sqrt(27))


def test_all_metrics_of_a_label_map() -> None:
    reference = cube(2, 6).astype(np.uint8) + 2 * cube(8, 11)
    prediction = np.where(reference == 2, 0, reference)
    found = metrics.measure(prediction, reference, {"a": 1, "b": 2}, (1, 1, 2), lesions=True)
    assert found["a"]["dice"] == found["a"]["lesion_f1"] == 1.0
    assert found["a"]["reference_ml"] == 64 * 2 / 1000
    assert (found["b"]["dice"], found["b"]["surface_dice"], found["b"]["predicted_ml"]) == (0.0, 0.0, 0.0)
    plain = metrics.measure(prediction, reference, {"a": 1}, (1, 1, 2))
    assert not [name for name in plain["a"] if name.startswith("lesion")]
    assert {"dice", "iou", "hd95", "average_surface_distance", "surface_dice"} <= set(plain["a"])


def test_axes_that_are_stored_the_other_way_round_are_turned() -> None:
    affine = np.eye(4)
    first = np.zeros((5, 6, 7), bool)
    first[1:3, 2:4, 1:3] = True
    turned = np.diag([-1.0, 1, 1, 1])
    turned[0, 3] = 4
    assert metrics.dice(Volume(first[::-1], turned), Volume(first, affine)) == 1.0


def test_what_is_wrong_is_one_sentence() -> None:
    with pytest.raises(DataError, match=r"shape \(2, 2, 2\), the reference \(3, 3, 3\)"):
        metrics.dice(np.ones((2, 2, 2), bool), np.ones((3, 3, 3), bool))
    with pytest.raises(DataError, match="expected one shape of three axes"):
        metrics.iou(np.ones((2, 2), bool), np.ones((2, 2), bool))
    with pytest.raises(ConfigError, match=r"measure: .*lesions.*volume"):
        metrics.measure(cube(2, 4), cube(2, 4), {"a": 1}, (1, 1, 1), lesions={"volume": 3})
    with pytest.raises(DataError, match="different grids"):
        metrics.dice(Volume(np.ones((2, 2, 2)), np.eye(4)), Volume(np.ones((2, 2, 2)), 3 * np.eye(4)))
    with pytest.raises(DataError, match="size of their voxels"):
        metrics.hd95(cube(2, 4), cube(2, 4))
    with pytest.raises(DataError, match=r"spacing is \[1.0, 0.0, 1.0\]"):
        metrics.hd95(cube(2, 4), cube(2, 4), (1, 0, 1))
    with pytest.raises(ConfigError, match="policy 'nan' for empty masks is unknown; expected one of reward_agreement"):
        metrics.dice(cube(2, 4), cube(2, 4), empty="nan")

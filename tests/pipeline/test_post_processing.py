"""What is kept of the components of a mask, on any grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from data.volume import Volume
from pipeline.metrics.components import Connectivity
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.native_mask import native_mask
from pipeline.prediction.post_processing import ComponentRule, Kept, keep_components
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import read_average

LARGEST = ComponentRule(keep=Kept.LARGEST)
EVERYTHING = ComponentRule()


def blobs(*sizes: int) -> np.ndarray:
    """Rows of so many voxels, far from each other; their class is 1."""
    mask = np.zeros((12, 3 * len(sizes), 3), np.uint8)
    for number, size in enumerate(sizes):
        mask[:size, 3 * number, 1] = 1
    return mask


def left(mask: np.ndarray, rule: ComponentRule, voxel_volume: float = 1.0) -> list[int]:
    """Sizes of the rows that a rule leaves."""
    kept = mask.copy()
    keep_components(kept, [1], [rule], voxel_volume)
    assert ((kept == mask) | (kept == 0)).all()
    return [int(n) for n in kept[:, ::3].sum(axis=(0, 2)) if n]


def test_a_rule_keeps_the_largest_or_what_is_large_enough() -> None:
    mask = blobs(3, 8, 1, 5)
    assert left(mask, EVERYTHING) == [3, 8, 1, 5]
    assert left(mask, LARGEST) == [8]
    assert left(mask, ComponentRule(minimum_volume=3)) == [3, 8, 5]
    assert left(mask, ComponentRule(minimum_volume=9)) == []
    assert left(mask, ComponentRule(minimum_volume=5, keep=Kept.LARGEST)) == [8]
    assert left(mask, ComponentRule(minimum_volume=9, keep=Kept.LARGEST)) == []
    # Of equally large ones it is the first, so that a mask does not depend on chance.
    assert left(blobs(4, 4), LARGEST) == [4]


def test_volumes_are_those_of_the_grid() -> None:
    mask = blobs(3, 8, 1, 5)
    rule = ComponentRule(minimum_volume=9)
    assert left(mask, rule, voxel_volume=3.0) == [3, 8, 5]
    # Exactly as large, with rounding.
    assert left(mask, ComponentRule(minimum_volume=0.3), voxel_volume=0.1) == [3, 8, 5]


@pytest.mark.parametrize(("connectivity", "kept"), [("faces", 2), ("edges", 3), ("corners", 4)])
def test_neighbours_are_those_of_the_connectivity(connectivity: str, kept: int) -> None:
    mask = np.zeros((5, 5, 5), np.uint8)
    for voxel in ((1, 1, 1), (1, 1, 2), (1, 2, 3), (2, 3, 4)):
        mask[voxel] = 1
    keep_components(mask, [1], [ComponentRule(keep=Kept.LARGEST, connectivity=Connectivity(connectivity))], 1.0)
    assert mask.sum() == kept


def test_every_class_has_its_own_rule_and_what_touches_is_of_two_classes() -> None:
    mask = np.zeros((10, 4, 4), np.uint8)
    mask[0:3, 0, 0], mask[3:5, 0, 0], mask[7:8, 0, 0], mask[9:10, 3, 3] = 9, 4, 9, 4
    keep_components(mask, [4, 9, 7], [EVERYTHING, LARGEST, LARGEST], 1.0)
    assert mask[:, 0, 0].tolist() == [9, 9, 9, 4, 4, 0, 0, 0, 0, 0]
    assert mask[9, 3, 3] == 4


@given(arrays(np.uint8, (6, 5, 4), elements=st.integers(0, 2)), st.sampled_from([0, 2, 5]), st.sampled_from(Kept))
def test_it_removes_whole_components_and_doing_it_twice_changes_nothing(
    mask: np.ndarray, least: int, keep: Kept
) -> None:
    rule, kept = ComponentRule(minimum_volume=least, keep=keep), mask.copy()
    keep_components(kept, [1, 2], [rule, EVERYTHING], 1.0)
    again = kept.copy()
    keep_components(again, [1, 2], [rule, EVERYTHING], 1.0)
    np.testing.assert_array_equal(again, kept)
    np.testing.assert_array_equal(kept == 2, mask == 2)
    numbered, count = ndimage.label(mask == 1, structure=np.ones((3, 3, 3)))
    sizes = [int((kept[numbered == n] == 1).sum()) for n in range(1, count + 1)]
    whole = [int((numbered == n).sum()) for n in range(1, count + 1)]
    assert all(size in (0, all_of_it) for size, all_of_it in zip(sizes, whole, strict=True))
    wanted = [n for n in whole if n >= least]
    assert sorted(filter(None, sizes)) == (sorted(wanted)[-1:] if keep is Kept.LARGEST else sorted(wanted))


def two_classes(crumb: float) -> torch.Tensor:
    """Probabilities of two classes, each a block and a crumb of so much probability, beside background."""
    foreground = torch.zeros((2, 16, 8, 8))
    foreground[0, 1:5, 1:5, 1:5], foreground[1, 8:12, 1:5, 1:5] = 0.9, 0.9
    foreground[0, 14, 6, 6], foreground[1, 6, 6, 6] = crumb, crumb
    return torch.cat([1 - foreground.sum(0, keepdim=True), foreground])


@pytest.mark.parametrize("rule", MaskRule)
def test_a_reading_names_classes_and_its_masks_are_the_same_on_the_grid_of_the_scan(rule: MaskRule) -> None:
    probability = two_classes(0.8)
    reading = ReadingOptions(mask=rule, post_processing={"rim": LARGEST})
    read = read_average(probability, reading, ("core", "rim"), (2.0, 2.0, 3.0))
    assert (read.mask[14, 6, 6], read.mask[6, 6, 6]) == (1, 0)
    assert (read.most_probable == read.mask).all()
    maps = (Volume(own.numpy(), np.diag([2.0, 2.0, 3.0, 1.0])) for own in read.foreground)
    native = native_mask(maps, [5, 7], read.thresholds, read.rules)
    np.testing.assert_array_equal(native.array, np.array([0, 5, 7])[read.mask])


def test_the_volume_of_a_crumb_is_measured_on_each_grid() -> None:
    """The crumb has 12 mm³ on a coarse grid and, as eight voxels, on a fine one."""
    reading = ReadingOptions(post_processing={"core": ComponentRule(minimum_volume=11)})
    coarse = two_classes(0.8)
    fine = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    for probability, spacing, place in ((coarse, (2, 2, 3), (14, 6, 6)), (fine, (1, 1, 1.5), (28, 12, 12))):
        for least, there in ((11, 1), (13, 0)):
            reading = ReadingOptions(post_processing={"core": ComponentRule(minimum_volume=least)})
            read = read_average(probability, reading, ("core", "rim"), spacing)
            maps = (Volume(own.numpy(), np.diag([*spacing, 1.0])) for own in read.foreground)
            native = native_mask(maps, [1, 2], None, read.rules)
            assert read.mask[place] == native.array[place] == there


def test_a_rule_says_what_it_keeps() -> None:
    assert LARGEST.words == "the largest connected component"
    assert ComponentRule(minimum_volume=50).words == "connected components of at least 50 mm³"
    both = ComponentRule(keep=Kept.LARGEST, minimum_volume=50)
    assert both.words == "the largest connected component, if it has at least 50 mm³"
    assert [rule.keeps_everything for rule in (EVERYTHING, LARGEST, both)] == [True, False, False]

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.metrics.components import Connectivity, components
from pipeline.metrics.lesions import (
    LesionCounts,
    LesionOptions,
    count_lesions,
    lesion_f1,
    lesion_precision,
    lesion_sensitivity,
)

UNIT = (1.0, 1.0, 1.0)
NEIGHBOURS = {Connectivity.FACES: 1, Connectivity.EDGES: 2, Connectivity.CORNERS: 3}
masks = arrays(bool, (4, 3, 4), elements=st.sampled_from([False, False, True]))


def mask(*voxels: tuple[int, int, int]) -> np.ndarray:
    result = np.zeros((6, 6, 6), bool)
    for voxel in voxels:
        result[voxel] = True
    return result


def searched(volume: np.ndarray, connectivity: Connectivity) -> list[set[tuple[int, ...]]]:
    """Components by search from voxel to voxel."""
    left, found = {tuple(map(int, v)) for v in np.argwhere(volume)}, []
    steps = [s for s in itertools.product((-1, 0, 1), repeat=3) if 0 < np.abs(s).sum() <= NEIGHBOURS[connectivity]]
    while left:
        front = [left.pop()]
        component = set(front)
        while front:
            voxel = front.pop()
            near = {tuple(a + b for a, b in zip(voxel, step, strict=True)) for step in steps} & left
            left -= near
            component |= near
            front += near
        found.append(component)
    return found


@settings(max_examples=40)
@given(masks, masks, st.sampled_from(Connectivity), st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([0.0, 2.0]))
def test_counts_equal_a_search(
    prediction: np.ndarray, reference: np.ndarray, connectivity: Connectivity, overlap: float, least: float
) -> None:
    def covered(lesion: set, other: set) -> bool:
        return len(lesion & other) > 0 and len(lesion & other) >= overlap * len(lesion)

    truth, found = searched(reference, connectivity), searched(prediction, connectivity)
    asked, kept = [c for c in truth if len(c) >= least], [c for c in found if len(c) >= least]
    all_asked, all_kept = set().union(*asked), set().union(*kept)
    everything = set().union(*truth)
    expected = LesionCounts(
        len(asked),
        sum(covered(lesion, all_kept) for lesion in asked),
        # One that touches only what is too small to be asked for counts neither as true nor as false.
        sum(bool(lesion & all_asked) or not lesion & everything for lesion in kept),
        sum(covered(lesion, all_asked) for lesion in kept),
    )
    got = count_lesions(
        prediction, reference, UNIT, LesionOptions(connectivity=connectivity, overlap=overlap, minimum_volume=least)
    )
    assert got == expected


def test_neighbours_by_corner_edge_and_face() -> None:
    corner, edge, face = mask((0, 0, 0), (1, 1, 1)), mask((0, 0, 0), (1, 1, 0)), mask((0, 0, 0), (1, 0, 0))
    counts = [[components(m, c).max() for m in (corner, edge, face)] for c in Connectivity]
    assert counts == [[2, 2, 1], [2, 1, 1], [1, 1, 1]]


def test_metrics_of_a_small_case() -> None:
    reference = mask((0, 0, 0), (3, 3, 3), (5, 5, 5))
    prediction = mask((0, 0, 0), (3, 3, 3), (0, 5, 0), (5, 0, 0))
    counts = count_lesions(prediction, reference, UNIT)
    assert counts == LesionCounts(reference=3, detected=2, predicted=4, true=2)
    assert (lesion_sensitivity(counts), lesion_precision(counts)) == (pytest.approx(2 / 3), 0.5)
    assert lesion_f1(counts) == pytest.approx(2 * 2 / 3 * 0.5 / (2 / 3 + 0.5))


def test_overlap_share_decides_what_is_found() -> None:
    reference = mask((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0))
    prediction = mask((0, 0, 0))
    assert [
        count_lesions(prediction, reference, UNIT, LesionOptions(overlap=share)).detected for share in (0, 0.25, 0.26)
    ] == [
        1,
        1,
        0,
    ]
    assert count_lesions(prediction, reference, UNIT, LesionOptions(overlap=1.0)).true == 1


def test_minimum_volume_is_in_cubic_millimetres() -> None:
    reference = mask((0, 0, 0), (3, 3, 3), (3, 3, 4))
    prediction = mask((0, 0, 0), (3, 3, 3), (3, 3, 4), (0, 5, 5))
    spacing = (1.0, 1.0, 3.0)
    assert count_lesions(prediction, reference, spacing, LesionOptions(minimum_volume=3.0)) == LesionCounts(2, 2, 3, 2)
    # A voxel of 3 mm³ is no lesion now: not missed, not detecting, not false.
    assert count_lesions(prediction, reference, spacing, LesionOptions(minimum_volume=6.0)) == LesionCounts(1, 1, 1, 1)
    large_on_small = mask((0, 0, 0), (0, 0, 1), (3, 3, 3), (3, 3, 4))
    assert count_lesions(large_on_small, reference, spacing, LesionOptions(minimum_volume=6.0)) == LesionCounts(
        1, 1, 1, 1
    )


def test_missed_lesions_score_zero_and_absent_ones_one() -> None:
    missed = LesionCounts(3, 0, 0, 0)
    assert (lesion_sensitivity(missed), lesion_precision(missed), lesion_f1(missed)) == (0, 0, 0)
    assert lesion_f1(LesionCounts(2, 0, 2, 0)) == 0.0
    absent = LesionCounts(0, 0, 0, 0)
    assert (lesion_sensitivity(absent), lesion_precision(absent), lesion_f1(absent)) == (1, 1, 1)
    invented = LesionCounts(0, 0, 2, 0)
    assert (lesion_sensitivity(invented), lesion_precision(invented), lesion_f1(invented)) == (0, 0, 0)

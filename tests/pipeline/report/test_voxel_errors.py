from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pipeline.report.voxel_errors import BINS, VoxelErrors


def counted(entropy: list[float], wrong: list[bool]) -> VoxelErrors:
    shape = (len(entropy), 1, 1)
    return VoxelErrors.count(np.reshape(entropy, shape), np.reshape(wrong, shape), np.ones(shape, bool))


@given(st.lists(st.tuples(st.integers(0, BINS - 1), st.booleans()), min_size=2, max_size=40))
def test_area_is_that_of_the_receiver_operating_characteristic(voxels: list[tuple[int, bool]]) -> None:
    entropy, wrong = [(place + 0.5) / BINS for place, _ in voxels], [w for _, w in voxels]
    area = counted(entropy, wrong).area_under_curve()
    if len(set(wrong)) < 2:
        assert np.isnan(area)
    else:
        assert area == pytest.approx(roc_auc_score(wrong, entropy), abs=1e-12)


def test_most_uncertain_voxels_hold_their_share_of_the_errors() -> None:
    errors = counted([0.9, 0.8, 0.1, 0.05], [True, False, True, False])
    assert errors.found_in_most_uncertain(0.25) == pytest.approx(0.5)
    assert errors.found_in_most_uncertain(0.75) == pytest.approx(1.0)
    assert np.isnan(counted([0.5], [False]).found_in_most_uncertain(0.5))
    shares, found = errors.found_curve(0.5, points=3)
    assert shares.tolist() == [0.0, 0.25, 0.5]
    assert found.tolist() == [0.0, 0.5, 0.5]


def test_voxels_outside_the_mask_do_not_count_and_cases_add_up() -> None:
    entropy, wrong = np.array([0.05, 0.95, 1.0]).reshape(3, 1, 1), np.array([False, True, True]).reshape(3, 1, 1)
    inside = np.array([True, True, False]).reshape(3, 1, 1)
    both = VoxelErrors.count(entropy, wrong, inside) + VoxelErrors.count(entropy, ~wrong, ~inside)
    assert (both.voxels.sum(), both.wrong.sum()) == (3, 1)
    middle, rate, voxels = both.rates(groups=10)
    assert middle[0] == pytest.approx(0.05)
    assert voxels.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert rate[0] == 0
    assert rate[-1] == pytest.approx(0.5)
    assert np.isnan(rate[1])

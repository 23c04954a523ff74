"""The grid, the patch and the strides of a plan, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.planning.patch import LARGEST, plan_patch, plan_strides
from pipeline.planning.spacing import coarser, planned_spacing

BRAIN = np.array([160.0, 180.0, 160.0])


def test_the_spacing_is_the_median_of_each_axis() -> None:
    spacings = np.array([[1.0, 1.0, 1.2], [1.0, 0.9, 1.2], [0.8, 0.9, 3.0]])
    assert planned_spacing(spacings, BRAIN)[0] == (1.0, 0.9, 1.2)


def test_thick_slices_take_the_tenth_percentile_but_none_finer_than_the_plane() -> None:
    thick = np.array([[1.0, 1.0, z] for z in (2.0, 5.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0)])
    spacing, why = planned_spacing(thick, BRAIN)
    assert spacing == (1.0, 1.0, 5.0)
    assert "10th percentile" in why
    mixed = np.array([[1.0, 1.0, 0.5]] * 2 + [[1.0, 1.0, 6.0]] * 8)
    assert planned_spacing(mixed, BRAIN)[0] == (1.0, 1.0, 1.0)


def test_a_thin_slab_of_thick_slices_alone_counts_as_anisotropic() -> None:
    thick = np.array([[1.0, 1.0, z] for z in (4.0, 6.0, 6.0)])
    assert planned_spacing(thick, np.array([100.0, 100.0, 400.0]))[0] == (1.0, 1.0, 6.0)


@pytest.mark.parametrize(
    ("spacing", "share", "expected"),
    [
        ((1.0, 1.0, 1.0), 8, (2.0, 2.0, 2.0)),
        ((1.0, 1.0, 10.0), 4, (2.0, 2.0, 10.0)),
        ((1.0, 2.0, 10.0), 2, (2.0, 2.0, 10.0)),
        ((1.0, 1.0, 2.0), 32, (4.0, 4.0, 4.0)),
    ],
)
def test_the_finest_axes_are_coarsened_first(spacing, share, expected) -> None:
    assert coarser(spacing, share) == expected


def test_an_axis_of_thick_slices_is_halved_once_its_voxels_are_nearly_cubes() -> None:
    assert plan_strides((1.5, 1.5, 10.0), np.array([72, 96, 10])) == ((2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert plan_strides((1.0, 1.0, 1.0), np.array([40, 56, 40])) == ((2, 2, 2),) * 3
    # No axis is halved to fewer than four voxels.
    assert plan_strides((1.0, 1.0, 1.0), np.array([16, 16, 7])) == ((2, 2, 1),) * 2


def test_a_small_scan_is_one_patch() -> None:
    plan = plan_patch((1.0, 1.0, 1.0), np.array([35.0, 51.0, 35.0]), np.array([20.0, 30.0, 20.0]), LARGEST["cpu"])
    # What nnU-Net plans for MSD Task04.
    assert plan.size == (40, 56, 40)
    assert plan.whole
    assert (plan.batch, plan.foreground_share) == (4, 0.0)
    assert plan.network().strides is None
    assert plan.network(halvings=1).channels == (8, 16, 32, 64)


def test_in_a_large_scan_a_patch_shows_the_structure_and_its_surroundings() -> None:
    plan = plan_patch((1.0, 1.0, 1.0), BRAIN, np.array([60.0, 40.0, 10.0]), LARGEST["cpu"])
    # One and a half times the box, 32 voxels at least, in multiples of 8.
    assert plan.size == (96, 64, 32)
    assert not plan.whole
    assert plan.foreground_share == 0.5


def test_no_patch_is_larger_than_the_largest() -> None:
    plan = plan_patch((1.0, 1.0, 1.0), np.array([400.0] * 3), np.array([300.0, 200.0, 100.0]), LARGEST["cpu"])
    assert np.prod(plan.size) <= LARGEST["cpu"]
    assert all(side % 8 == 0 for side in plan.size)

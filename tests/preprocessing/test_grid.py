from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.volume import Volume, corners
from preprocessing.grid import background_value, isotropic_grid, resample, respaced_grid
from preprocessing.registration import rotation_about
from preprocessing.step import Interpolation


def _affine(spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def _linear_volume(shape, affine, slope, offset):
    """A volume whose value is a linear function of the world, which linear interpolation reproduces."""
    index = np.stack(np.indices(shape), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return Volume((world @ slope + offset).astype(np.float32), affine)


@settings(max_examples=20)
@given(
    angles=st.tuples(*[st.floats(-30, 30)] * 3),
    spacing=st.tuples(*[st.floats(0.8, 3.0)] * 3),
    slope=st.tuples(*[st.floats(-2, 2)] * 3),
)
def test_linear_resampling_reproduces_a_linear_function_of_the_world(angles, spacing, slope):
    slope = np.array(slope)
    volume = _linear_volume(
        (20, 22, 18), rotation_about(np.zeros(3), angles) @ _affine(spacing, (-5, 3, 8)), slope, 7.0
    )
    centre = corners(volume).mean(axis=0)
    target = _affine((0.7, 0.9, 1.1), centre - 2.0)
    expected = _linear_volume((6, 5, 4), target, slope, 7.0)
    found = resample(volume, (6, 5, 4), target, Interpolation.LINEAR)
    np.testing.assert_allclose(found.array, expected.array, atol=2e-3)


def test_resampling_onto_the_same_grid_returns_the_same_values():
    volume = Volume(np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32), _affine((1, 2, 3), (4, 5, 6)))
    same = resample(volume, volume.shape, volume.affine, Interpolation.LINEAR)
    np.testing.assert_array_equal(same.array, volume.array)


def test_resampling_to_thicker_voxels_keeps_the_mean_of_noise_and_lowers_its_variance():
    noise = Volume(np.random.default_rng(0).normal(5, 1, size=(40, 40, 40)).astype(np.float32), _affine())
    shape, affine = respaced_grid(noise, np.array([4.0, 4.0, 4.0]))
    coarse = resample(noise, shape, affine, Interpolation.LINEAR).array
    plain = resample(noise, shape, affine, Interpolation.LINEAR, antialias=False).array
    assert abs(coarse.mean() - 5) < 0.05
    assert coarse.std() < 0.3 * plain.std()


@settings(max_examples=15)
@given(seed=st.integers(0, 100), angles=st.tuples(*[st.floats(-20, 20)] * 3))
def test_label_resampling_makes_no_new_values_and_leaves_the_outside_empty(seed, angles):
    rng = np.random.default_rng(seed)
    label = Volume(rng.choice([0, 2, 5], size=(8, 9, 10)).astype(np.int16), _affine((1, 1.5, 2)))
    turned = rotation_about(corners(label).mean(axis=0), angles) @ _affine((0.8, 0.8, 0.8), (-6, -6, -6))
    found = resample(label, (24, 26, 28), turned, Interpolation.NEAREST)
    assert found.array.dtype == np.int16
    assert set(np.unique(found.array)) <= {0, 2, 5}
    assert found.array[0, 0, 0] == 0


def test_touching_labels_leave_no_gap_between_them():
    # A vote of each label against one half would leave background where three labels meet.
    array = np.full((12, 12, 12), 1, dtype=np.int16)
    array[:, 6:, :] = 2
    array[6:, :, :6] = 3
    label = Volume(array, _affine())
    turned = rotation_about(np.full(3, 5.5), (17, 11, 23)) @ _affine((0.5, 0.5, 0.5), (3, 3, 3))
    assert (resample(label, (10, 10, 10), turned, Interpolation.NEAREST).array > 0).all()


def test_a_label_keeps_its_volume_on_a_finer_grid():
    array = np.zeros((20, 20, 20), dtype=np.uint8)
    array[5:14, 6:15, 4:12] = 1
    label = Volume(array, _affine((2, 2, 2)))
    shape, affine = respaced_grid(label, np.array([0.8, 0.8, 0.8]))
    fine = resample(label, shape, affine, Interpolation.NEAREST)
    assert fine.array.sum() * fine.voxel_volume == pytest.approx(array.sum() * label.voxel_volume, rel=0.03)


@given(
    shape=st.tuples(*[st.integers(2, 40)] * 3),
    old=st.tuples(*[st.floats(0.5, 6)] * 3),
    new=st.tuples(*[st.floats(0.5, 6)] * 3),
)
def test_a_respaced_grid_keeps_centre_axes_and_field_of_view(shape, old, new):
    affine = rotation_about(np.zeros(3), (10, 20, 30)) @ _affine(old, (9, 8, 7))
    volume = Volume(np.zeros(shape, np.uint8), affine)
    found_shape, found = respaced_grid(volume, np.array(new))
    respaced = Volume(np.zeros(found_shape, np.uint8), found)
    np.testing.assert_allclose(respaced.spacing, new)
    np.testing.assert_allclose(corners(respaced).mean(axis=0), corners(volume).mean(axis=0), atol=1e-9)
    extents = np.array(found_shape) * new, np.array(shape) * old
    assert (np.abs(extents[0] - extents[1]) <= np.maximum(new, 0.5 * np.array(new) + 1e-9)).all()


def test_an_isotropic_grid_covers_an_oblique_volume():
    volume = Volume(np.zeros((20, 30, 10), np.uint8), rotation_about(np.zeros(3), (30, 10, 40)) @ _affine((1, 1, 5)))
    shape, affine = isotropic_grid(volume, 3.0, margin=6.0)
    index = (corners(volume) - affine[:3, 3]) / 3.0
    assert (index > 1).all()
    assert (index < np.array(shape) - 2).all()


def test_the_background_value_is_that_of_the_faces():
    array = np.full((20, 20, 20), -0.7, dtype=np.float32)
    array[3:17, 3:17, 3:17] = np.random.default_rng(0).normal(size=(14, 14, 14))
    assert background_value(Volume(array, np.eye(4))) == pytest.approx(-0.7)

"""Geometry of volumes: orientation, corners, displacement, turning and snapping."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from data.volume import SNAP_TOLERANCE, Volume, affine_displacement, corner_displacement, corners, reorient, snap

ORIENTATIONS = ["".join(p) for letters in itertools.product("LR", "PA", "IS") for p in itertools.permutations(letters)]
shapes = st.tuples(*[st.integers(2, 6)] * 3)
spacings = st.tuples(*[st.floats(0.3, 6)] * 3)
angles = st.tuples(*[st.floats(-180, 180)] * 3)
shifts = st.tuples(*[st.floats(-200, 200)] * 3)


def affine_of(spacing: tuple[float, ...], angle: tuple[float, ...], shift: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angle, degrees=True).as_matrix() * spacing
    affine[:3, 3] = shift
    return affine


def volume_of(shape: tuple[int, ...], affine: np.ndarray) -> Volume:
    return Volume(np.arange(np.prod(shape)).reshape(shape), affine)


@pytest.mark.slow
@given(shapes, spacings, angles, shifts)
def test_spacing_and_voxel_volume_do_not_depend_on_rotation(shape, spacing, angle, shift) -> None:
    volume = volume_of(shape, affine_of(spacing, angle, shift))
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-9)
    assert volume.voxel_volume == pytest.approx(np.prod(spacing))


@given(shapes, spacings, angles, shifts, shifts)
def test_a_translation_displaces_all_corners_by_its_length(shape, spacing, angle, shift, move) -> None:
    first = volume_of(shape, affine_of(spacing, angle, shift))
    moved = first.affine.copy()
    moved[:3, 3] += move
    assert corner_displacement(first, Volume(first.array, moved)) == pytest.approx(np.linalg.norm(move), abs=1e-9)


@given(shapes, spacings, angles, shifts, st.floats(1, 10))
def test_no_voxel_moves_farther_than_the_farthest_corner(shape, spacing, angle, shift, degrees) -> None:
    first = affine_of(spacing, angle, shift)
    second = affine_of(spacing, (angle[0] + degrees, angle[1] - degrees, angle[2]), shift)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    distances = np.linalg.norm(apply_affine(first, index) - apply_affine(second, index), axis=1)
    assert distances.max() == pytest.approx(affine_displacement(first, second, shape), abs=1e-9)


def test_a_rotation_about_the_first_voxel_displaces_the_far_corner_by_its_chord() -> None:
    first = volume_of((11, 2, 2), np.eye(4))
    angle = np.deg2rad(30)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    chord = 2 * np.sin(angle / 2) * np.hypot(10, 1)
    assert corner_displacement(first, Volume(first.array, turned)) == pytest.approx(chord)
    assert corners(first).shape == (8, 3)
    assert corners(first).max(axis=0).tolist() == [10, 1, 1]


def test_the_same_grid_needs_the_same_shape_and_place() -> None:
    volume = volume_of((3, 3, 3), np.eye(4))
    near = np.eye(4)
    near[0, 3] = 5e-4
    assert volume.same_grid(Volume(volume.array, near))
    assert not volume.same_grid(Volume(volume.array, near), tolerance=1e-4)
    assert not volume.same_grid(volume_of((3, 3, 4), np.eye(4)))
    with pytest.raises(ValueError, match="different shape"):
        corner_displacement(volume, volume_of((3, 3, 4), np.eye(4)))


@given(shapes, spacings, st.sampled_from(ORIENTATIONS), st.sampled_from(ORIENTATIONS))
def test_reorienting_keeps_every_voxel_in_its_place(shape, spacing, start, end) -> None:
    volume = reorient(volume_of(shape, affine_of(spacing, (0, 0, 0), (5, -7, 9))), start)
    turned = reorient(volume, end)
    assert (volume.orientation, turned.orientation) == (start, end)
    for value in (0, volume.array.size // 2, volume.array.size - 1):
        places = [apply_affine(v.affine, np.argwhere(v.array == value)[0]) for v in (volume, turned)]
        np.testing.assert_allclose(places[0], places[1], atol=1e-9)
    back = reorient(turned, start)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-9)


@given(shapes, spacings, angles, st.sampled_from(ORIENTATIONS))
def test_snapping_turns_axes_and_takes_over_the_affine(shape, spacing, angle, orientation) -> None:
    reference = volume_of(shape, affine_of(spacing, angle, (1, 2, 3)))
    moved = reference.affine.copy()
    moved[:3, 3] += 0.9 * SNAP_TOLERANCE * min(spacing) / np.sqrt(3)
    snapped = snap(reorient(Volume(reference.array, moved), orientation), reference)
    np.testing.assert_array_equal(snapped.array, reference.array)
    assert (snapped.affine == reference.affine).all()


def test_what_lies_elsewhere_is_not_snapped() -> None:
    reference = volume_of((4, 4, 4), np.diag([1, 1, 3, 1.0]))
    moved = reference.affine.copy()
    moved[2, 3] = 1.1 * SNAP_TOLERANCE
    with pytest.raises(ValueError, match="mm apart"):
        snap(Volume(reference.array, moved), reference)
    with pytest.raises(ValueError, match="shapes"):
        snap(volume_of((4, 4, 5), reference.affine), reference)


def test_only_three_dimensions_and_a_4x4_affine_are_a_volume() -> None:
    with pytest.raises(ValueError, match="4D"):
        Volume(np.zeros((2, 2, 2, 2)), np.eye(4))
    with pytest.raises(ValueError, match="4×4"):
        Volume(np.zeros((2, 2, 2)), np.eye(3))
    with pytest.raises(ValueError, match="grid has shape"):
        Volume(np.zeros((2, 2, 2)), np.eye(4)).with_array(np.zeros((2, 2, 3)))

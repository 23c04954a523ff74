from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.volume import Volume
from preprocessing.alignment import Alignment, AlignmentKind, AlignmentOptions
from preprocessing.coregistration import Coregistration, CoregistrationOptions, moved
from preprocessing.itk_image import to_itk, use_itk_threads, world_matrix
from preprocessing.registration import (
    Degrees,
    MutualInformation,
    Optimiser,
    _transform,
    rotation_about,
    rotation_angle,
    scaling,
    shift,
    stretches,
)
from preprocessing.step import Interpolation
from preprocessing.subject import Subject
from preprocessing.template import load_template

SPACING = 4.0


@pytest.fixture(autouse=True)
def _one_thread():
    use_itk_threads(1)


def _displacement(found, true):
    """Mean distance in mm between two maps over the template's brain."""
    template = load_template(SPACING)
    points = np.argwhere(template.mask) @ template.image.affine[:3, :3].T + template.image.affine[:3, 3]
    difference = (found - true)[:3, :3] @ points.T + (found - true)[:3, 3:]
    return float(np.linalg.norm(difference, axis=0).mean())


def _inverted_brain():
    """The template's brain with another contrast: bright fluid, dark white matter."""
    template = load_template(SPACING)
    return template.image.with_array(np.where(template.mask, 1.2 - template.image.array, 0).astype(np.float32))


@settings(max_examples=20)
@given(
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    offset=st.tuples(*[st.floats(-50, 50)] * 3),
    scale=st.floats(0.7, 1.4),
    degrees=st.sampled_from(list(Degrees)),
)
def test_a_matrix_survives_the_trip_through_itk(angles, offset, scale, degrees):
    centre = np.array([3.0, -20.0, 15.0])
    matrix = shift(offset) @ rotation_about(centre, angles)
    if degrees is not Degrees.RIGID:
        matrix = matrix @ scaling(scale, centre)
    np.testing.assert_allclose(world_matrix(_transform(matrix, degrees, centre)), matrix, atol=1e-5)


def test_an_itk_image_has_its_voxels_where_the_volume_has_them():
    affine = rotation_about(np.zeros(3), (10, 20, 30)) @ np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = [5, 6, 7]
    volume = Volume(np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32), affine)
    image = to_itk(volume)
    assert image.GetPixel(1, 2, 3) == volume.array[1, 2, 3]
    world = np.array(image.TransformIndexToPhysicalPoint((1, 2, 3))) * [-1, -1, 1]
    np.testing.assert_allclose(world, affine[:3, :3] @ [1, 2, 3] + affine[:3, 3], atol=1e-9)


def test_mutual_information_is_largest_where_the_volumes_agree():
    template = load_template(SPACING)
    information = MutualInformation(template.image, _inverted_brain())
    here = information.evaluate(np.eye(4))
    assert here > information.evaluate(shift((6, 0, 0))) > information.evaluate(shift((20, 0, 0)))
    assert information.evaluate(shift((1000, 0, 0))) == 0


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [Degrees.RIGID, Degrees.AFFINE])
def test_a_known_move_is_found_back_across_contrasts(degrees):
    true = shift((7, -5, 6)) @ rotation_about(np.array([0, -18.0, 10]), (8, -5, 6))
    if degrees is Degrees.AFFINE:
        true = true @ np.diag([1.06, 0.95, 1.03, 1.0])
    template = load_template(SPACING)
    information = MutualInformation(template.image, Volume(_inverted_brain().array, true @ template.image.affine))
    start = information.optimise(np.eye(4), Optimiser(Degrees.RIGID, iterations=60, step=2.0)).matrix
    found = information.optimise(start, Optimiser(degrees, iterations=100))
    assert _displacement(found.matrix, true) < 1.5
    assert found.metric > information.evaluate(np.eye(4))


@pytest.mark.slow
def test_the_same_start_gives_the_same_matrix():
    template = load_template(SPACING)
    found = [
        MutualInformation(template.image, _inverted_brain()).optimise(shift((5, 5, 5)), Optimiser(Degrees.AFFINE, 20))
        for _ in range(2)
    ]
    np.testing.assert_array_equal(found[0].matrix, found[1].matrix)


def test_angle_and_stretches_are_read_off_a_matrix():
    turn = rotation_about(np.zeros(3), (0, 0, 25))
    assert rotation_angle(turn @ np.diag([1.1, 1.1, 1.1, 1])) == pytest.approx(25)
    np.testing.assert_allclose(stretches(turn @ np.diag([1.2, 0.9, 1.0, 1])), [1.2, 1.0, 0.9])


def test_a_channel_that_moved_is_brought_back_with_its_label():
    reference = load_template(SPACING).image
    true = shift((6, 4, -5)) @ rotation_about(np.array([0, -18.0, 10]), (6, 3, -4))
    second = Volume(_inverted_brain().array, true @ reference.affine)
    label = second.with_array((second.array > 0.5).astype(np.int16))
    step = Coregistration(CoregistrationOptions(spacings=(8.0, 6.0)))
    result, record = step.apply(Subject("a", {"T1": reference, "T2": second}, label))
    assert _displacement(np.array(record["channels"]["T2"]["matrix"]), true) < 1.5
    np.testing.assert_array_equal(result.label.affine, result.channels["T2"].affine)
    assert np.abs(result.channels["T2"].affine - reference.affine).max() < 2.5
    assert not record["suspect"]


def test_without_resampling_the_channels_end_on_the_firsts_grid():
    reference = load_template(SPACING).image
    second = Volume(_inverted_brain().array[:, :, 2:], reference.affine @ shift((0, 0, 2)))
    step = Coregistration(CoregistrationOptions(spacings=(8.0,)), resample_to_reference=True)
    result, _ = step.apply(Subject("a", {"T1": reference, "T2": second}))
    assert result.one_grid()


def test_a_channel_far_away_is_found_and_suspect():
    reference = load_template(SPACING).image
    far = moved(_inverted_brain(), shift((0, 150, 0)))
    _, record = Coregistration(CoregistrationOptions(spacings=(8.0,))).apply(Subject("a", {"T1": reference, "T2": far}))
    assert record["channels"]["T2"]["shift_mm"] == pytest.approx(150, abs=3)
    assert "T2 was shifted by 150 mm" in record["suspect"][0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AlignmentKind.RIGID, AlignmentKind.AFFINE])
def test_alignment_undoes_a_known_move_by_the_affine_alone(kind):
    template = load_template(SPACING)
    true = shift((15, -30, 40)) @ rotation_about(np.array([0, -18.0, 10]), (15, 4, -6))
    if kind is AlignmentKind.AFFINE:
        true = true @ np.diag([1.08, 0.93, 1.05, 1.0])
    scan = Volume(_inverted_brain().array, true @ template.image.affine)
    mask = scan.with_array(template.mask.astype(np.uint8))
    step = Alignment(AlignmentOptions(kind=kind, spacings=(8.0, 4.0)))
    result, record = step.apply(Subject("a", {"T2": scan}, mask=mask))
    assert _displacement(np.array(record["matrix"]), true) < 2.0
    assert result.reference.array is scan.array
    assert record["overlap"] > 0.95
    assert not record["suspect"]
    back = step.invert(result.reference, record, Interpolation.LINEAR)
    np.testing.assert_array_equal(back.affine, scan.affine)


def test_half_a_brain_is_suspect_after_alignment():
    template = load_template(SPACING)
    half = template.image.array.copy()
    half[:, : half.shape[1] // 2] = 0
    scan = template.image.with_array(half)
    _, record = Alignment(AlignmentOptions(spacings=(8.0,))).apply(Subject("a", {"T1": scan}))
    assert any("overlap badly" in reason or "stretched" in reason for reason in record["suspect"])

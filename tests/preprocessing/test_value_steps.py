from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import PreprocessingError
from data.volume import Volume
from preprocessing.bias_field import BiasField, BiasFieldOptions
from preprocessing.content import content_mask, otsu_threshold
from preprocessing.cropping import Cropping, CroppingOptions
from preprocessing.intensity import Intensity, IntensityOptions, Scaling
from preprocessing.padding import Padding, PaddingOptions
from preprocessing.step import Interpolation
from preprocessing.subject import Subject


def _subject(array, mask=None, label=None, affine=None):
    affine = np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine
    wrap = lambda a: None if a is None else Volume(a, affine)  # noqa: E731
    return Subject("a", {"T1": Volume(np.asarray(array, dtype=np.float32), affine)}, wrap(label), wrap(mask))


def _ball(shape=(16, 18, 14), radius=5.0):
    index = np.stack(np.indices(shape), axis=-1) - (np.array(shape) - 1) / 2
    return np.linalg.norm(index, axis=-1) <= radius


def test_zscore_has_mean_0_and_deviation_1_in_the_mask_and_0_outside():
    mask = _ball().astype(np.uint8)
    subject = _subject(np.random.default_rng(0).normal(300, 50, mask.shape), mask)
    step = Intensity(IntensityOptions(lower_percentile=0, upper_percentile=100))
    scaled, record = step.apply(subject)
    inside = scaled.reference.array[mask > 0]
    assert inside.mean() == pytest.approx(0, abs=1e-5)
    assert inside.std() == pytest.approx(1, abs=1e-5)
    assert (scaled.reference.array[mask == 0] == 0).all()
    assert record["channels"]["T1"]["mean"] == pytest.approx(subject.reference.array[mask > 0].mean(), rel=1e-5)


def test_zscore_clips_outliers_before_it_takes_the_mean():
    array = np.random.default_rng(0).normal(100, 10, (10, 10, 10))
    plain, _ = Intensity(IntensityOptions()).apply(_subject(array))
    spiked = array.copy()
    spiked[0, 0, :3] = 1e7
    found, _ = Intensity(IntensityOptions()).apply(_subject(spiked))
    assert found.reference.array.max() < 4
    assert np.abs(found.reference.array[1:] - plain.reference.array[1:]).max() < 0.2


def test_the_ct_window_maps_its_ends_to_0_and_1():
    values = np.linspace(-1000, 1000, 27).reshape(3, 3, 3)
    scaled, _ = Intensity(IntensityOptions(scaling=Scaling.WINDOW)).apply(_subject(values))
    np.testing.assert_allclose(scaled.reference.array, np.clip((values + 160) / 400, 0, 1), atol=1e-6)


def test_the_windowed_zscore_takes_its_moments_inside_the_window():
    values = np.array([-1000.0, -100, 0, 100, 900, 3000, -1000, 50]).reshape(2, 2, 2)
    scaled, record = Intensity(IntensityOptions(scaling=Scaling.WINDOW_ZSCORE)).apply(_subject(values))
    inside = np.array([-100.0, 0, 100, 50])
    assert record["channels"]["T1"]["mean"] == pytest.approx(inside.mean())
    expected = (np.clip(values, -160, 240) - inside.mean()) / inside.std()
    np.testing.assert_allclose(scaled.reference.array, expected, rtol=1e-5)


def test_a_window_upside_down_is_refused():
    with pytest.raises(ValueError, match="window_low"):
        IntensityOptions(window_low=10, window_high=-10)


@settings(max_examples=25)
@given(multiple=st.integers(1, 16), shape=st.tuples(*[st.integers(1, 20)] * 3))
def test_padding_makes_multiples_keeps_the_world_and_goes_back(multiple, shape):
    subject = _subject(np.random.default_rng(1).normal(size=shape))
    step = Padding(PaddingOptions(multiple=multiple))
    padded, record = step.apply(subject)
    assert all(n % multiple == 0 for n in padded.reference.shape)
    start = np.array(record["start"])
    moved = padded.reference.affine[:3, :3] @ start + padded.reference.affine[:3, 3]
    np.testing.assert_allclose(moved, subject.reference.affine[:3, 3], atol=1e-9)
    back = step.invert(padded.reference, record, Interpolation.LINEAR)
    np.testing.assert_array_equal(back.array, subject.reference.array)
    np.testing.assert_array_equal(back.affine, subject.reference.affine)


@settings(max_examples=25)
@given(margin=st.floats(0, 20), seed=st.integers(0, 50))
def test_cropping_keeps_the_mask_with_its_margin_and_goes_back(margin, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((15, 16, 17), np.uint8)
    low, high = rng.integers(0, 7, 3), rng.integers(8, 15, 3)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    subject = _subject(rng.normal(size=mask.shape), mask)
    step = Cropping(CroppingOptions(margin=margin))
    cropped, record = step.apply(subject)
    assert cropped.mask.array.sum() == mask.sum()
    wanted = np.minimum(low, np.ceil(margin / np.array([2, 2, 3]) - 1e-6))
    np.testing.assert_array_equal(low - record["start"], wanted)
    back = step.invert(cropped.mask, record, Interpolation.NEAREST)
    np.testing.assert_array_equal(back.array, mask)
    np.testing.assert_array_equal(back.affine, subject.reference.affine)


def test_a_label_that_the_crop_cuts_off_makes_the_case_suspect():
    mask, label = _ball().astype(np.uint8), np.zeros((16, 18, 14), np.int16)
    label[0, 0, 0] = 1
    _, record = Cropping(CroppingOptions(margin=0)).apply(_subject(_ball(), mask, label))
    assert "1 labelled voxels" in record["suspect"][0]


def test_a_volume_on_another_grid_is_not_carried_back():
    step = Cropping(CroppingOptions())
    cropped, record = step.apply(_subject(_ball(), _ball().astype(np.uint8)))
    shifted = cropped.reference.affine.copy()
    shifted[0, 3] += 5
    with pytest.raises(PreprocessingError, match="does not lie on the step's grid"):
        step.invert(Volume(cropped.reference.array, shifted), record, Interpolation.LINEAR)


@pytest.mark.parametrize("background", [0.0, -0.83, 1024.0])
def test_content_is_what_differs_from_the_background_whatever_its_value(background):
    ball = _ball()
    array = np.where(ball, np.random.default_rng(0).normal(background + 5, 1, ball.shape), background)
    array[8, 9, 7] = background  # a hole
    array[0, 0, 0] = background + 9  # a speck
    found = content_mask(Volume(array.astype(np.float32), np.eye(4)))
    np.testing.assert_array_equal(found, ball)


def test_a_cavity_that_opens_to_the_outside_is_background():
    content = _ball()
    content[8, 9, :] = False
    found = content_mask(Volume(content.astype(np.float32), np.eye(4)))
    np.testing.assert_array_equal(found, content)


def test_otsu_splits_two_clusters_between_them():
    values = np.concatenate([np.random.default_rng(0).normal(10, 1, 500), np.random.default_rng(1).normal(30, 1, 300)])
    assert 13 < otsu_threshold(values) < 27


def _head_with_field():
    index = np.stack(np.indices((32, 36, 30)), axis=-1) / 30.0 - 0.5
    ball = _ball((32, 36, 30), 13)
    field = np.exp(0.5 * index[..., 0] + 0.4 * index[..., 1] ** 2).astype(np.float32)
    rng = np.random.default_rng(0)
    tissue = np.where(rng.random(ball.shape) < 0.5, 100.0, 140.0) * ball
    return tissue.astype(np.float32), field, ball


def test_n4_takes_most_of_a_known_field_away():
    tissue, field, ball = _head_with_field()
    subject = _subject(tissue * field, affine=np.diag([6.0, 6.0, 6.0, 1.0]))
    corrected, record = BiasField(BiasFieldOptions(working_spacing=6.0)).apply(subject)
    assert record["channels"]["T1"]["corrected"]

    def unevenness(image):
        ratio = image[ball] / tissue[ball]
        return ratio.std() / ratio.mean()

    assert unevenness(corrected.reference.array) < 0.35 * unevenness(tissue * field)


def test_a_scan_that_was_zscored_before_is_left_alone():
    array = np.where(_ball(), np.random.default_rng(0).normal(0, 1, (16, 18, 14)), -2.0)
    subject = _subject(array, affine=np.diag([8.0, 8.0, 8.0, 1.0]))
    same, record = BiasField(BiasFieldOptions()).apply(subject)
    assert not record["channels"]["T1"]["corrected"]
    np.testing.assert_array_equal(same.reference.array, subject.reference.array)


@pytest.mark.parametrize("shape", [(2, 2, 2), (40, 2, 40), (40, 44, 3)])
def test_a_scan_too_thin_for_a_field_is_left_alone(shape):
    subject = _subject(np.random.default_rng(0).normal(300, 50, shape), affine=np.diag([1.0, 1.0, 1.0, 1.0]))
    corrected, record = BiasField(BiasFieldOptions()).apply(subject)
    assert record["channels"]["T1"]["corrected"] is False
    assert "too thin" in record["channels"]["T1"]["reason"]
    np.testing.assert_array_equal(corrected.reference.array, subject.reference.array)


def test_values_all_alike_are_on_one_side_of_the_threshold():
    assert otsu_threshold(np.full((3, 3, 3), 5.0)) == 5.0

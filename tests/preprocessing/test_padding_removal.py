"""Padding changes nothing: a scan gives the same result however far it was padded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data.borders import content_box
from data.modality import Modality
from data.random_streams import random_stream
from data.volume import Volume
from preprocessing.alignment import AlignmentOptions
from preprocessing.chain import Chain, PreprocessingOptions, default_options
from preprocessing.intensity import IntensityOptions, Scaling
from preprocessing.itk_image import use_itk_threads
from preprocessing.padding_removal import PaddingRemoval, PaddingRemovalOptions
from preprocessing.random_heads import draw_head_codes, draw_scan
from preprocessing.resampling import ResamplingOptions
from preprocessing.skull_strip import SkullStripMethod, SkullStripOptions
from preprocessing.step import Interpolation
from preprocessing.subject import Subject

_WIDTH = ((21, 30), (11, 0), (25, 18))


@pytest.fixture(scope="module")
def scan() -> Volume:
    """A raw head at 4 mm on a scale of 0 to 1000, with air at 0."""
    drawn = draw_scan(draw_head_codes(random_stream(0, "test-head")), (48, 64, 64), 4.0, random_stream(11, "test-scan"))
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-90, 40, 17]
    return Volume(1000 * drawn.image[0].numpy(), affine)


def _label(volume: Volume) -> Volume:
    return volume.with_array((np.indices(volume.shape).sum(axis=0) % 50 == 0).astype(np.int16) * (volume.array > 100))


def _padded(volume: Volume, value: float = 0.0, width=_WIDTH) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [low for low, _ in width]
    return Volume(np.pad(volume.array, width, constant_values=value).astype(volume.array.dtype), affine)


def _in_noise(volume: Volume, share: float) -> Volume:
    rng = np.random.default_rng(0)
    real, imaginary = (1000 * share * rng.standard_normal(volume.shape) for _ in range(2))
    return volume.with_array(np.hypot(volume.array + real, imaginary).astype(np.float32))


def _options(modality: Modality, spacing: float) -> PreprocessingOptions:
    options = default_options(modality)
    update: dict[str, object] = {"resampling": ResamplingOptions(spacing=spacing)}
    if options.alignment is not None:
        update["alignment"] = AlignmentOptions(spacings=(8.0,))
    if options.skull_strip is not None:
        # The quicker of the two that read the field of view.
        update["skull_strip"] = SkullStripOptions(method=SkullStripMethod.NETWORK)
    return options.model_copy(update=update)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modality", "spacing", "value"),
    [(Modality.MR_HEAD, 4.0, -1024.0)]
    + [
        (modality, spacing, value)
        for modality in (Modality.MR, Modality.CT, Modality.MR_BRAIN)
        for spacing in (4.0, 3.0)
        for value in (0.0, -1024.0, 1500.0)
    ],
)
def test_even_padding_changes_no_voxel_of_any_preset(scan, modality, spacing, value):
    use_itk_threads(1)
    if modality is Modality.MR_BRAIN:
        scan = scan.with_array(
            np.where(np.linalg.norm(np.indices(scan.shape).T - [32, 32, 24], axis=-1).T < 17, scan.array, 0)
        )
    chain = Chain(_options(modality, spacing))
    plain, _ = chain.apply(Subject("a", {"any": scan}, _label(scan)))
    padded, records = chain.apply(Subject("a", {"any": _padded(scan, value)}, _padded(_label(scan))))
    np.testing.assert_array_equal(padded.reference.array, plain.reference.array)
    np.testing.assert_allclose(padded.reference.affine, plain.reference.affine, atol=1e-9)
    np.testing.assert_array_equal(padded.label.array, plain.label.array)
    back = chain.invert(padded.label, json.loads(json.dumps(records)))
    assert back.same_grid(_padded(scan))


@pytest.mark.parametrize("share", [0.01, 0.03])
def test_a_wide_field_of_noise_hardly_changes_the_intensities_of_the_head(scan, share):
    """Clip and z-score are those of the scan with the air that it came with, within 0.05 standard deviations."""
    chain = Chain(_options(Modality.MR, 4.0))
    width = ((40, 40), (40, 40), (40, 40))
    plain, first = chain.apply(Subject("a", {"any": _in_noise(scan, share)}))
    wide, second = chain.apply(Subject("a", {"any": _in_noise(_padded(scan, width=width), share)}))
    before, after = (records[-1]["channels"]["any"] for records in (first, second))
    assert after["mean"] == pytest.approx(before["mean"], abs=0.05 * before["std"])
    assert after["std"] == pytest.approx(before["std"], rel=0.05)
    assert max(np.subtract(wide.reference.shape, plain.reference.shape)) <= 5


@pytest.mark.slow
def test_a_head_in_a_wide_field_of_noise_gets_the_brain_mask_of_the_head(scan):
    use_itk_threads(1)
    options = _options(Modality.MR_HEAD, 4.0).model_copy(
        update={
            "alignment": None,
            "resampling": None,
            "intensity": None,
            "cropping": None,
            "skull_strip": SkullStripOptions(),
        }
    )
    chain, masks = Chain(options), []
    for volume in (scan, _in_noise(_padded(scan), 0.03)):
        processed, records = chain.apply(Subject("a", {"any": volume}))
        masks.append(chain.invert(processed.mask, records).array > 0)
    inner = tuple(slice(low, low + n) for (low, _), n in zip(_WIDTH, scan.shape, strict=True))
    common = np.count_nonzero(masks[1][inner] & masks[0])
    assert 2 * common / (np.count_nonzero(masks[0]) + np.count_nonzero(masks[1])) > 0.93


def test_padding_of_hounsfield_units_inside_the_window_is_no_tissue(scan):
    """Zeros around a CT lie within the window, where they would be taken for water."""
    options = PreprocessingOptions(
        padding_removal=PaddingRemovalOptions(), intensity=IntensityOptions(scaling=Scaling.WINDOW_ZSCORE)
    )
    body = scan.with_array(scan.array - 500)
    results = [Chain(options).apply(Subject("a", {"CT": v}))[0].reference.array for v in (body, _padded(body))]
    np.testing.assert_array_equal(*results)


def test_channels_on_one_grid_stay_on_one_grid_and_lose_no_content():
    rng = np.random.default_rng(0)
    first, second = np.zeros((2, 20, 22, 24), np.float32)
    first[5:12, 6:15, 7:17] = rng.normal(100, 10, (7, 9, 10))
    second[8:16, 4:12, 9:20] = rng.normal(100, 10, (8, 8, 11))
    label = np.zeros((20, 22, 24), np.int16)
    label[18, 10, 10] = 1
    affine = np.diag([1.0, 2.0, 1.0, 1.0])
    subject = Subject("a", {"T1": Volume(first, affine), "T2": Volume(second, affine)}, Volume(label, affine))
    step = PaddingRemoval(PaddingRemovalOptions())
    cropped, record = step.apply(subject)
    assert cropped.one_grid()
    assert cropped.reference.shape == (14, 11, 13)
    assert record["start"] == [5, 4, 7]
    assert cropped.label.array.sum() == 1
    back = step.invert(cropped.label, json.loads(json.dumps(record)), Interpolation.NEAREST)
    np.testing.assert_array_equal(back.array, label)
    assert back.same_grid(subject.reference)


def test_channels_on_other_grids_lose_their_own_borders(scan):
    coarse = Volume(scan.array[::2, ::2, ::2], scan.affine @ np.diag([2.0, 2, 2, 1]))
    cropped, _ = PaddingRemoval(PaddingRemovalOptions()).apply(
        Subject("a", {"T1": _padded(scan), "T2": _padded(coarse, -5)})
    )
    for name, volume in (("T1", scan), ("T2", coarse)):
        box = content_box(volume.array, volume.spacing)
        np.testing.assert_array_equal(cropped.channels[name].array, volume.array[box])

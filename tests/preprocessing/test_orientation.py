from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.image_file import read_volume
from data.volume import Volume
from preprocessing.orientation import Orientation, OrientationOptions, to_canonical
from preprocessing.step import Interpolation
from preprocessing.subject import Subject

AXES = [
    "".join(pair[s] for pair, s in zip(order, signs, strict=True))
    for order in permutations(("LR", "PA", "IS"))
    for signs in product((0, 1), repeat=3)
]


def _stored_as(axes: str) -> Volume:
    array = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    affine = np.array([[2.0, 0.1, 0, -7], [-0.1, 1.5, 0, 3], [0, 0, 3, 11], [0, 0, 0, 1]])
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
    moved = nib.orientations.apply_orientation(array, turn)
    return Volume(moved, affine @ nib.orientations.inv_ornt_aff(turn, array.shape))


@pytest.mark.parametrize("axes", AXES)
def test_every_storage_order_becomes_one_array_and_goes_back(axes):
    stored = _stored_as(axes)
    assert stored.orientation == axes
    turned, record = Orientation(OrientationOptions()).apply(Subject("a", {"T1": stored}))
    np.testing.assert_array_equal(turned.reference.array, _stored_as("RAS").array)
    np.testing.assert_allclose(turned.reference.affine, _stored_as("RAS").affine, atol=1e-9)
    back = Orientation(OrientationOptions()).invert(turned.reference, record, Interpolation.LINEAR)
    np.testing.assert_array_equal(back.array, stored.array)
    np.testing.assert_array_equal(back.affine, stored.affine)


def test_label_and_mask_turn_with_the_image():
    stored = _stored_as("PIL")
    subject = Subject("a", {"T1": stored}, stored.with_array((stored.array > 0).astype(np.int16)))
    turned, _ = Orientation(OrientationOptions()).apply(subject)
    np.testing.assert_array_equal(turned.label.array > 0, turned.reference.array > 0)


@pytest.mark.real_data
def test_one_volume_stored_in_eight_orientations_becomes_one_array(real_data: Path):
    volumes = [to_canonical(read_volume(path)) for path in sorted((real_data / "orientations").glob("*.nii.gz"))]
    assert len(volumes) == 8
    for volume in volumes[1:]:
        np.testing.assert_array_equal(volume.array, volumes[0].array)
        np.testing.assert_allclose(volume.affine, volumes[0].affine, atol=1e-3)

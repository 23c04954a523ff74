"""Drawing patches: every batch is a function of (seed, step)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from models.heads import IGNORED
from pipeline.storage.cached_case import CachedCase
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.patches import PatchOptions, PatchSampler

OFF = AugmentationOptions(affine=0, noise=0, blur=0, brightness=0, gamma=0, low_resolution=0)


def sampler(
    patients: Sequence[Sequence[CachedCase]],
    size: tuple[int, int, int] = (8, 8, 8),
    *,
    batch: int = 2,
    foreground_share: float = 0.5,
    seed: int = 3,
    augmentation: AugmentationOptions | None = None,
) -> PatchSampler:
    options = PatchOptions(size=size, batch=batch, foreground_share=foreground_share)
    return PatchSampler(patients, options, Augmentation(augmentation or OFF), seed)


def same(first: tuple, second: tuple) -> bool:
    return torch.equal(first[0], second[0]) and torch.equal(first[1], second[1]) and first[2] == second[2]


def ramp(size: int) -> np.ndarray:
    """A volume in which every voxel tells its index."""
    return np.arange(size**3, dtype=np.float32).reshape(1, size, size, size)


def test_a_batch_is_a_function_of_seed_and_step(make_case) -> None:
    patients = [[make_case("a")], [make_case("b")]]
    strong = AugmentationOptions(affine=1, noise=1, blur=1, brightness=1, gamma=1, low_resolution=1)
    first = sampler(patients, augmentation=strong)
    in_order = [first.batch(step) for step in range(4)]
    # What was drawn before, and by which object, changes nothing.
    other = sampler(patients, augmentation=strong)
    assert all(same(other.batch(step), in_order[step]) for step in (3, 0, 2, 2, 1))
    assert not same(in_order[0], in_order[1])
    assert not same(sampler(patients, augmentation=strong, seed=4).batch(0), in_order[0])


def test_every_patch_has_an_augmentation_of_its_own(make_case) -> None:
    # Whole volumes, so that only the noise can differ.
    drawn = sampler([[make_case("a")]], (16, 16, 16), batch=2, augmentation=AugmentationOptions(affine=0, noise=1))
    images = [image for step in range(3) for image in drawn.batch(step)[0]]
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_global_random_states_are_neither_read_nor_changed(make_case) -> None:
    strong = AugmentationOptions(affine=1, noise=1, elastic=1)
    drawn = sampler([[make_case("a")]], augmentation=strong)
    torch.manual_seed(0)
    np.random.seed(0)
    before = drawn.batch(0)
    torch.manual_seed(0)
    np.random.seed(0)
    expected = (torch.rand(1), np.random.rand())
    torch.manual_seed(0)
    np.random.seed(0)
    drawn.batch(1)
    assert (torch.rand(1), np.random.rand()) == expected
    assert same(drawn.batch(0), before)


def test_shapes_and_types(make_case) -> None:
    images, labels, names = sampler([[make_case("a", channels=2)]], (6, 8, 10), batch=3).batch(0)
    assert (images.shape, images.dtype) == ((3, 2, 6, 8, 10), torch.float32)
    assert (labels.shape, labels.dtype) == ((3, 6, 8, 10), torch.int64)
    assert names == ["a"] * 3


def test_a_patch_is_the_part_of_the_volume(make_case) -> None:
    case = make_case("a", image=ramp(16))
    image, label = case.patch(np.array([2, 3, 4]), (5, 6, 7))
    np.testing.assert_array_equal(image[0].numpy(), ramp(16)[0, 2:7, 3:9, 4:11])
    np.testing.assert_array_equal(label.numpy(), case.label().numpy()[2:7, 3:9, 4:11])


def test_a_smaller_volume_lies_in_the_middle_and_its_edge_goes_on(make_case) -> None:
    label = np.ones((4, 5, 6), np.int16)
    image = np.arange(120, dtype=np.float32).reshape(1, 4, 5, 6)
    images, labels, _ = sampler([[make_case("a", image=image, label=label)]], (8, 8, 8), batch=1).batch(0)
    around = np.pad(label, ((2, 2), (1, 2), (1, 1)), constant_values=IGNORED)
    np.testing.assert_array_equal(labels[0].numpy(), around)
    np.testing.assert_array_equal(images[0, 0].numpy(), np.pad(image[0], ((2, 2), (1, 2), (1, 1)), mode="edge"))


def test_a_patch_that_is_smaller_along_one_axis_only(make_case) -> None:
    label = np.zeros((4, 16, 16), np.int16)
    label[:, 8, 8] = 1
    case = make_case("a", image=np.zeros((1, 4, 16, 16)), label=label)
    for step in range(8):
        images, labels, _ = sampler([[case]], (8, 8, 8), batch=1, foreground_share=1).batch(step)
        assert images.shape[2:] == (8, 8, 8)
        assert labels[0, 2:6, 4, 4].eq(1).all()
        assert labels[0, [0, 1, 6, 7]].eq(IGNORED).all()


def test_every_patch_is_centred_on_foreground_where_asked(make_case) -> None:
    label = np.zeros((32, 32, 32), np.int16)
    label[10, 20, 15] = 1
    case = make_case("a", image=ramp(32), label=label)
    for step in range(10):
        labels = sampler([[case]], foreground_share=1).batch(step)[1]
        assert labels[:, 4, 4, 4].eq(1).all()


def test_foreground_at_the_border_leaves_the_patch_inside(make_case) -> None:
    label = np.zeros((16, 16, 16), np.int16)
    label[0, 15, 8] = 1
    images, labels, _ = sampler([[make_case("a", image=ramp(16), label=label)]], batch=1, foreground_share=1).batch(0)
    np.testing.assert_array_equal(images[0].numpy(), ramp(16)[:, :8, 8:, 4:12])
    assert labels.sum() == 1


def test_without_bias_every_start_is_as_likely(make_case) -> None:
    # A foreground voxel in a corner: with bias it would be in half of the patches, without in 1 of 27.
    label = np.zeros((10, 10, 10), np.int16)
    label[0, 0, 0] = 1
    case = make_case("a", image=ramp(10), label=label)
    drawn = sampler([[case]], batch=1, foreground_share=0)
    starts = Counter(int(drawn.batch(step)[0][0, 0, 0, 0, 0]) for step in range(540))
    assert len(starts) == 27  # 3 starts along each axis
    # 20 expected each; chi-square with 26 degrees of freedom stays below 54 in 99.9 %.
    assert sum((count - 20) ** 2 / 20 for count in starts.values()) < 54


def test_a_case_without_foreground_is_drawn_from_all_the_same(make_case) -> None:
    case = make_case("a", label=np.zeros((16, 16, 16), np.int16), image=np.zeros((1, 16, 16, 16)))
    assert sampler([[case]], foreground_share=1).batch(0)[1].eq(0).all()


def test_patients_and_not_cases_are_drawn(make_case) -> None:
    twice = [[make_case("a1"), make_case("a2"), make_case("a3")], [make_case("b")]]
    names = Counter(name for step in range(100) for name in sampler(twice, batch=2).batch(step)[2])
    assert 70 < names["b"] < 130
    assert min(names.values()) > 10
    # A patient that the bootstrap holds twice is drawn twice as often.
    repeated = [[make_case("a")], [make_case("a")], [make_case("b")]]
    names = Counter(name for step in range(100) for name in sampler(repeated, batch=3).batch(step)[2])
    assert 170 < names["a"] < 230


def test_voxels_count_each_case_once(make_case) -> None:
    a, b = make_case("a", 16), make_case("b", 12)
    assert sampler([[a], [a], [b]]).voxels == 16**3 + 12**3


def test_labels_become_class_numbers(make_case) -> None:
    label = np.arange(6, dtype=np.int16).repeat(36).reshape(6, 6, 6)
    case = make_case("a", image=np.zeros((1, 6, 6, 6)), label=label, classes={"x": (4, 1), "y": (3,)})
    np.testing.assert_array_equal(case.label()[:, 0, 0], [0, 1, 0, 2, 1, 0])
    np.testing.assert_array_equal(sampler([[case]], (6, 6, 6)).batch(0)[1][0, :, 0, 0], [0, 1, 0, 2, 1, 0])
    assert len(case.foreground) == 3 * 36


@pytest.mark.parametrize("attribute", ["shape", "affine", "spacing", "channels"])
def test_a_case_knows_its_grid(make_case, attribute: str) -> None:
    case = make_case("a", 16, channels=2)
    expected = {"shape": (16, 16, 16), "affine": np.diag([2.0, 2, 3, 1]), "spacing": [2, 2, 3], "channels": 2}
    np.testing.assert_array_equal(getattr(case, attribute), expected[attribute])

"""Augmentation: a function of patch and seed, the same for image and label."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.heads import IGNORED
from pipeline.training.augmentation import Augmentation, AugmentationOptions

ALL = ("affine", "elastic", "noise", "blur", "brightness", "gamma", "low_resolution")


def only(**chosen: float | tuple[int, ...]) -> Augmentation:
    return Augmentation(AugmentationOptions(**(dict.fromkeys(ALL, 0.0) | chosen)))


@pytest.fixture
def patch() -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth blob off the centre and its mask."""
    axes = np.meshgrid(*(np.arange(24.0) for _ in range(3)), indexing="ij")
    distance = np.sqrt((axes[0] - 9) ** 2 + ((axes[1] - 13) / 1.5) ** 2 + (axes[2] - 12) ** 2)
    label = torch.from_numpy((distance < 5).astype(np.int64))
    return label[None].float(), label


def test_switched_off_it_changes_nothing(patch) -> None:
    image, label = only()(*patch, 1)
    assert torch.equal(image, patch[0])
    assert torch.equal(label, patch[1])


@pytest.mark.parametrize("name", ALL)
def test_every_transform_does_something_and_is_a_function_of_the_seed(patch, name: str) -> None:
    # Noise of its own, because a change of gamma leaves an image of two values as it is.
    patch = (patch[0] + torch.rand(patch[0].shape, generator=torch.Generator().manual_seed(0)), patch[1])
    augmentation = only(**{name: 1.0})
    image, label = augmentation(*patch, 5)
    assert not torch.equal(image, patch[0])
    augmentation(*patch, 6)
    for again in (augmentation, only(**{name: 1.0})):
        repeated = again(*patch, 5)
        assert torch.equal(repeated[0], image)
        assert torch.equal(repeated[1], label)
    assert not torch.equal(augmentation(*patch, 6)[0], image)
    assert type(image) is torch.Tensor
    assert (image.dtype, label.dtype) == (torch.float32, torch.int64)
    assert (image.shape, label.shape) == (patch[0].shape, patch[1].shape)


@pytest.mark.parametrize("name", ["noise", "blur", "brightness", "gamma", "low_resolution"])
def test_changes_of_intensity_leave_the_label_alone(patch, name: str) -> None:
    assert torch.equal(only(**{name: 1.0})(*patch, 5)[1], patch[1])


@pytest.mark.parametrize("name", ["affine", "elastic"])
@pytest.mark.parametrize("seed", range(5))
def test_image_and_label_move_together(patch, name: str, seed: int) -> None:
    image, label = only(**{name: 1.0})(*patch, seed)
    # The image is the label: interpolated linearly and cut at one half it is where the nearest one is.
    cut = (image[0] > 0.5).long()
    overlap = 2 * (cut * (label == 1)).sum() / (cut.sum() + (label == 1).sum())
    assert overlap > 0.93
    assert set(label.unique().tolist()) <= {IGNORED, 0, 1}
    assert not torch.equal(label, patch[1])


@pytest.mark.parametrize("name", ["affine", "elastic"])
def test_no_class_appears_between_two_others(patch, name: str) -> None:
    for seed in range(5):
        assert set(only(**{name: 1.0})(patch[0], 2 * patch[1], seed)[1].unique().tolist()) - {IGNORED} == {0, 2}


@pytest.mark.parametrize("name", ["affine", "elastic"])
def test_what_comes_from_beyond_the_patch_is_not_annotated_and_nothing_else_is(name: str) -> None:
    # Images of the coordinates tell where each voxel came from; where it was beyond the patch, one is at its edge.
    size = 16
    axes = torch.stack(torch.meshgrid(*(torch.arange(float(size)) for _ in range(3)), indexing="ij"))
    label = torch.ones((size,) * 3, dtype=torch.int64)
    added = 0
    for seed in range(5):
        moved, codes = only(**{name: 1.0, "rotation": 30.0, "elastic_magnitude": 3.0})(axes, label, seed)
        inside = ((moved > 0) & (moved < size - 1)).all(0)
        assert set(codes.unique().tolist()) <= {IGNORED, 1}
        assert (codes[inside] == 1).all()
        added += int((codes == IGNORED).sum())
        # Nearest neighbours reach half a voxel beyond the outermost centres.
        assert not inside[codes == IGNORED].any()
    assert added > 0


def test_rotation_and_scaling_stay_in_their_range(patch) -> None:
    volume = (patch[1] == 1).sum().item()
    for seed in range(10):
        scaled = only(affine=1.0, rotation=0.0, scaling=0.1)(*patch, seed)[1].eq(1).sum().item()
        assert 0.9**3 * 0.9 < scaled / volume < 1.1 / 0.9**3
        turned = only(affine=1.0, rotation=20.0, scaling=0.0)(*patch, seed)[1].eq(1).sum().item()
        assert turned == pytest.approx(volume, rel=0.05)


@pytest.mark.slow
def test_the_elastic_shift_is_as_large_as_the_options_say() -> None:
    # Three images of the coordinates show where each voxel came from.
    size = 48
    axes = torch.meshgrid(*(torch.arange(float(size)) for _ in range(3)), indexing="ij")
    inner = (slice(14, -14),) * 3
    deviations = []
    for seed in range(12):
        moved, _ = only(elastic=1.0, elastic_magnitude=2.0)(torch.stack(axes), torch.zeros((size,) * 3).long(), seed)
        deviations.append(float(torch.stack([(moved[i] - axes[i])[inner] for i in range(3)]).square().mean().sqrt()))
    # Drawn uniformly from 0 to 2; what smoothing leaves of one volume varies.
    assert 0.6 < float(np.mean(deviations)) < 1.4
    assert max(deviations) < 3.2


def test_flips_mirror_only_the_chosen_axes(patch) -> None:
    seen = dict.fromkeys(("flipped", "kept"), False)
    for seed in range(20):
        image, label = only(flip_axes=(1,))(*patch, seed)
        flipped = torch.equal(label, patch[1].flip(1))
        assert flipped or torch.equal(label, patch[1])
        assert torch.equal(image[0].long(), label)
        seen["flipped" if flipped else "kept"] = True
    assert all(seen.values())


def test_a_probability_is_a_share_of_the_patches(patch) -> None:
    augmentation = only(noise=0.3)
    changed = sum(not torch.equal(augmentation(*patch, seed)[0], patch[0]) for seed in range(200))
    assert 35 < changed < 85


def test_every_probability_below_one_is_that_of_the_options() -> None:
    options = AugmentationOptions()
    assert not options.flip_axes, "mirroring is not for every anatomy, so nobody gets it unasked"

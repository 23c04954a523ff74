"""What output channels and label codes stand for, and losses of overlapping structures and partial annotation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from models.heads import IGNORED, MOST_REGIONS, Heads
from models.objectives import Likelihood, SegmentationLoss

BRATS = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]}
CROSSING = {"a": [1, 2], "b": [2, 3]}
LIKELIHOODS = tuple(Likelihood)


def drawn(heads: Heads, structures: int, shape: tuple[int, ...] = (2, 4, 5, 6)) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and codes in float64."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(shape[0], heads.outputs(structures), *shape[1:], generator=generator, dtype=torch.float64)
    largest = structures + 1 if heads is Heads.EXCLUSIVE else 2**structures
    return logits, torch.randint(0, largest, shape, generator=generator)


@pytest.mark.parametrize(
    ("classes", "heads"),
    [
        ({"a": [1]}, Heads.EXCLUSIVE),
        ({"a": [1, 2], "b": [3]}, Heads.EXCLUSIVE),
        ({"a": [1, 1]}, Heads.EXCLUSIVE),
        (BRATS, Heads.OVERLAPPING),
        (CROSSING, Heads.OVERLAPPING),
        ({"a": [1], "same": [1]}, Heads.OVERLAPPING),
    ],
)
def test_classes_overlap_if_they_share_a_value(classes: dict[str, list[int]], heads: Heads) -> None:
    assert Heads.of(classes) is heads


@pytest.mark.parametrize("classes", [{"a": [1], "b": [3, 2]}, BRATS, CROSSING])
def test_codes_tell_the_structures_of_every_value(classes: dict[str, list[int]]) -> None:
    heads, label = Heads.of(classes), np.array([0, 1, 2, 3, 4, 255], np.int16)
    codes = heads.codes(label, classes, [255])
    for number, values in enumerate(classes.values(), start=1):
        assert heads.belongs(codes, number).tolist() == [value in values for value in label]
        # A voxel in this structure alone.
        assert heads.belongs(np.array([heads.code(number), 0, IGNORED]), number).tolist() == [True, False, False]
    assert codes[-1] == IGNORED
    assert codes[0] == codes[4] == 0
    truth = heads.truth(torch.from_numpy(codes)[None, None, None], heads.outputs(len(classes)))[0, :, 0, 0]
    assert not truth[:, -1].any()
    assert torch.equal(heads.foreground(truth)[0], torch.from_numpy(np.isin(label, next(iter(classes.values())))))


def test_a_value_that_is_ignored_is_so_even_where_a_structure_has_it() -> None:
    assert Heads.EXCLUSIVE.codes(np.array([1, 2]), {"a": [1]}, [1]).tolist() == [IGNORED, 0]


def test_the_codes_of_all_regions_fit_into_a_label_map() -> None:
    everything = sum(Heads.OVERLAPPING.code(number) for number in range(1, MOST_REGIONS + 1))
    assert everything == np.iinfo(np.int16).max


def test_binary_cross_entropy_is_the_joint_negative_log_likelihood() -> None:
    logits, codes = drawn(Heads.OVERLAPPING, 3)
    total = 0.0
    for number in range(3):
        p = 1 / (1 + torch.exp(-logits[:, number]))
        total += torch.where((codes >> number) % 2 == 1, -p.log(), -(1 - p).log()).mean()
    loss = SegmentationLoss(Likelihood.CROSS_ENTROPY, Heads.OVERLAPPING)(logits, codes)
    torch.testing.assert_close(loss, total, rtol=1e-12, atol=0)


def test_dice_of_overlapping_structures_is_the_mean_over_them() -> None:
    logits, codes = drawn(Heads.OVERLAPPING, 2)
    losses = []
    for number in range(2):
        p, truth = logits[:, number].sigmoid(), ((codes >> number) % 2).double()
        losses.append(1 - (2 * (p * truth).sum() + 1e-5) / (p.sum() + truth.sum() + 1e-5))
    both, alone = (SegmentationLoss(kind, Heads.OVERLAPPING)(logits, codes) for kind in LIKELIHOODS[::-1])
    torch.testing.assert_close(both - alone, sum(losses) / 2, rtol=1e-10, atol=0)


@pytest.mark.parametrize("heads", Heads)
@pytest.mark.parametrize("likelihood", Likelihood)
def test_ignored_voxels_count_in_no_loss(heads: Heads, likelihood: Likelihood) -> None:
    logits, codes = drawn(heads, 2)
    codes[:, :, 3:] = IGNORED
    loss = SegmentationLoss(likelihood, heads)
    # The loss is that of the annotated part alone, whatever the network says elsewhere.
    torch.testing.assert_close(loss(logits, codes), loss(logits[:, :, :, :3], codes[:, :, :3]), rtol=1e-12, atol=0)
    logits[:, :, :, 3:] *= 50
    torch.testing.assert_close(loss(logits, codes), loss(logits[:, :, :, :3], codes[:, :, :3]), rtol=1e-12, atol=0)
    logits.requires_grad_()
    loss(logits, codes).backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, :, 3:].any()
    assert logits.grad[:, :, :, :3].all()


@pytest.mark.parametrize("heads", Heads)
@pytest.mark.parametrize("likelihood", Likelihood)
def test_a_batch_without_annotation_teaches_nothing(heads: Heads, likelihood: Likelihood) -> None:
    logits, codes = drawn(heads, 2)
    logits.requires_grad_()
    loss = SegmentationLoss(likelihood, heads)(logits, torch.full_like(codes, IGNORED))
    loss.backward()
    assert math.isfinite(float(loss))
    assert logits.grad is not None
    assert not logits.grad.any()


def test_exclusive_classes_keep_their_loss_to_the_bit() -> None:
    from monai.losses import DiceLoss

    logits, labels = drawn(Heads.EXCLUSIVE, 2)
    logits = logits.float().requires_grad_()
    dice = DiceLoss(
        include_background=False, softmax=True, to_onehot_y=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    before = torch.nn.functional.cross_entropy(logits, labels) + dice(logits, labels[:, None])
    now = SegmentationLoss()(logits, labels)
    assert float(before.detach()) == float(now.detach())
    assert torch.equal(torch.autograd.grad(before, logits)[0], torch.autograd.grad(now, logits)[0])


@pytest.mark.parametrize("heads", Heads)
def test_perfect_logits_have_next_to_no_loss(heads: Heads) -> None:
    _, codes = drawn(heads, 2)
    if heads is Heads.EXCLUSIVE:
        logits = 30.0 * one_hot(codes, 3).permute(0, 4, 1, 2, 3).double()
    else:
        logits = 60.0 * (torch.stack([codes % 2, codes // 2], dim=1).double() - 0.5)
    assert float(SegmentationLoss(heads=heads)(logits, codes)) < 1e-5


def test_entropies_of_structures_add_up() -> None:
    p = torch.tensor([0.2, 0.7], dtype=torch.float64)[:, None]
    whole = Heads.OVERLAPPING.alternatives(p)
    expected = -sum(q * math.log(q) for q in (0.2, 0.8, 0.7, 0.3))
    assert float(-(whole * whole.log()).sum()) == pytest.approx(expected)
    assert Heads.OVERLAPPING.largest_entropy(2) == pytest.approx(2 * math.log(2))
    assert Heads.EXCLUSIVE.alternatives(p) is p
    assert Heads.EXCLUSIVE.largest_entropy(2) == pytest.approx(math.log(3))

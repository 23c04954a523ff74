"""Deep supervision: the weighted loss, and what its heads must leave as it is."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from models.deep_supervision import DeepSupervisionLoss, level_weights, shrink_labels
from models.filters import FilterGrouping, filter_layers, filter_positions, group_layers
from models.networks.factory import NetworkOptions, build_network, head_parameters, without_deep_supervision
from models.networks.monai_networks import DynUNetOptions, SegResNetOptions, UNetOptions
from models.networks.residual_unet import ResidualUNetOptions
from models.networks.weight_transfer import start_from_source
from models.objectives import SegmentationLoss

DEEP = {
    "residual_unet": ResidualUNetOptions(channels=(4, 6, 8, 8), encoder_blocks=(0, 1, 1, 1), deep_supervision=2),
    "dynunet": DynUNetOptions(channels=(4, 6, 8, 8), deep_supervision=2),
}


@pytest.fixture(params=sorted(DEEP))
def deep(request):
    return DEEP[request.param]


def test_weights_halve_from_level_to_level_and_sum_to_one():
    assert level_weights(1) == [1.0]
    assert level_weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_labels_shrink_by_nearest_neighbour_and_keep_every_class():
    labels = torch.arange(4).repeat_interleave(4).reshape(1, 16, 1, 1).expand(1, 16, 16, 16)
    small = shrink_labels(labels, (4, 4, 4))
    assert small.dtype == torch.int64
    assert small[0, :, 0, 0].tolist() == [0, 1, 2, 3]
    assert shrink_labels(labels, (16, 16, 16)) is labels


def test_loss_is_the_weighted_sum_over_the_levels():
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    labels[:, :4] = 1
    levels = [torch.randn(1, 2, 8 // f, 8 // f, 8 // f, requires_grad=True) for f in (1, 2, 4)]
    plain = SegmentationLoss()
    shrunk = [torch.zeros(1, n, n, n, dtype=torch.int64) for n in (8, 4, 2)]
    for target in shrunk:
        target[:, : target.shape[1] // 2] = 1
    parts = [plain(level, target) for level, target in zip(levels, shrunk, strict=True)]
    loss = DeepSupervisionLoss(plain)(levels, labels)
    torch.testing.assert_close(loss, (4 * parts[0] + 2 * parts[1] + parts[2]) / 7)
    loss.backward()
    assert all(level.grad is not None and level.grad.abs().max() > 0 for level in levels)


def test_one_level_has_the_plain_loss_and_a_stack_is_a_list_of_levels():
    labels = torch.randint(0, 2, (2, 4, 4, 4))
    first, second = torch.randn(2, 2, 2, 4, 4, 4)
    plain = SegmentationLoss()
    loss = DeepSupervisionLoss(plain)
    assert torch.equal(loss(first, labels), plain(first, labels))
    torch.testing.assert_close(loss(torch.stack([first, second], 1), labels), loss([first, second], labels))


@pytest.mark.slow
def test_every_head_learns_while_training_and_evaluation_has_the_finest_logits(deep):
    network = build_network(deep, 1, 3)
    image, labels = torch.randn(2, 1, 16, 16, 16), torch.randint(0, 3, (2, 16, 16, 16))
    DeepSupervisionLoss(SegmentationLoss())(network(image), labels).backward()
    heads = {name: p for name, p in network.named_parameters() if name in head_parameters(network)}
    assert len([name for name, p in heads.items() if p.ndim == 5]) == 3
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in heads.values())
    assert network.eval()(image).shape == (2, 3, 16, 16, 16)


@pytest.mark.slow
def test_heads_change_no_filter_and_no_position(deep):
    network, plain = build_network(deep, 1, 2), build_network(without_deep_supervision(deep), 1, 2)
    layers = filter_layers(network)
    assert layers == filter_layers(plain)
    assert torch.equal(filter_positions(layers, layers).keys(), filter_positions(layers, filter_layers(plain)).keys())
    for grouping in FilterGrouping:
        assert group_layers(network, grouping) == group_layers(plain, grouping)


def test_a_state_with_heads_starts_a_network_without_them(deep):
    source, target = build_network(deep, 1, 2, seed=1), build_network(without_deep_supervision(deep), 1, 2, seed=2)
    image = torch.randn(1, 1, 16, 16, 16)
    assert start_from_source(target, source.state_dict()) == []
    assert torch.equal(source.eval()(image), target.eval()(image))


def test_one_seed_starts_the_residual_unet_alike_with_and_without_heads():
    deep = build_network(DEEP["residual_unet"], 1, 2, seed=3).state_dict()
    plain = build_network(without_deep_supervision(DEEP["residual_unet"]), 1, 2, seed=3).state_dict()
    assert set(plain) < set(deep)
    assert all(torch.equal(tensor, deep[name]) for name, tensor in plain.items())


@pytest.mark.parametrize("options", [UNetOptions(), SegResNetOptions()])
def test_a_network_without_coarser_heads_says_so(options):
    assert without_deep_supervision(options) is options
    with pytest.raises(ValidationError, match=f"'{options.name}' has no deep supervision; residual_unet and dynunet"):
        TypeAdapter(NetworkOptions).validate_python({"name": options.name, "deep_supervision": 1})

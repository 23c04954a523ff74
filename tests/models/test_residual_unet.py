import pytest
import torch
from pydantic import ValidationError

from data.errors import ModelError
from models.filters import FilterGrouping, filter_layers, group_layers
from models.networks.factory import build_network, coarsest_factors
from models.networks.residual_unet import ResidualUNetOptions

SMALL = ResidualUNetOptions(channels=(4, 6, 8), encoder_blocks=(0, 1, 2))


def test_default_network_is_the_published_one():
    network = build_network(ResidualUNetOptions(), in_channels=1, out_channels=2)
    assert sum(layer.count for layer in filter_layers(network)) == 184_336
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(5.0e6, rel=0.005)


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 10, 11), (5, 8, 13), (6, 4, 4)])
def test_logits_have_the_size_of_the_image(size):
    network = build_network(SMALL, in_channels=2, out_channels=3)
    assert network(torch.randn(2, 2, *size)).shape == (2, 3, *size)


def test_patch_too_small_for_the_levels_is_refused():
    network = build_network(SMALL, in_channels=1, out_channels=2)
    with pytest.raises(ModelError, match="one voxel at the coarsest"):
        network(torch.randn(1, 1, 4, 4, 4))


def test_output_depends_on_every_parameter_and_every_level():
    network = build_network(SMALL, in_channels=1, out_channels=2)
    network(torch.randn(1, 1, 12, 12, 12)).square().sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert still == []


def test_deep_supervision_puts_out_coarser_logits_only_while_training():
    options = ResidualUNetOptions(channels=(4, 6, 8, 8), encoder_blocks=(1, 1, 1, 1), deep_supervision=2)
    network = build_network(options, in_channels=1, out_channels=2)
    image = torch.randn(1, 1, 16, 16, 16)
    assert [level.shape[2] for level in network(image)] == [16, 8, 4]
    assert network.eval()(image).shape == (1, 2, 16, 16, 16)


def test_residual_branch_is_added_to_an_identity():
    network = build_network(SMALL, in_channels=1, out_channels=2)
    block = network.encoder[2][1]
    torch.nn.init.zeros_(block.conv2.weight)
    features = torch.randn(1, 8, 4, 4, 4)
    assert torch.equal(block(features), features)


@pytest.mark.parametrize(
    "changes",
    [{"encoder_blocks": (0, 2, 2)}, {"encoder_blocks": (0, 0, 2, 2)}, {"deep_supervision": 3}, {"width": 4}],
)
def test_options_that_do_not_fit_together_are_refused(changes):
    with pytest.raises(ValidationError):
        ResidualUNetOptions(**changes)


THICK = ResidualUNetOptions(
    channels=(4, 6, 8, 8), encoder_blocks=(0, 1, 1, 1), strides=((2, 2, 1), (2, 2, 1), (2, 2, 2))
)


def test_strides_spare_the_axis_of_thick_slices():
    network = build_network(THICK, in_channels=1, out_channels=2)
    features, shapes = network.stem(torch.randn(1, 1, 16, 16, 6)), []
    for level in network.encoder:
        features = level(features)
        shapes.append(tuple(features.shape[2:]))
    assert shapes == [(16, 16, 6), (8, 8, 6), (4, 4, 6), (2, 2, 3)]
    assert network(torch.randn(1, 1, 16, 16, 6)).shape == (1, 2, 16, 16, 6)
    assert coarsest_factors(THICK) == THICK.reduction == (8, 8, 2)


def test_levels_with_strides_of_their_own_are_groups_of_their_own():
    groups = group_layers(build_network(THICK, in_channels=1, out_channels=2), FilterGrouping.RESOLUTION)
    assert list(groups) == ["resolution_0", "resolution_1", "resolution_2", "resolution_3"]


def test_default_strides_are_no_part_of_what_is_stored():
    assert "strides" not in SMALL.model_dump(mode="json")
    assert THICK.model_dump(mode="json")["strides"] == [[2, 2, 1], [2, 2, 1], [2, 2, 2]]
    assert ResidualUNetOptions.model_validate(THICK.model_dump(mode="json")) == THICK


@pytest.mark.parametrize("strides", [((2, 2, 1),), ((2, 2, 2), (1, 1, 1), (2, 2, 2)), ((3, 2, 2),) * 3])
def test_strides_that_do_not_fit_the_levels_are_refused(strides):
    with pytest.raises(ValidationError):
        ResidualUNetOptions(strides=strides)

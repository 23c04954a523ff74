import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import nn

from data.errors import ModelError
from models.filters import (
    FilterGrouping,
    filter_layers,
    filter_positions,
    get_filters,
    group_layers,
    mirror_transposed,
    set_filters,
)
from models.networks.factory import NetworkOptions, build_network
from models.networks.monai_networks import UNetOptions

NAMES = ("residual_unet", "unet", "dynunet", "segresnet")


def network_of(name):
    return build_network(TypeAdapter(NetworkOptions).validate_python({"name": name}), 1, 2)


@pytest.mark.parametrize("name", NAMES)
def test_set_filters_is_the_exact_inverse_of_get_filters(name):
    network = network_of(name)
    layers = filter_layers(network)
    state = dict(network.named_parameters())
    back = set_filters(get_filters(state, layers), layers)
    assert set(back) == {layer.parameter for layer in layers}
    for key, value in back.items():
        assert torch.equal(value, state[key])


def test_every_3x3x3_kernel_is_found_and_transposed_ones_are_a_good_share():
    network = network_of("unet")
    layers = filter_layers(network)
    expected = sum(
        p.shape[0] * p.shape[1] for p in network.parameters() if p.ndim == 5 and tuple(p.shape[2:]) == (3, 3, 3)
    )
    assert sum(layer.count for layer in layers) == expected
    transposed = sum(layer.count for layer in layers if layer.transposed)
    assert 0.1 < transposed / expected < 0.3


def test_rows_are_ordered_by_layer_out_in_also_for_transposed_convolutions():
    network = nn.Sequential(nn.Conv3d(2, 3, 3), nn.Conv3d(3, 3, 1), nn.ConvTranspose3d(3, 4, 3))
    layers = filter_layers(network)
    filters = get_filters(dict(network.named_parameters()), layers)
    positions = filter_positions(layers, layers)
    assert filters.shape == (18, 27)
    for row in range(18):
        o, i = int(positions.out_index[row]), int(positions.in_index[row])
        # A transposed convolution applies the mirrored kernel.
        kernel = network[0].weight[o, i] if positions.layer[row] == 0 else network[2].weight[i, o].flip(0, 1, 2)
        assert torch.equal(filters[row], kernel.flatten())


@given(inputs=st.integers(1, 4), outputs=st.integers(1, 4), stride=st.integers(1, 2), seed=st.integers(0, 2**16))
@settings(max_examples=25)
def test_a_transposed_convolution_is_the_convolution_with_its_filters(inputs, outputs, stride, seed):
    generator = torch.Generator().manual_seed(seed)
    transposed = nn.ConvTranspose3d(inputs, outputs, 3, stride=stride, padding=1, bias=False).double()
    layers = filter_layers(transposed)
    image = torch.randn(1, inputs, 5, 4, 3, generator=generator, dtype=torch.float64)
    filters = get_filters(dict(transposed.named_parameters()), layers)
    # With a stride, zeros lie between the voxels of the image.
    spaced = torch.zeros(1, inputs, *(stride * (n - 1) + 1 for n in image.shape[2:]), dtype=torch.float64)
    spaced[:, :, ::stride, ::stride, ::stride] = image
    as_convolution = functional.conv3d(spaced, filters.reshape(outputs, inputs, 3, 3, 3), padding=1)
    assert torch.allclose(transposed(image), as_convolution, atol=1e-12)
    # And what is written back makes the transposed convolution act as the convolution.
    own = torch.randn(outputs * inputs, 27, generator=generator, dtype=torch.float64)
    weights = set_filters(own, layers)
    expected = functional.conv3d(spaced, own.reshape(outputs, inputs, 3, 3, 3), padding=1)
    assert torch.allclose(torch.func.functional_call(transposed, weights, (image,)), expected, atol=1e-12)


def test_kernels_as_stored_and_filters_are_mirror_images():
    network = nn.Sequential(nn.Conv3d(2, 3, 3), nn.ConvTranspose3d(3, 2, 3))
    layers = filter_layers(network)
    filters = get_filters(dict(network.named_parameters()), layers).detach()
    stored = torch.cat([network[0].weight.reshape(-1, 27), network[1].weight.transpose(0, 1).reshape(-1, 27)]).detach()
    assert torch.equal(mirror_transposed(stored, layers), filters)
    assert torch.equal(mirror_transposed(torch.stack([filters, 2 * filters]), layers)[1], 2 * stored)


def test_both_directions_are_differentiable():
    network = nn.Sequential(nn.Conv3d(2, 3, 3), nn.ConvTranspose3d(3, 2, 3)).double()
    layers = filter_layers(network)
    filters = get_filters(network.state_dict(), layers).requires_grad_(True)
    weights = set_filters(filters, layers)
    scale = torch.arange(12 * 27, dtype=torch.float64).reshape(12, 27)
    (get_filters(weights, layers) * scale).sum().backward()
    assert torch.equal(filters.grad, scale)


@pytest.mark.parametrize("seed", range(3))
def test_network_with_set_filters_computes_the_same(seed):
    network = build_network(UNetOptions(channels=(4, 6), residual_units=1), 1, 2, seed)
    layers = filter_layers(network)
    image = torch.randn(1, 1, 8, 8, 8)
    weights = set_filters(get_filters(network.state_dict(), layers), layers)
    assert torch.equal(torch.func.functional_call(network, weights, (image,)), network(image))


def test_other_kernels_and_missing_layers_are_refused():
    network = nn.Sequential(nn.Conv3d(1, 2, 3))
    layers = filter_layers(network)
    with pytest.raises(ModelError, match=r"shape \(2, 1, 5, 5, 5\)"):
        get_filters({"0.weight": torch.zeros(2, 1, 5, 5, 5)}, layers)
    with pytest.raises(ModelError, match=r"no parameter '0\.weight'"):
        get_filters({}, layers)
    with pytest.raises(ModelError, match=r"\(2, 27\)"):
        set_filters(torch.zeros(3, 27), layers)


def test_consecutive_grouping_gives_the_seven_published_groups():
    groups = group_layers(network_of("residual_unet"), FilterGrouping.CONSECUTIVE)
    blocks = {name: [layer.parameter.removesuffix(".weight") for layer in layers] for name, layers in groups.items()}
    assert list(blocks) == [
        "encoder_1", "encoder_2", "encoder_3", "encoder_4", "decoder_1", "decoder_2", "decoder_3",
    ]  # fmt: skip
    # Published: stem+down1.conv1 · down1.conv2..down3.conv1 · down3.conv2..down5.conv1 · rest · up1 · up2 · up3.
    assert blocks["encoder_1"] == ["stem", "encoder.1.0.conv1"]
    assert (blocks["encoder_2"][0], blocks["encoder_2"][-1]) == ("encoder.1.0.conv2", "encoder.2.0.conv1")
    assert (blocks["encoder_3"][0], blocks["encoder_3"][-1]) == ("encoder.2.0.conv2", "encoder.3.0.conv1")
    assert (blocks["encoder_4"][0], blocks["encoder_4"][-1]) == ("encoder.3.0.conv2", "encoder.3.4.conv2")
    counts = [sum(layer.count for layer in layers) for layers in groups.values()]
    assert counts == [528, 5120, 20480, 147456, 8192, 2048, 512]


@pytest.mark.parametrize("grouping", list(FilterGrouping))
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_in_exactly_one_group(name, grouping):
    network = network_of(name)
    grouped = [layer for layers in group_layers(network, grouping).values() for layer in layers]
    assert sorted(grouped, key=lambda layer: layer.parameter) == sorted(
        filter_layers(network), key=lambda layer: layer.parameter
    )


def test_resolution_groups_follow_the_stride():
    groups = group_layers(network_of("residual_unet"), FilterGrouping.RESOLUTION)
    assert [layer.parameter for layer in groups["resolution_0"]] == [
        "stem.weight",
        "decoder.2.blocks.0.conv1.weight",
        "decoder.2.blocks.0.conv2.weight",
    ]
    assert "encoder.1.0.conv1.weight" in [layer.parameter for layer in groups["resolution_1"]]
    assert len(groups) == 4

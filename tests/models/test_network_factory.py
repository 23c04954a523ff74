import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from data.errors import ModelError
from models.networks.factory import (
    NetworkOptions,
    build_network,
    decoder_parameters,
    end_blocks,
    head_parameters,
    stem_parameters,
)

ADAPTER = TypeAdapter(NetworkOptions)
SMALL = {
    "residual_unet": {"name": "residual_unet", "channels": (4, 6, 8), "encoder_blocks": (0, 1, 2)},
    "unet": {"name": "unet", "channels": (4, 6, 8), "residual_units": 1},
    "dynunet": {"name": "dynunet", "channels": (4, 6, 8)},
    "segresnet": {"name": "segresnet", "initial_channels": 8, "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1)},
}


def options_of(name):
    return ADAPTER.validate_python(SMALL[name])


@pytest.fixture(params=sorted(SMALL))
def name(request):
    return request.param


def test_maps_an_image_to_logits(name):
    network = build_network(options_of(name), in_channels=2, out_channels=3)
    assert network(torch.randn(1, 2, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


def test_weights_are_a_function_of_the_seed_and_leave_the_global_state_alone(name):
    before = torch.random.get_rng_state()
    first, again, other = (build_network(options_of(name), 1, 2, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert any(not torch.equal(value, other.state_dict()[key]) for key, value in first.state_dict().items())


def test_a_generator_can_give_the_seed(name):
    built = [build_network(options_of(name), 1, 2, torch.Generator().manual_seed(3)) for _ in range(2)]
    for a, b in zip(built[0].parameters(), built[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_stem_and_head_are_what_does_not_fit_other_channels_and_classes(name):
    network = build_network(options_of(name), 1, 2)
    other = build_network(options_of(name), 4, 5).state_dict()
    differing = {key for key, value in network.named_parameters() if value.shape != other[key].shape}
    stem, head = set(stem_parameters(network)), set(head_parameters(network))
    assert stem
    assert head
    assert not stem & head
    assert stem | head == differing


def test_parts_are_parameters_of_the_network_and_nest(name):
    network = build_network(options_of(name), 1, 2)
    every = {key for key, _ in network.named_parameters()}
    ends, decoder = set(end_blocks(network)), set(decoder_parameters(network))
    assert ends < every
    assert decoder < every
    assert set(head_parameters(network)) <= decoder
    assert set(head_parameters(network)) <= ends
    assert set(stem_parameters(network)) <= ends - decoder
    assert ends & decoder < decoder


def test_encoder_alone_decides_the_coarsest_features(name):
    """Changing decoder weights must leave what enters the decoder as it was."""
    network = build_network(options_of(name), 1, 2).eval()
    decoder = set(decoder_parameters(network))
    outputs = {}
    encoder_convs = [
        key
        for key, module in network.named_modules()
        if isinstance(module, torch.nn.Conv3d) and f"{key}.weight" not in decoder
    ]
    for key in encoder_convs:
        network.get_submodule(key).register_forward_hook(
            lambda _m, _i, out, key=key: outputs.setdefault(key, []).append(out)
        )
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        network(image)
        for key, parameter in network.named_parameters():
            if key in decoder:
                parameter.add_(1.0)
        network(image)
    assert len(outputs) == len(encoder_convs)
    assert all(torch.equal(first, second) for first, second in outputs.values())


def test_no_parameter_has_two_names(name):
    """safetensors refuses tensors that share memory."""
    network = build_network(options_of(name), 1, 2)
    assert len(network.state_dict()) == len({id(t) for t in network.state_dict(keep_vars=True).values()})
    if name == "dynunet":
        deep = options_of(name).model_copy(update={"deep_supervision": 1})
        trained = build_network(deep, 1, 2)
        assert trained(torch.randn(1, 1, 16, 16, 16)).shape == (1, 2, 2, 16, 16, 16)


def test_unknown_network_and_unknown_key_are_refused():
    with pytest.raises(ValidationError, match="residual_unet"):
        ADAPTER.validate_python({"name": "vnet"})
    with pytest.raises(ValidationError, match="depth"):
        ADAPTER.validate_python({"name": "unet", "depth": 3})


def test_a_network_of_unknown_origin_is_refused():
    with pytest.raises(ModelError, match="build_network"):
        stem_parameters(torch.nn.Conv3d(1, 2, 3))

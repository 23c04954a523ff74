import pytest
import torch
from safetensors.torch import load, save

from data.errors import ModelError
from models.filter_bank import FilterBank, SourceState
from models.filters import filter_layers, filter_positions
from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions

OPTIONS = ResidualUNetOptions(channels=(4, 6), encoder_blocks=(0, 1))


def states():
    for network in (0, 1, 4):
        for snapshot in (1, 2):
            yield SourceState(network, snapshot, build_network(OPTIONS, 1, 2, 10 * network + snapshot).state_dict())


@pytest.fixture
def network():
    return build_network(OPTIONS, 1, 2)


@pytest.fixture
def bank(network):
    layers = filter_layers(network)
    positions = filter_positions(layers, layers)
    return FilterBank.concatenate([FilterBank.from_state(state, layers, positions) for state in states()])


def test_each_filter_knows_where_it_came_from(bank, network):
    layers = filter_layers(network)
    all_states = {(state.network, state.snapshot): state.parameters for state in states()}
    assert len(bank) == 6 * sum(layer.count for layer in layers)
    for row in range(0, len(bank), 97):
        key = (int(bank.network[row]), int(bank.snapshot[row]))
        weight = all_states[key][layers[int(bank.layer[row])].parameter]
        kernel = weight[int(bank.out_index[row]), int(bank.in_index[row])]
        assert torch.equal(bank.filters[row], kernel.flatten())


def test_a_norm_threshold_keeps_what_is_above_it(bank):
    norms = bank.filters.norm(dim=1)
    threshold = float(norms.median())
    kept = bank.above_norm(threshold)
    assert len(kept) == int((norms > threshold).sum())
    assert float(kept.filters.norm(dim=1).min()) > threshold


def test_last_snapshots_are_the_latest_of_each_network(bank):
    last = bank.last_snapshots()
    assert set(last.snapshot.tolist()) == {2}
    assert last.networks == bank.networks


def test_round_trip_through_safetensors(bank):
    again = FilterBank.from_tensors(load(save(bank.to_tensors())))
    for name in ("filters", "layer", "out_index", "in_index", "network", "snapshot"):
        assert torch.equal(getattr(again, name), getattr(bank, name))


def test_subsample_draws_without_replacement(bank):
    some = bank.subsample(50, torch.Generator().manual_seed(0))
    keys = (some.network * 10 + some.snapshot) * 2**50 + some.positions.keys()
    assert len(torch.unique(keys)) == 50
    assert bank.subsample(10**6, None) is bank


def test_unusable_banks_are_refused(bank):
    with pytest.raises(ModelError, match="train-source"):
        FilterBank.concatenate([])
    column = torch.zeros(2, dtype=torch.int64)
    other = FilterBank(torch.zeros(2, 8), column, column, column, column, column)
    with pytest.raises(ModelError, match="8, 27"):
        FilterBank.concatenate([bank, other])
    with pytest.raises(ModelError, match="'layer'"):
        FilterBank(torch.zeros(3, 27), column, column, column, column, column)
    with pytest.raises(ModelError, match="without snapshot"):
        FilterBank.from_tensors({k: v for k, v in bank.to_tensors().items() if k != "snapshot"})

"""Networks that are named by an import path: what they have to be, and whose consent they need."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from models.filters import FilterGrouping, group_layers
from models.networks.factory import (
    NetworkOptions,
    build_network,
    coarsest_factors,
    decoder_parameters,
    end_blocks,
    head_parameters,
    stem_parameters,
    without_deep_supervision,
)
from models.networks.imported_network import ImportedNetworkOptions, NetworkCodeError, network_code_allowed

ADAPTER: TypeAdapter[NetworkOptions] = TypeAdapter(NetworkOptions)
CODE = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, channels, classes, width):
        super().__init__()
        self.first = nn.Conv3d(channels, width, 3, padding=1)
        self.down = nn.Conv3d(width, 2 * width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm3d(2 * width)
        self.up = nn.ConvTranspose3d(2 * width, width, 2, stride=2)
        self.last = nn.Conv3d(width, width, 3, padding=1)
        self.head = nn.Conv3d(width, classes, 1)

    def forward(self, images):
        fine = torch.relu(self.first(images))
        coarse = torch.relu(self.norm(self.down(fine)))
        return self.head(torch.relu(self.last(fine + self.up(coarse))))


def build(channels, classes, width=4):
    return Tiny(channels, classes, width)


def flat(channels, classes):
    return nn.Sequential(nn.Conv3d(channels, 4, 3, padding=1), nn.Conv3d(4, classes, 1))


def tied(channels, classes):
    layer = nn.Conv3d(4, 4, 3, padding=1)
    network = flat(channels, classes)
    network.a, network.b = layer, layer
    return network


class Peeking(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv = nn.Conv3d(channels, classes, 3, padding=1)

    def forward(self, images):
        return self.conv(images) if images.mean().item() > 0 else -self.conv(images)


def none(channels, classes):
    return None


number = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a package with a module `nets`; importing it leaves a file behind."""
    folder = tmp_path / "foreign_nets"
    folder.mkdir()
    (folder / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    (folder / "nets.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "foreign_nets.nets"
    for name in [name for name in sys.modules if name.startswith("foreign_nets")]:
        del sys.modules[name]


@pytest.fixture
def options(package: str) -> Callable[..., ImportedNetworkOptions]:
    """Makes options that may be built."""

    def make(function: str = "build", **given: int) -> ImportedNetworkOptions:
        with network_code_allowed():
            made = ADAPTER.validate_python({"factory": f"{package}:{function}", "options": given})
        assert isinstance(made, ImportedNetworkOptions)
        return made

    return make


def test_a_network_is_built_with_its_options_and_a_seed(options: Callable[..., ImportedNetworkOptions]) -> None:
    network = build_network(options(width=6), 2, 3, seed=1)
    assert network(torch.zeros(1, 2, 8, 8, 8)).shape == (1, 3, 8, 8, 8)
    assert network.first.weight.shape == (6, 2, 3, 3, 3)
    state = torch.get_rng_state()
    again, other = build_network(options(width=6), 2, 3, seed=1), build_network(options(width=6), 2, 3, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.down.weight, network.down.weight)
    assert not torch.equal(other.down.weight, network.down.weight)


def test_its_parts_are_found_by_looking_at_shapes(options: Callable[..., ImportedNetworkOptions]) -> None:
    network = build_network(options(), 1, 2)
    assert stem_parameters(network) == ("first.weight",)
    assert head_parameters(network) == ("head.weight", "head.bias")
    assert set(end_blocks(network)) == {"first.weight", "first.bias", "head.weight", "head.bias"}
    assert {name.partition(".")[0] for name in decoder_parameters(network)} == {"up", "last", "head"}
    assert coarsest_factors(options()) == (2, 2, 2)
    assert without_deep_supervision(options()) == options()
    groups = {rule: group_layers(network, rule) for rule in FilterGrouping}
    assert {name: len(layers) for name, layers in groups[FilterGrouping.CONSECUTIVE].items()} == {
        "encoder_1": 2, "decoder_1": 1,
    }  # fmt: skip
    assert set(groups[FilterGrouping.RESOLUTION]) == {"resolution_0", "resolution_1"}
    assert len(groups[FilterGrouping.LAYER]) == 3
    assert len(groups[FilterGrouping.ALL]["all"]) == 3


def test_a_network_of_one_level_has_no_decoder(options: Callable[..., ImportedNetworkOptions]) -> None:
    network = build_network(options("flat"), 1, 2)
    assert decoder_parameters(network) == ()
    assert set(group_layers(network, FilterGrouping.CONSECUTIVE)) == {"encoder_1"}


def test_nothing_is_imported_without_consent(package: str, tmp_path: Path) -> None:
    foreign = ADAPTER.validate_python({"name": "imported", "factory": f"{package}:build"})
    for unasked in (foreign, foreign.model_copy(), pickle.loads(pickle.dumps(foreign))):
        with pytest.raises(NetworkCodeError, match="--allow-network-code to the command, or allow_code=True"):
            build_network(unasked, 1, 2)
    with pytest.raises(ValidationError):
        ADAPTER.validate_python({"factory": f"{package}:build", "_allowed": True})
    assert not (tmp_path / "imported").exists()


def test_consent_goes_along_to_workers_and_is_no_part_of_the_network(
    options: Callable[..., ImportedNetworkOptions], package: str
) -> None:
    there = pickle.loads(pickle.dumps(options()))
    build_network(there, 1, 2)
    unasked = ADAPTER.validate_python({"factory": f"{package}:build"})
    assert unasked == options()
    assert hash(unasked) == hash(options())
    assert unasked != options(width=5)
    assert "allowed" not in options().model_dump_json()
    with network_code_allowed(), network_code_allowed(False):
        assert not ADAPTER.validate_python({"factory": f"{package}:build"})._allowed


@pytest.mark.parametrize(
    ("function", "given", "words"),
    [
        ("absent", {}, "cannot be imported .AttributeError"),
        ("number", {}, "is of the type int; expected a function that builds a network"),
        ("none", {}, "returned something of the type NoneType; expected a torch.nn.Module"),
        ("tied", {}, r"has the parameter b\.\w+ under another name"),
        ("build", {"wide": 3}, "cannot be built for 1 channels and 2 classes .TypeError: .*wide"),
    ],
)
def test_what_is_no_network_is_one_sentence(
    options: Callable[..., ImportedNetworkOptions], function: str, given: dict[str, int], words: str
) -> None:
    with pytest.raises(NetworkCodeError, match=words):
        build_network(options(function, **given), 1, 2)


def test_a_package_that_is_not_there_is_named() -> None:
    with network_code_allowed():
        missing = ADAPTER.validate_python({"factory": "not_there_at_all.nets:build"})
    with pytest.raises(NetworkCodeError, match=r"no module named 'not_there_at_all'.*PYTHONPATH"):
        build_network(missing, 1, 2)
    for path in ("nets", "nets.build", "nets:build()", "a b:c", "../x:y", ":x"):
        with pytest.raises(ValidationError):
            ADAPTER.validate_python({"factory": path})


def test_a_forward_pass_that_looks_at_values_is_told(options: Callable[..., ImportedNetworkOptions]) -> None:
    network = build_network(options("Peeking"), 1, 2)
    assert len(group_layers(network, FilterGrouping.LAYER)) == 1
    with pytest.raises(
        NetworkCodeError, match=r"cannot be run without values.*set `filters\.grouping` to layer or all"
    ):
        group_layers(network, FilterGrouping.RESOLUTION)

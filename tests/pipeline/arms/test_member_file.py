"""Files of trained members: what was written is read, and earlier files give the networks that were trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.bayesian_network import BayesianNetwork
from models.filters import mirror_transposed
from models.networks.factory import build_network
from models.networks.monai_networks import UNetOptions
from models.posteriors.mean_field import MeanFieldOptions
from models.posteriors.mixture import MixtureOptions
from models.posteriors.point import PointOptions
from models.posteriors.swag import SWAG, SWAGOptions
from pipeline.arms.choices import ArmOptions
from pipeline.arms.member import assemble_member
from pipeline.arms.member_file import read_member, write_member
from pipeline.arms.target_network import TargetNetwork
from pipeline.storage.tensors import save_tensors

NETWORK = TargetNetwork(UNetOptions(channels=(4, 6), residual_units=1), 1, 2)
ARMS = {
    "point": ArmOptions(posterior=PointOptions()),
    "mean_field": ArmOptions(prior="l2", posterior=MeanFieldOptions()),
    "decoder alone": ArmOptions(prior="l2", posterior=MeanFieldOptions(), trainable="decoder"),
    "mixture": ArmOptions(prior="l2", posterior=MixtureOptions(components=2)),
    "swag": ArmOptions(posterior=SWAGOptions(rank=3)),
}


def member_of(arm: ArmOptions) -> BayesianNetwork:
    networks = [build_network(NETWORK.options, 1, 2, seed) for seed in range(arm.components)]
    member = assemble_member(arm, networks[0], [network.state_dict() for network in networks])
    if isinstance(member.posterior, SWAG):
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            member.posterior.collect(torch.randn(member.posterior.count, 27, generator=generator))
    return member


def drawn(member: BayesianNetwork) -> dict[str, torch.Tensor]:
    [draw] = member.draws(1, torch.Generator().manual_seed(0))
    return member.tensors(draw)


@pytest.mark.parametrize("name", ARMS)
def test_what_was_written_is_read(name: str, tmp_path: Path) -> None:
    arm = ARMS[name]
    member = member_of(arm)
    assert any(layer.transposed for layer in member.layers)
    write_member(tmp_path / "member.safetensors", member)
    again = drawn(read_member(tmp_path / "member.safetensors", arm, NETWORK))
    assert all(torch.equal(tensor, again[key]) for key, tensor in drawn(member).items())


@pytest.mark.parametrize("name", ARMS)
def test_a_member_whose_kernels_are_as_stored_is_the_same_network(name: str, tmp_path: Path) -> None:
    arm = ARMS[name]
    member = member_of(arm)
    # As earlier versions wrote them, which did not mirror transposed kernels.
    state = {
        key: mirror_transposed(tensor, member.layers) if key.startswith("posterior.") and tensor.ndim > 1 else tensor
        for key, tensor in member.state_dict().items()
    }
    assert any(not torch.equal(tensor, member.state_dict()[key]) for key, tensor in state.items())
    save_tensors(tmp_path / "member.safetensors", state)
    again = read_member(tmp_path / "member.safetensors", arm, NETWORK)
    for key, tensor in member.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key

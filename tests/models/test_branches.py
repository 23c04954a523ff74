"""Networks that branch from one trunk: what they share at each position, and in what they differ."""

import pytest
import torch

from data.errors import ModelError
from models.filter_bank import FilterBank
from models.priors.factory import build_prior
from models.priors.gaussian_options import GaussianOptions
from models.priors.position_gaussian import chosen_shrinkage

POSITIONS, DIMENSION = 400, 4


def branches(networks: int, spread: torch.Tensor, seed: int = 0, trunk: bool = True) -> FilterBank:
    """One layer of networks that differ by correlated noise of the spread `[P]` around filters of size 1."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(POSITIONS, DIMENSION, generator=generator, dtype=torch.float64)
    mixing = torch.eye(DIMENSION, dtype=torch.float64)
    mixing[0, 1:] = 0.9
    rows = torch.arange(POSITIONS)
    banks = []
    for network in range(networks):
        noise = torch.randn(POSITIONS, DIMENSION, generator=generator, dtype=torch.float64) @ mixing
        full = torch.full_like
        columns = (0 * rows, rows // 20, rows % 20, full(rows, network), full(rows, 0))
        start = centres if trunk else centres + network
        banks.append(FilterBank(centres + spread[:, None] * noise, *columns, starts=start))
    return FilterBank.concatenate(banks)


def fitted(bank: FilterBank, **options):
    prior = build_prior(GaussianOptions(centre="branches", **options), DIMENSION).double()
    prior.fit(bank)
    return prior


ALIKE, UNLIKE = torch.full((POSITIONS,), 0.2).double(), torch.linspace(0.1, 0.6, POSITIONS).double()


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "full"])
def test_a_branch_that_was_left_out_is_where_the_others_expect_it(covariance: str) -> None:
    """Not narrower: the mean of four branches is itself uncertain, and a fifth deviates from it by 1 + 1/4."""
    bank = branches(5, ALIKE)
    known, left_out = bank[bank.network < 4], bank.of_network(4)
    prior = fitted(known, covariance=covariance, shrinkage=64.0)
    peak = prior.log_prob(prior.at_positions().centres(left_out.positions), left_out.positions)
    squares = 2 * (peak - prior.score(left_out))
    assert float(squares.mean()) / DIMENSION == pytest.approx(1.0, abs=0.1)


def test_a_full_covariance_is_a_shape_of_the_layer_and_a_variance_of_each_position() -> None:
    bank, test = branches(4, UNLIKE), branches(5, UNLIKE).of_network(4)
    scores = {
        name: float(fitted(bank, covariance=name, shrinkage=1.0).score(test).mean())
        for name in ("isotropic", "diagonal", "full")
    }
    assert scores["full"] > scores["isotropic"] + 0.5
    assert scores["full"] > scores["diagonal"] + 0.5
    positions = fitted(bank, shrinkage=1.0).at_positions()
    small, large = (
        float(positions.least_stds(test.positions[rows]).mean()) for rows in (slice(0, 40), slice(-40, None))
    )
    assert large > 2 * small


def test_the_weight_of_the_layer_is_chosen_on_branches_that_are_left_out() -> None:
    options = GaussianOptions(centre="branches", shrinkage=None)
    alike, unlike = (branches(5, spread).branches() for spread in (ALIKE, UNLIKE))
    # Positions with one variance are best pooled, those with variances of their own are not.
    assert chosen_shrinkage(alike, options) == 64.0
    assert chosen_shrinkage(unlike, options) < 64.0
    assert chosen_shrinkage(branches(2, ALIKE).branches(), options) == 4.0
    bank = branches(5, UNLIKE)
    chosen = fitted(bank, shrinkage=None)
    named = fitted(bank, shrinkage=chosen_shrinkage(unlike, options))
    assert torch.equal(chosen.score(bank), named.score(bank))


def test_networks_with_starts_of_their_own_are_no_branches() -> None:
    bank = branches(3, ALIKE, trunk=False)
    with pytest.raises(ModelError, match="networks 0, 1, 2 each started from weights of their own"):
        fitted(bank)
    with pytest.raises(ModelError, match="is not known"):
        fitted(FilterBank.from_tensors(bank.to_tensors()))
    with pytest.raises(ModelError, match="or one branch of a trunk"):
        fitted(branches(1, ALIKE))


def test_changes_are_from_the_start_of_the_same_network_and_position() -> None:
    bank = branches(3, ALIKE, trunk=False)
    alone = bank[torch.randperm(len(bank), generator=torch.Generator().manual_seed(1))]
    starts = FilterBank(bank.starts, bank.layer, bank.out_index, bank.in_index, bank.network, bank.snapshot)
    found = alone.with_starts(starts[torch.arange(len(starts) - 1, -1, -1)])
    assert torch.equal(found.starts, alone.starts)
    assert torch.allclose(found.changes().filters, alone.filters - alone.starts)
    assert found.changes().starts is None
    with pytest.raises(ModelError, match="network 2 started from are not known"):
        bank.with_starts(starts[starts.network < 2])
    with pytest.raises(ModelError, match="network 0 started from are not known"):
        bank.with_starts(starts[1:])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shrinkage": None}, "set `centre: branches`"),
        ({"centre": "branches", "network": 0}, "leave out `network`"),
        ({"centre": "branches", "last_snapshot": True}, "leave out `last_snapshot`"),
        ({"centre": "branches", "covariance": "factor"}, "use low_rank"),
    ],
)
def test_settings_that_contradict_branches_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GaussianOptions(**options)

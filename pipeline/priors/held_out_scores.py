"""Held-out log density of filters: on networks that were not fitted to, in raw units, without a norm threshold.

Standard errors are over networks, not over filters: the filters of one network are not independent evidence about those
of other networks. Differences between densities are paired: all densities score the same filters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.filter_bank import FilterBank
from models.priors.prior import FilterPrior
from pipeline.priors.filter_options import HeldOut, PriorFitOptions

_DRAWS_AT_A_TIME = 32_768
"""Filters times latent draws that are scored together; the decoder's features of all of them are in memory."""

NetworkValues = Mapping[int, Tensor]
"""Network → log density of each of its scored filters, `[F]` float64."""


@dataclass(frozen=True)
class Fold:
    """A division of the networks into those that are fitted to and those that are scored."""

    fitted: tuple[int, ...]
    scored: tuple[int, ...]


def network_folds(networks: Sequence[int], options: PriorFitOptions) -> list[Fold]:
    """Divides at least two networks into those to fit to and those to score, in one or several folds."""
    if options.held_out is HeldOut.LAST:
        held = tuple(networks[-min(options.held_out_networks, len(networks) - 1) :])
        parts = [held]
    else:
        count = min(options.folds, len(networks))
        parts = [tuple(networks[start::count]) for start in range(count)]
    return [Fold(tuple(n for n in networks if n not in part), part) for part in parts]


def divide_positions(bank: FilterBank, generator: torch.Generator) -> tuple[FilterBank, FilterBank]:
    """Divides the filters of a single network into nine tenths to fit to and a tenth of the positions to score.

    All snapshots of a position are on one side, because they are almost the same filter; the last one is scored.
    """
    keys, rows = torch.unique(bank.positions.keys(), return_inverse=True)
    chosen = torch.zeros(len(keys), dtype=torch.bool)
    chosen[torch.randperm(len(keys), generator=generator)[: max(len(keys) // 10, 1)]] = True
    held = chosen[rows]
    return bank[~held], bank[held].last_snapshots()


@torch.no_grad()
def score(prior: FilterPrior, bank: FilterBank, samples: int, generator: torch.Generator) -> dict[int, Tensor]:
    """Scores the filters of a bank with a density, in parts; returns the values of each network."""
    rows = max(_DRAWS_AT_A_TIME // (samples if prior.is_bound else 1), 1)
    parts = [bank[start : start + rows] for start in range(0, len(bank), rows)]
    scored = [prior.score(part, samples, generator) for part in parts]
    values = torch.cat(scored).double()
    return {network: values[bank.network == network] for network in bank.networks}


def estimate(values: NetworkValues) -> dict[str, Any]:
    """Summarises values: the mean over networks of their means, and its standard error.

    With a single network the error is over its filters, which underestimates the variation between networks;
    `standard_error_over` states which it is.
    """
    means = torch.stack([of_network.mean() for of_network in values.values()])
    over_networks = len(means) > 1
    spread = means if over_networks else next(iter(values.values()))
    # A single value has no spread, and JSON has no NaN.
    error = {"standard_error": float(spread.std() / len(spread) ** 0.5)} if len(spread) > 1 else {}
    over = "networks" if over_networks else "filters of one network"
    return {"mean": float(means.mean()), **error, "standard_error_over": over}


def difference(values: NetworkValues, reference: NetworkValues) -> dict[str, Any]:
    """Summarises the paired difference of two densities on the same filters."""
    paired = estimate({network: values[network] - reference[network] for network in values})
    return {key: paired[key] for key in ("mean", "standard_error") if key in paired}

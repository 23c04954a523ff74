"""`latent: auto`: as many latent dimensions as the filters have themselves."""

from __future__ import annotations

import math

import torch

from models.filter_bank import FilterBank
from models.intrinsic_dimension import maximum_likelihood_dimension


def intrinsic_dimension(bank: FilterBank, generator: torch.Generator | None = None) -> float:
    """Estimates the intrinsic dimension of the filters of a network, averaged over networks by its inverse.

    One snapshot of each network: the nearest neighbours of a filter would otherwise be the filter itself at other
    times, and between networks that branch from a trunk, in another branch.
    """
    last = bank.last_snapshots()
    of_networks = [
        maximum_likelihood_dimension(last.of_network(network).filters, generator=generator) for network in last.networks
    ]
    known = [dimension for dimension in of_networks if dimension > 0]
    return len(known) / sum(1 / dimension for dimension in known) if known else 0.0


def latent_size(bank: FilterBank, generator: torch.Generator | None = None) -> int:
    """Chooses the dimensions of a latent: the intrinsic dimension of the filters, rounded up, and fewer than theirs.

    A latent that is too large costs little (what is not needed stays unused), one that is too small cannot say all.
    """
    most = max(bank.kernel_voxels - 1, 1)
    dimension = intrinsic_dimension(bank, generator)
    return min(max(math.ceil(dimension), 1), most)

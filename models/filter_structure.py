"""Is there anything to learn from trained filters? How many directions they use, and how much is still their start.

A density of filters describes training only as far as training has shaped them. What the loss does not push keeps its
random start, which is isotropic: a prior fitted to it is the initialisation in other words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_NOTHING = 1e-300
"""Smallest divisor: filters that are all zero have no structure, and no infinite one."""


@dataclass(frozen=True)
class StartShares:
    """How much of trained filters is the random start of each, by energy (the sum of squares over a group).

    Each filter is split into its projection on its own start and the rest. Not the whole group at once: where some
    filters have died and the others never moved, all that is left is start, and one coefficient for the group would
    say half of it. A filter that has forgotten its start still projects 1/D of its energy on it by chance, with D
    its numbers; this is subtracted, so that untouched filters give 1 and independent ones 0, give or take √(2/F)/D
    for F filters.

    Attributes:
        still_start: share of the energy of today's filters that is their start, from 0 to 1. It does not depend on
            scale: filters that decay has only shrunk are still nothing but their start. It says whether there is
            anything to learn.
        start_left: share of the energy of the start that is still there: what decay and training have not removed.
    """

    still_start: float
    start_left: float


def filter_spectrum(filters: Tensor) -> Tensor:
    """Returns the eigenvalues of the covariance of filters `[F, D]`, falling, `[D]` float64.

    The mean is subtracted: every density has a mean of its own, so a filter that all others share is not a direction in
    which they differ.
    """
    centred = filters.double() - filters.double().mean(0)
    return torch.linalg.eigvalsh(centred.T @ centred / len(filters)).flip(0).clamp_min(0.0)


def effective_dimension(spectrum: Tensor) -> float:
    """Returns the participation ratio (Σλ)² / Σλ² of eigenvalues `[D]`: D if all are equal, 1 for a single one."""
    return float(spectrum.sum().square() / spectrum.square().sum().clamp_min(_NOTHING))


def start_shares(trained: Tensor, initial: Tensor) -> StartShares:
    """Compares filters `[F, D]`, D > 1, with the start of the same filter in the same row."""
    now, start = trained.double(), initial.double()
    energy_now, energy_start = now.square().sum(), start.square().sum()
    of_filter = start.square().sum(1)
    projected = ((now * start).sum(1).square() / of_filter.clamp_min(_NOTHING)).sum()
    by_chance = 1 / now.shape[1]
    still = ((projected - by_chance * energy_now) / (1 - by_chance)).clamp_min(0.0)
    return StartShares(
        still_start=float(still / energy_now.clamp_min(_NOTHING)),
        start_left=float(still / energy_start.clamp_min(_NOTHING)),
    )


def share_under(filters: Tensor, norm: float) -> float:
    """Returns the share of filters `[F, D]` whose L2 norm is `norm` or less: those that `above_norm` leaves out."""
    return float((filters.norm(dim=1) <= norm).double().mean())

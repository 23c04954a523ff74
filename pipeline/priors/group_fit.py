"""Fitting and scoring the densities of one group of layers, with a chunk and a sample of its bank in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import ModelError
from data.random_streams import stream_seed
from models.filter_bank import FilterBank
from models.filter_stream import FilterDraw
from models.priors.factory import (
    PriorOptions,
    centred_on_network,
    fit_prior,
    fits_dead_filters,
    needs_starts,
    network_of,
    of_branches,
    with_norm_threshold,
)
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.prior import FilterPrior, FitReport, Progress
from models.priors.standardisation import Covariance, Scaling
from pipeline.priors.earlier_density import EarlierDensity
from pipeline.priors.filter_options import HeldOut, PriorFitOptions
from pipeline.priors.held_out_scores import Fold, divide_positions, network_folds, score
from pipeline.storage.stored_bank import StoredBank

Fitted = tuple[FilterPrior, FitReport]
"""A density and the report of its fit."""


@dataclass(frozen=True)
class Round:
    """One round of scoring.

    Attributes:
        fitted: a draw of the filters to fit to, above the norm threshold where the density leaves out the others.
        scored: filters of other networks (or positions), without a threshold.
    """

    fitted: FilterDraw
    scored: FilterBank


@dataclass(frozen=True)
class GroupFit:
    """The fits of one group.

    Attributes:
        name: of the group.
        path: file of its filters.
        options: densities to fit, and how to score them.
        norm_threshold: filters with this norm or less are dead; most densities are not fitted to them.
        earlier: density → that of an earlier study, to be updated.
        seed: of the study.
        starts: file of the filters that the networks started from, for densities that need them.
    """

    name: str
    path: Path
    options: PriorFitOptions
    norm_threshold: float
    earlier: Mapping[str, EarlierDensity]
    seed: int
    starts: Path | None = None

    @cached_property
    def bank(self) -> StoredBank:
        """Its filters."""
        return StoredBank(self.path)

    @cached_property
    def folds(self) -> list[Fold]:
        """Divisions of the networks for scoring; none if there is only one network."""
        return network_folds(self.bank.networks, self.options) if len(self.bank.networks) > 1 else []

    @property
    def refit(self) -> bool:
        """Whether arms get a fit to all networks."""
        return self.options.refits(len(self.bank.networks) > 1)

    @property
    def held_out_networks(self) -> list[int]:
        """Networks that are scored; empty if there is only one network."""
        return sorted(network for fold in self.folds for network in fold.scored)

    def generator(self, *names: str | int) -> torch.Generator:
        """A generator for one purpose."""
        return torch.Generator().manual_seed(stream_seed(self.seed, "priors", self.name, *names))

    def rounds(self, density: str | None = None) -> Iterator[Round]:
        """Draws the filters of each round of scoring, for a density, or for one that leaves out dead filters."""
        options = self.options
        threshold = self._left_out(density)
        if not self.folds:
            rest, held = divide_positions(self.bank.load(), self.generator("held-out"))
            above = rest if threshold is None else rest.above_norm(threshold)
            fitted = self._with_starts(density, above.subsample(options.largest_fit, self.generator("fitted", 0)))
            scored = self._with_starts(density, held.subsample(options.largest_score, self.generator("scored")))
            yield Round(FilterDraw(fitted, len(above), len(rest)), scored)
        each = max(options.largest_score // max(len(self.held_out_networks), 1), 1)
        for number, fold in enumerate(self.folds):
            parts = [
                self.bank.draw(each, self.generator("scored", network), {network}, last_snapshots=True).bank
                for network in fold.scored
            ]
            scored = self._with_starts(density, FilterBank.concatenate(parts))
            yield Round(self.draw(density, set(fold.fitted), "fitted", number), scored)

    def _left_out(self, density: str | None) -> float | None:
        """Norm up to which filters are left out of a fit; `None` for a density that is fitted to all."""
        every = density is not None and fits_dead_filters(self.options.densities[density])
        return None if every else self.norm_threshold

    def draw(self, density: str | None, networks: set[int], *purpose: str | int) -> FilterDraw:
        """Draws filters of some networks to fit a density to; of branches, it takes the last ones of every position."""
        if density is not None and of_branches(self.options.densities[density]):
            whole = self._with_starts(density, self.bank.load(networks, last_snapshots=True))
            return FilterDraw(whole, len(whole), len(whole))
        threshold, generator = self._left_out(density), self.generator(*purpose)
        drawn = self.bank.draw(self.options.largest_fit, generator, networks, norm_threshold=threshold)
        return replace(drawn, bank=self._with_starts(density, drawn.bank))

    def _with_starts(self, density: str | None, bank: FilterBank) -> FilterBank:
        """Adds what the filters started from, for a density that needs it."""
        if density is None or not needs_starts(self.options.densities[density]) or self.starts is None:
            return bank
        return bank.with_starts(StoredBank(self.starts).load(bank.networks))

    def fit_for_arms(self, name: str, progress: Progress) -> tuple[Fitted, FilterDraw, int | None]:
        """Fits the density that arms use.

        Returns:
            The density, the filters that it was fitted to, and the source network on whose positions it is centred, if
            it is.
        """
        networks = set(self.bank.networks)
        drawn = self.draw(name, networks, "refit") if self.refit else next(self.rounds(name)).fitted
        if centred_on_network(self.options.densities[name]):
            fitted, network = self._fit_at_positions(name, drawn.bank, progress)
            return fitted, drawn, network
        purpose = ("refit",) if self.refit else ("round", 0)
        return self.fit(name, drawn.bank, progress, *purpose), drawn, None

    def fit(self, name: str, bank: FilterBank, progress: Progress, *purpose: str | int) -> Fitted:
        """Fits one density, or updates that of an earlier study."""
        generator = self.generator(name, *purpose)
        if name in self.earlier:
            prior = self.earlier[name].load()
            return prior, prior.update(bank, generator, progress)
        return fit_prior(self._options_of(name), bank, None, generator, progress)

    def _options_of(self, density: str) -> PriorOptions:
        return with_norm_threshold(self.options.densities[density], self.norm_threshold)

    def _fit_at_positions(self, name: str, bank: FilterBank, progress: Progress) -> tuple[Fitted, int]:
        """Fits a density centred on one source network to all filters of that network, and returns the network.

        Raises:
            ModelError: there is no such network.
        """
        options = self._options_of(name)
        named = network_of(options)
        # By default the network that arms with one member start from.
        network = self.bank.networks[0] if named is None else named
        if network not in self.bank.networks:
            raise ModelError(
                f"the density {name!r} is centred on source network {network}",
                expected=f"one of {', '.join(map(str, self.bank.networks))}",
                fix=f"correct `network` in `priors.densities.{name}`, or raise `source_training.networks`",
            )
        of_network = self.bank.load({network})
        return fit_prior(options, bank, of_network, self.generator(name, "positions"), progress), network

    def values(self, name: str, prior: FilterPrior, scored: FilterBank, number: int) -> dict[int, Tensor]:
        """Scores the held-out filters of a round."""
        generator = self.generator(name, "score", number)
        return score(prior, scored, self.options.score_samples, generator)

    def reference_values(self) -> dict[int, Tensor]:
        """Scores of the full-covariance Gaussian, which is fitted only for this if the study does not have it."""
        found: dict[int, Tensor] = {}
        for drawn in self.rounds():
            prior, _ = fit_prior(GaussianOptions(), drawn.fitted.bank)
            found |= score(prior, drawn.scored, 1, self.generator("reference"))
        return found


def full_gaussian(densities: Mapping[str, PriorOptions]) -> str | None:
    """Returns the name of the pooled full-covariance Gaussian of raw filters, if a study has one."""
    for name, options in densities.items():
        if (
            isinstance(options, GaussianOptions)
            and options.covariance is Covariance.FULL
            and options.centre is Centre.POOLED
            and options.scaling is Scaling.NONE
            and not options.zero_mean
        ):
            return name
    return None


def describe(fit: GroupFit) -> dict[str, Any]:
    """Describes the held-out filters."""
    options, networks = fit.options, fit.held_out_networks
    if not networks:
        return {"held_out_by": "positions", "held_out_networks": "a random tenth of the positions of the one network"}
    of_which = f"filters of networks {', '.join(map(str, networks))}, last snapshot"
    if options.held_out is HeldOut.CROSS:
        of_which += f", each by a fit without its fold ({len(fit.folds)} folds)"
    return {
        "held_out_by": options.held_out.value,
        "held_out_networks": of_which,
        "held_out_of": fit.bank.count(networks, last_snapshots=True),
        "folds": [list(fold.scored) for fold in fit.folds],
    }

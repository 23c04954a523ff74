"""The Deep Weight Prior: a variational auto-encoder over filters, fitted to one source set after another.

Sources: Atanov et al., "The Deep Weight Prior", ICLR 2019; Kuzina et al. 2019.
"""

from __future__ import annotations

import copy

import torch

from data.errors import ModelError
from models.filter_bank import FilterBank
from models.priors.boosted_prior import BoostedMixture
from models.priors.latent_prior import LearnedMixture, StandardNormal
from models.priors.latent_size import latent_size
from models.priors.prior import FitReport, Progress
from models.priors.standardisation import Scaling
from models.priors.vae_density import VAEDensity
from models.priors.vae_options import AUTO_LATENT, Condition
from models.priors.vae_training import Penalty, VAETraining, set_aside
from models.random_draws import draw_seed

_FILTERS_AT_A_TIME = 32_768
"""Filters that a bank is scored in: the features that the networks make of each are in memory at once."""


class FilterVAE(VAEDensity):
    """A VAE over filters that is fitted to a bank, and updated with those of further source sets."""

    def _fit(self, bank: FilterBank, generator: torch.Generator | None, progress: Progress | None) -> FitReport:
        options = self.options
        dtype, device = self.standardisation.mean.dtype, self.fitted.device
        trained, checked = self._set_aside(bank, generator)
        if options.latent == AUTO_LATENT:
            self.latent = latent_size(trained, generator)
        # Whitened with the checked filters, the networks would learn chance directions that these share. Scales of
        # layers need every layer, and are too few for that.
        whole = options.scaling is not Scaling.NONE
        self.standardisation.fit(
            bank if whole else trained, options.covariance_removed, self.latent, options.scaling, zero_mean=False
        )
        if options.condition is Condition.LAYER:
            self.layer_ids = torch.unique(bank.layer).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw_seed(generator))
            self._build(len(self.layer_ids))
        self.to(device=device, dtype=dtype)
        self.sets.fill_(1)
        return self._train(bank, trained, checked, generator, progress)

    def _set_aside(self, bank: FilterBank, generator: torch.Generator | None) -> tuple[FilterBank, FilterBank | None]:
        """Divides a bank into filters to train on and filters to check on."""
        if not self.options.validation_share:
            return bank, None
        # Positions of two networks do not correspond; those of two snapshots of one network do.
        keys = bank.positions.keys() * (int(bank.network.max()) + 1) + bank.network
        rows, others = set_aside(keys, self.options.validation_share, generator)
        return (bank[rows], bank[others]) if len(others) and len(rows) > 1 else (bank, None)

    def update(
        self,
        bank: FilterBank,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
        penalty: Penalty | None = None,
    ) -> FitReport:
        """Learns a further source set without the filters of those before.

        With a boosted latent prior this is BooVAE; with a mixture, the existing components are frozen and new ones
        added; with a penalty that holds the networks (elastic weight consolidation) any latent prior works.

        Raises:
            ModelError: if nothing would preserve what was learned before, or the bank does not fit.
        """
        self._check_fitted()
        self.check_bank(bank)
        if isinstance(self.latent_prior, StandardNormal) and penalty is None:
            raise ModelError(
                "a filter VAE with a standard normal latent cannot take a second source set",
                expected="latent_prior: boosted",
                fix="set 'latent_prior: boosted' and fit again, or fit to the filters of both sets",
            )
        boosted = isinstance(self.latent_prior, BoostedMixture)
        memory = copy.deepcopy(self).requires_grad_(False) if boosted else None
        self.requires_grad_(True)
        self.sets += 1
        if isinstance(self.latent_prior, LearnedMixture):
            self.latent_prior.grow(int(self.sets))
        with torch.enable_grad():
            return self._train(bank, *self._set_aside(bank, generator), generator, progress, memory, penalty)

    def _train(
        self,
        bank: FilterBank,
        trained: FilterBank,
        checked: FilterBank | None,
        generator: torch.Generator | None,
        progress: Progress | None,
        memory: VAEDensity | None = None,
        penalty: Penalty | None = None,
    ) -> FitReport:
        data, log_jacobian = self.standardised(trained)
        others = None if checked is None else self.standardised(checked)[0]
        training = VAETraining(self, data, generator, memory, int(self.sets), penalty, others)
        history, steps = training.run(progress)
        offset = float(log_jacobian.double().mean())
        with torch.no_grad():
            parts = torch.arange(len(data), device=data.filters.device).split(_FILTERS_AT_A_TIME)
            bounds = [self.bound(data[rows].filters, data[rows].rows, 1, generator) for rows in parts]
            bound = float(torch.cat(bounds).double().mean())
        history = tuple(value + offset for value in history)
        return FitReport(len(bank), len(bank), steps=steps, log_density=bound + offset, history=history)

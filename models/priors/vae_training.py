"""Trains a filter VAE: ELBO steps, and for a boosted latent prior the adding of components in between."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.priors.boosted_prior import BoostedMixture, BoostingSettings, aggregate_posterior, boost
from models.priors.latent_prior import NormalMixture
from models.priors.prior import Progress
from models.random_draws import random_rows, standard_normal

if TYPE_CHECKING:
    from models.priors.filter_vae import FilterVAE


@dataclass(frozen=True)
class TrainingSet:
    """Standardised filters `[F, D]` and, for a conditional VAE, the rows `[F]` of their layers."""

    filters: Tensor
    rows: Tensor | None


class VAETraining:
    """One training of a filter VAE.

    Args:
        vae: is trained in place.
        data: what it is trained on.
        generator: source of all randomness.
        memory: the same VAE before, whose densities at its pseudo-inputs are kept; None for a first training.
        sets: number of source sets seen, this one included.
    """

    def __init__(
        self,
        vae: FilterVAE,
        data: TrainingSet,
        generator: torch.Generator | None,
        memory: FilterVAE | None = None,
        sets: int = 1,
    ) -> None:
        self.vae = vae
        self.data = data
        self.generator = generator
        self.memory = memory
        self.sets = sets
        self.before = _mixture_of(memory)

    def run(self, progress: Progress | None) -> tuple[tuple[float, ...], int]:
        """Trains to the end.

        Returns:
            The mean objective of each epoch, nats per filter in standardised units, and the number of steps.
        """
        options, count = self.vae.options, len(self.data.filters)
        per_epoch = max(count // options.batch, 1)
        total = min(options.epochs * per_epoch, options.max_steps)
        parameters = [parameter for parameter in self.vae.parameters() if parameter.requires_grad]
        optimiser = torch.optim.Adam(parameters, lr=options.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=total)
        history: list[float] = []
        done = 0
        while done < total:
            order = random_rows(count, count, self.generator).to(self.data.filters.device)
            values = []
            for batch in order[: per_epoch * options.batch].split(options.batch)[: total - done]:
                self._boost_if_due(done, total)
                bound = self._bound(batch)
                loss = -bound if self.memory is None else -bound + options.memory_weight * self._forgetting()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                # Filters with extreme norms give rare steps of enormous length; ordinary ones are far below this.
                torch.nn.utils.clip_grad_norm_(parameters, 10.0 * math.sqrt(self.data.filters.shape[1]))
                optimiser.step()
                schedule.step()
                values.append(bound.detach())
                done += 1
            history.append(float(torch.stack(values).mean()))
            if progress is not None:
                progress(done, total)
        optimiser.zero_grad(set_to_none=True)
        if isinstance(self.vae.latent_prior, BoostedMixture):
            with torch.no_grad():
                self.vae.latent_prior.refresh(self.vae.encode_standardised, self.data.rows is not None)
            self.vae.latent_prior.settle()
        return tuple(history), done

    def _bound(self, batch: Tensor) -> Tensor:
        options, prior = self.vae.options, self.vae.latent_prior
        if isinstance(prior, BoostedMixture):
            prior.refresh(self.vae.encode_standardised, self.data.rows is not None)
        rows = None if self.data.rows is None else self.data.rows[batch]
        filters = self.data.filters[batch]
        return self.vae.bound(filters, rows, options.fit_samples, self.generator, beta=options.beta).mean()

    def _boost_if_due(self, done: int, total: int) -> None:
        """Adds components at even distances over the first four fifths of the training."""
        prior, options = self.vae.latent_prior, self.vae.options
        if not isinstance(prior, BoostedMixture):
            return
        distance = max(int(0.8 * total) // options.components, 1)
        if done % distance or done // distance >= options.components:
            return
        settings = BoostingSettings(
            options.boost_objective, options.boost_weight, options.component_steps, options.boost_subset
        )
        encode = self.vae.encode_standardised
        best = aggregate_posterior(encode, self.data.filters, self.data.rows, settings.subset, self.generator)
        if self.before is not None:
            # p* of T sets is ((T−1)/T) of the prior before and (1/T) of the new set's aggregate.
            best = self.before.joined(best, 1 / self.sets)
        prior.settle()
        boost(prior, encode, best, self.data.filters, self.data.rows, settings, self.generator)

    def _forgetting(self) -> Tensor:
        """Returns how far encoder and decoder have moved at the remembered pseudo-inputs, nats per filter.

        Σ_c α_c [ KL(q_before(z|u_c) ‖ q(z|u_c)) + E_q_before KL(p_before(w|z) ‖ p(w|z)) ], the second from draws.
        """
        if self.memory is None or self.before is None or not isinstance(self.memory.latent_prior, BoostedMixture):
            return torch.zeros((), device=self.data.filters.device)
        remembered = self.memory.latent_prior
        rows = remembered.pseudo_rows if self.data.rows is not None else None
        weights = self.before.log_weights.exp()
        means, log_variances = self.vae.encode_standardised(remembered.pseudo_inputs, rows)
        moved = _normal_kl(self.before.means, self.before.log_variances, means, log_variances)
        draws = 8
        noise = standard_normal((draws, *means.shape), means, self.generator)
        latents = (self.before.means + torch.exp(0.5 * self.before.log_variances) * noise).flatten(0, 1)
        repeated = None if rows is None else rows.repeat(draws)
        with torch.no_grad():
            before = self.memory.decode_standardised(latents, repeated)
        now = self.vae.decode_standardised(latents, repeated)
        changed = _normal_kl(*before, *now).reshape(draws, -1).mean(0)
        return (weights * (moved + changed)).sum()


def remember(vae: FilterVAE) -> FilterVAE:
    """Returns a frozen copy of a VAE."""
    memory = copy.deepcopy(vae)
    memory.requires_grad_(False)
    return memory


def _mixture_of(memory: FilterVAE | None) -> NormalMixture | None:
    return (
        memory.latent_prior.mixture if memory is not None and isinstance(memory.latent_prior, BoostedMixture) else None
    )


def _normal_kl(mean_q: Tensor, log_variance_q: Tensor, mean_p: Tensor, log_variance_p: Tensor) -> Tensor:
    """Returns KL(q ‖ p) of diagonal normal distributions, `[F]`."""
    ratio = torch.exp(log_variance_q - log_variance_p)
    shift = (mean_q - mean_p).square() * torch.exp(-log_variance_p)
    return 0.5 * (ratio + shift - 1 - log_variance_q + log_variance_p).sum(1)

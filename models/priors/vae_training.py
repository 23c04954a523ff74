"""Trains a filter VAE by steps on the ELBO; a boosted latent prior gets new components in between."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.priors.boosted_prior import BoostedMixture, BoostingSettings, aggregate_posterior, boost
from models.priors.latent_prior import NormalMixture, StandardNormal
from models.priors.prior import Progress
from models.priors.vae_density import StandardisedFilters, VAEDensity
from models.random_draws import random_rows, standard_normal

Penalty = Callable[[], Tensor]
"""Computes a scalar (nats per filter) that is added to the loss of every step."""

_CHECKS = 20
_CHECK_SAMPLES = 8
_CHECKED_FILTERS = 4096


class VAETraining:
    """One training of a filter VAE.

    Args:
        vae: is trained in place.
        data: what it is trained on.
        generator: source of all randomness.
        memory: the VAE before the update, whose densities at its pseudo-inputs are kept; None for a first training.
        sets: number of source sets seen, including this one.
        penalty: a further term of the loss of an update.
        checked: filters that are not trained on; the state that scores best on them is kept at the end. None keeps the
            last state.
    """

    def __init__(
        self,
        vae: VAEDensity,
        data: StandardisedFilters,
        generator: torch.Generator | None,
        memory: VAEDensity | None = None,
        sets: int = 1,
        penalty: Penalty | None = None,
        checked: StandardisedFilters | None = None,
    ) -> None:
        self.vae = vae
        self.data = data
        self.generator = generator
        self.memory = memory
        self.sets = sets
        self.penalty = penalty
        self.checked = checked
        self.before: NormalMixture | None = None
        if memory is not None and isinstance(memory.latent_prior, BoostedMixture):
            self.before = memory.latent_prior.mixture
        # The best state so far, by its value on the filters that are only checked.
        self.best_value = -math.inf
        self.best_state: dict[str, Tensor] = {}

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
        if self._starts_as_gaussian:
            self._check_gaussian(total)
        while done < total:
            order = random_rows(count, count, self.generator).to(self.data.filters.device)
            values = []
            for batch in order[: per_epoch * options.batch].split(options.batch)[: total - done]:
                self._boost_if_due(done, total)
                bound = self._bound(batch)
                loss = self._anchors() - bound
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                # Filters with extreme norms give rare steps of enormous length; ordinary ones are far below this.
                torch.nn.utils.clip_grad_norm_(parameters, 10.0 * math.sqrt(self.data.filters.shape[1]))
                optimiser.step()
                schedule.step()
                values.append(bound.detach())
                done += 1
                self._check(done, total)
            history.append(float(torch.stack(values).mean()))
            if progress is not None:
                progress(done, total)
        optimiser.zero_grad(set_to_none=True)
        if self.best_state:
            self.vae.resize_buffers(self.best_state)
            self.vae.load_state_dict(self.best_state)
        self._place_components()
        return tuple(history), done

    def _place_components(self) -> None:
        """Puts the components of a boosted prior where the encoder is now, and cuts them off from it."""
        if isinstance(self.vae.latent_prior, BoostedMixture):
            with torch.no_grad():
                self.vae.latent_prior.refresh(self.vae.encode_standardised, self.data.rows is not None)
            self.vae.latent_prior.settle()

    @property
    def _starts_as_gaussian(self) -> bool:
        update = self.memory is not None or self.penalty is not None or self.sets > 1
        standard = isinstance(self.vae.latent_prior, StandardNormal)
        return self.vae.options.starts_at_gaussian and standard and not update

    @torch.no_grad()
    def _check_gaussian(self, total: int) -> None:
        """Scores the Gaussian from which the training starts, so that a group without further structure keeps it.

        The decoder ignores z, and with an encoder that ignores w the bound is exact. Training itself cannot start from
        that encoder: no gradient would lead away from it.
        """
        encoder = copy.deepcopy(self.vae.encoder.state_dict())
        self.vae.encoder.start_at_standard_normal()
        self._check(0, total)
        self.vae.encoder.load_state_dict(encoder)

    @torch.no_grad()
    def _check(self, done: int, total: int) -> None:
        """Scores the present state on the filters that are not trained on, several times during training."""
        if self.checked is None or (done % max(total // _CHECKS, 1) and done < total):
            return
        prior = self.vae.latent_prior
        if isinstance(prior, BoostedMixture):
            if self.before is None and not self._all_components(done, total):
                return
            self._place_components()
        options = self.vae.options
        samples = _CHECK_SAMPLES if options.beta == 1.0 else 1
        # The same draws at every check, and none taken from the training's generator.
        generator = torch.Generator(self.data.filters.device).manual_seed(0)
        filters, rows = self.checked.filters, self.checked.rows
        bound = self.vae.bound(filters, rows, samples, generator, beta=options.beta).mean()
        value = float(bound - self._anchors(generator))
        if value > self.best_value:
            self.best_value, self.best_state = value, copy.deepcopy(self.vae.state_dict())

    def _anchors(self, generator: torch.Generator | None = None) -> Tensor:
        """Returns the terms that hold an update to what was learned before, nats per filter; 0 in a first training."""
        total = torch.zeros((), device=self.data.filters.device)
        if self.memory is not None:
            # T − 1 sets are remembered and one is new: the weight of each set is the same.
            weight = self.vae.options.memory_weight * (self.sets - 1)
            total = total + weight * self._forgetting(generator or self.generator)
        if self.penalty is not None:
            total = total + self.penalty()
        return total

    def _bound(self, batch: Tensor) -> Tensor:
        options, prior = self.vae.options, self.vae.latent_prior
        if isinstance(prior, BoostedMixture):
            prior.refresh(self.vae.encode_standardised, self.data.rows is not None)
        rows = None if self.data.rows is None else self.data.rows[batch]
        filters = self.data.filters[batch]
        return self.vae.bound(filters, rows, options.fit_samples, self.generator, beta=options.beta).mean()

    def _boost_if_due(self, done: int, total: int) -> None:
        """Adds components at even intervals over the first four fifths of the training."""
        prior, options = self.vae.latent_prior, self.vae.options
        if not isinstance(prior, BoostedMixture):
            return
        distance = self._distance(total)
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

    def _distance(self, total: int) -> int:
        """Steps from one component to the next."""
        return max(int(0.8 * total) // self.vae.options.components, 1)

    def _all_components(self, done: int, total: int) -> bool:
        return done > self._distance(total) * (self.vae.options.components - 1) or done == total

    def _forgetting(self, generator: torch.Generator | None) -> Tensor:
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
        noise = standard_normal((draws, *means.shape), means, generator)
        latents = (self.before.means + torch.exp(0.5 * self.before.log_variances) * noise).flatten(0, 1)
        repeated = None if rows is None else rows.repeat(draws)
        with torch.no_grad():
            before = self.memory.decode_standardised(latents, repeated)
        now = self.vae.decode_standardised(latents, repeated)
        changed = _normal_kl(*before, *now).reshape(draws, -1).mean(0)
        return (weights * (moved + changed)).sum()


def set_aside(keys: Tensor, share: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Divides rows into those to train on and those to check on; rows with the same key stay together.

    Args:
        keys: `[F]`, e.g. positions: snapshots of one position are almost the same filter.
        share: of the keys to check on.
        generator: source of the draw.

    Returns:
        Row numbers of both, rising; the second at most some thousands, the first never empty.
    """
    unique, of_row = torch.unique(keys, return_inverse=True)
    count = min(int(share * len(unique)), len(unique) - 1)
    chosen = torch.zeros(len(unique), dtype=torch.bool)
    chosen[random_rows(len(unique), count, generator).cpu()] = True
    checked = torch.nonzero(chosen[of_row]).squeeze(1)
    trained = torch.nonzero(~chosen[of_row]).squeeze(1)
    if len(checked) > _CHECKED_FILTERS:
        checked = checked[random_rows(len(checked), _CHECKED_FILTERS, generator).cpu()].sort().values
    return trained, checked


def _normal_kl(mean_q: Tensor, log_variance_q: Tensor, mean_p: Tensor, log_variance_p: Tensor) -> Tensor:
    """Returns KL(q ‖ p) of diagonal normal distributions, `[F]`."""
    ratio = torch.exp(log_variance_q - log_variance_p)
    shift = (mean_q - mean_p).square() * torch.exp(-log_variance_p)
    return 0.5 * (ratio + shift - 1 - log_variance_q + log_variance_p).sum(1)

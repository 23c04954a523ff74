"""The density of a filter VAE, p(w) = ∫ p(w|z) p(z) dz: networks, bound and draws, but no fitting.

The K-sample bound is that of Burda et al., "Importance weighted autoencoders", ICLR 2016.

Filters are standardised first (see `standardisation.py`); the Jacobian of that map is part of every density, so values
are nats per filter in raw units. With a whitening map a VAE that ignores its latent *is* the full-covariance Gaussian,
so any higher score is structure that a Gaussian cannot describe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.errors import ModelError
from models.filter_bank import FilterBank
from models.filters import KERNEL_VOXELS, FilterPositions
from models.priors.boosted_prior import BoostedMixture
from models.priors.latent_prior import LatentPrior, LatentPriorKind, LearnedMixture, StandardNormal
from models.priors.prior import FilterPrior, check_known_layers, require_positions
from models.priors.standardisation import Scaling, Standardisation
from models.priors.vae_networks import Architecture, GaussianNet, build_decoder, build_encoder
from models.priors.vae_options import AUTO_LATENT, Condition, FilterVAEOptions
from models.random_draws import standard_normal

_LOG_VARIANCE_FLOOR = -10.0
"""Smallest log-variance of the decoder, in standardised units: far below that of trained filters."""

_LATENT_WEIGHT = "encoder.mean.weight"
"""The entry of a saved state with a row for each latent dimension."""


@dataclass(frozen=True)
class StandardisedFilters:
    """Standardised filters `[F, D]` and, for a conditional VAE, the rows `[F]` of their layers."""

    filters: Tensor
    rows: Tensor | None

    def __len__(self) -> int:
        return len(self.filters)

    def __getitem__(self, chosen: Tensor) -> StandardisedFilters:
        return StandardisedFilters(self.filters[chosen], None if self.rows is None else self.rows[chosen])


class VAEDensity(FilterPrior):
    """The density of a VAE over filters; `log_prob` is a K-sample lower bound."""

    options: FilterVAEOptions
    layer_ids: Tensor
    sets: Tensor

    def __init__(self, options: FilterVAEOptions, kernel_voxels: int = KERNEL_VOXELS) -> None:
        super().__init__(options)
        if options.architecture is Architecture.CONVOLUTIONAL and kernel_voxels != KERNEL_VOXELS:
            raise ModelError(
                f"a convolutional filter VAE for kernels of {kernel_voxels} voxels",
                expected=f"3×3×3 kernels ({KERNEL_VOXELS} voxels)",
                fix="set 'architecture: mlp'",
            )
        self.standardisation = Standardisation(kernel_voxels)
        self.register_buffer("layer_ids", torch.zeros(0, dtype=torch.int64))
        # Number of source sets seen, the T of BooVAE.
        self.register_buffer("sets", torch.ones((), dtype=torch.int64))
        # Where the filters are to say how many, one stands for it until the fit or a saved state does.
        self.latent = 1 if options.latent == AUTO_LATENT else options.latent
        self.latent_prior: LatentPrior
        self._build(layers=0)

    def _build(self, layers: int) -> None:
        """Builds encoder and decoder for a number of layers to condition on."""
        options = self.options
        self.latent_prior = self._build_latent_prior()
        conditional = options.condition is Condition.LAYER and layers > 0
        context = options.embedding if conditional else 0
        self.encoder_embedding = nn.Embedding(layers, options.embedding) if conditional else None
        self.decoder_embedding = nn.Embedding(layers, options.embedding) if conditional else None
        self.encoder: GaussianNet = build_encoder(
            options.architecture,
            self.kernel_voxels,
            context + int(options.norm_input),
            options.hidden,
            self.latent,
        )
        self.decoder: GaussianNet = build_decoder(
            options.architecture,
            self.latent,
            context,
            options.hidden,
            self.kernel_voxels,
            _LOG_VARIANCE_FLOOR,
        )
        if options.starts_at_gaussian:
            self.decoder.start_at_standard_normal()

    def _build_latent_prior(self) -> LatentPrior:
        options = self.options
        if options.latent_prior is LatentPriorKind.BOOSTED:
            return BoostedMixture(self.latent, self.kernel_voxels)
        if options.latent_prior is LatentPriorKind.MIXTURE:
            return LearnedMixture(self.latent, options.components)
        return StandardNormal(self.latent)

    @property
    def kernel_voxels(self) -> int:
        """Numbers per filter."""
        return self.standardisation.kernel_voxels

    @property
    def is_bound(self) -> bool:
        """True: the marginal density of a VAE has no closed form."""
        return True

    @property
    def needs_positions(self) -> bool:
        """Whether filters are scaled by layer or the networks are conditioned on the layer."""
        return self.options.condition is Condition.LAYER or self.options.scaling is not Scaling.NONE

    def free_parameters(self) -> int:
        """Returns the parameters of standardisation, decoder and latent prior; the encoder is not part of p(w)."""
        parts = [self.decoder, self.decoder_embedding, self.latent_prior]
        networks = sum(p.numel() for part in parts if part is not None for p in part.parameters())
        mixture = 0
        if isinstance(self.latent_prior, BoostedMixture):
            # A component is where the encoder puts its pseudo-input: mean and variance of each latent dimension.
            mixture = len(self.latent_prior.log_weights) * (2 * self.latent + 1) - 1
        whitening = self.standardisation.free_parameters(self.options.covariance_removed, self.latent)
        return whitening + networks + mixture

    def variational_parameters(self) -> list[nn.Parameter]:
        """Returns ψ: the parameters of the encoder r(z|w)."""
        parameters = list(self.encoder.parameters())
        if self.encoder_embedding is not None:
            parameters += list(self.encoder_embedding.parameters())
        return parameters

    def encode(self, filters: Tensor, where: FilterPositions | None = None) -> tuple[Tensor, Tensor]:
        """Returns mean and log-variance of r(z|w), each `[F, latent]`, for raw filters `[F, 27]`."""
        standardised, _ = self.standardisation(filters, where)
        return self.encode_standardised(standardised, self._layer_rows(where))

    def decode(self, latents: Tensor, where: FilterPositions | None = None) -> Tensor:
        """Returns the raw filters `[F, 27]` that latents `[F, latent]` stand for (means of p(w|z))."""
        mean, _ = self.decode_standardised(latents, self._layer_rows(where))
        return self.standardisation.inverse(mean, where)

    def _layer_rows(self, where: FilterPositions | None) -> Tensor | None:
        if self.options.condition is Condition.NONE:
            return None
        return check_known_layers(self.layer_ids, require_positions(where))

    def encode_standardised(self, standardised: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns mean and log-variance of r(z|x), each `[F, latent]`, for standardised filters `[F, D]`."""
        context = None if rows is None or self.encoder_embedding is None else self.encoder_embedding(rows)
        if self.options.norm_input:
            rms = (standardised.square().mean(1, keepdim=True) + 1e-8).sqrt()
            standardised = torch.cat([standardised / rms, rms.log()], dim=1)
        mean, log_variance = self.encoder(standardised, context)
        return mean, log_variance

    def decode_standardised(self, latents: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns mean and log-variance of p(x|z), each `[F, D]`, for latents `[F, latent]`."""
        context = None if rows is None or self.decoder_embedding is None else self.decoder_embedding(rows)
        mean, log_variance = self.decoder(latents, context)
        return mean, log_variance

    def _log_prob(
        self, filters: Tensor, where: FilterPositions | None, samples: int, generator: torch.Generator | None
    ) -> Tensor:
        standardised, log_jacobian = self.standardisation(filters, where)
        return self.bound(standardised, self._layer_rows(where), samples, generator) + log_jacobian

    def log_estimate(
        self, filters: Tensor, where: FilterPositions | None, samples: int, generator: torch.Generator | None
    ) -> Tensor:
        """Scores filters by the log of an average of p(w|z) p(z) / r(z|w), `[F]`, with no KL in closed form."""
        self._check_fitted()
        standardised, log_jacobian = self.standardisation(filters, where)
        rows = self._layer_rows(where)
        return self.bound(standardised, rows, samples, generator, closed_form=False) + log_jacobian

    def bound(
        self,
        standardised: Tensor,
        rows: Tensor | None,
        samples: int,
        generator: torch.Generator | None,
        beta: float = 1.0,
        closed_form: bool = True,
    ) -> Tensor:
        """Computes log 1/K Σ_k p(x|z_k) p(z_k) / r(z_k|x), `[F]`, in standardised units.

        Args:
            standardised: `[F, D]`, filters x.
            rows: `[F]`, rows of their layers, for a conditional VAE.
            samples: K; 1 takes the KL to p(z) in closed form, if it has one and `closed_form` says so.
            generator: source of z.
            beta: weight of the KL at K = 1.
            closed_form: less noise, but exp of the bound is then not an unbiased estimate of the density.
        """
        mean, log_variance = self.encode_standardised(standardised, rows)
        if samples == 1 and closed_form:
            latents = mean + torch.exp(0.5 * log_variance) * standard_normal(mean.shape, mean, generator)
            kl = self.latent_prior.kl(mean, log_variance, latents)
            return self._likelihood(standardised, latents, rows) - beta * kl
        # Each z_k is scored by itself and the ratios are averaged. The mean of the z_k scored as one is not a bound.
        count = len(standardised)
        noise = standard_normal((samples, *mean.shape), mean, generator)
        latents = (mean + torch.exp(0.5 * log_variance) * noise).flatten(0, 1)
        log_encoder = -0.5 * (noise.square() + log_variance + math.log(2 * math.pi)).sum(2)
        repeated_rows = None if rows is None else rows.repeat(samples)
        log_likelihood = self._likelihood(standardised.repeat(samples, 1), latents, repeated_rows)
        log_ratio = (log_likelihood + self.latent_prior.log_prob(latents)).reshape(samples, count) - log_encoder
        return torch.logsumexp(log_ratio, dim=0) - math.log(samples)

    def _likelihood(self, standardised: Tensor, latents: Tensor, rows: Tensor | None) -> Tensor:
        mean, log_variance = self.decode_standardised(latents, rows)
        squared = (standardised - mean).square() * torch.exp(-log_variance)
        return -0.5 * (squared + log_variance + math.log(2 * math.pi)).sum(1)

    def _sample(self, count: int, where: FilterPositions | None, generator: torch.Generator | None) -> Tensor:
        with torch.no_grad():
            latents = self.latent_prior.sample(count, generator)
            mean, log_variance = self.decode_standardised(latents, self._layer_rows(where))
            noise = standard_normal(mean.shape, mean, generator)
            return self.standardisation.inverse(mean + torch.exp(0.5 * log_variance) * noise, where)

    def standardised(self, bank: FilterBank) -> tuple[StandardisedFilters, Tensor]:
        """Returns the filters of a bank as the networks see them, and the log |dx/dw| of each (or one for all)."""
        filters = bank.filters.to(self.fitted.device, self.standardisation.mean.dtype)
        with torch.no_grad():
            standardised, log_jacobian = self.standardisation(filters, bank.positions)
        return StandardisedFilters(standardised, self._layer_rows(bank.positions)), log_jacobian

    def _prepare_for_state(self, state: Mapping[str, Tensor]) -> None:
        if "standardisation.mean" in state and self.options.architecture is Architecture.MLP:
            self.standardisation = Standardisation(len(state["standardisation.mean"]))
        if self.options.latent == AUTO_LATENT and _LATENT_WEIGHT in state:
            self.latent = len(state[_LATENT_WEIGHT])
            self._build(layers=0)
        if "layer_ids" in state:
            self._build(len(state["layer_ids"]))

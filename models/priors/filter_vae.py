"""The Deep Weight Prior: a variational auto-encoder over filters, p(w) = ∫ p(w|z) p(z) dz.

Sources: Atanov et al., "The Deep Weight Prior", ICLR 2019; Kuzina et al. 2019; the K-sample bound is that of Burda et
al., "Importance weighted autoencoders", ICLR 2016.

Filters are standardised first (see `standardisation.py`); the Jacobian of that map is part of every density, so values
are nats per filter in raw units. With a whitening map a VAE that ignores its latent *is* the full-covariance Gaussian,
so what it scores above that is structure a Gaussian cannot describe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.errors import ModelError
from models.filter_bank import FilterBank
from models.filters import KERNEL_VOXELS, FilterPositions
from models.priors.boosted_prior import BoostedMixture, BoostingObjective
from models.priors.latent_prior import LatentPrior, LatentPriorKind, LearnedMixture, StandardNormal
from models.priors.prior import (
    FilterPrior,
    FitReport,
    PriorOptionsBase,
    Progress,
    check_known_layers,
    require_positions,
)
from models.priors.standardisation import Covariance, Scaling, Standardisation
from models.priors.vae_networks import Architecture, GaussianNet, build_decoder, build_encoder
from models.priors.vae_training import Penalty, TrainingSet, VAETraining, remember, set_aside
from models.random_draws import draw_seed, standard_normal

_FILTERS_AT_A_TIME = 32_768
"""Filters that a bank is scored in: the features that the networks make of each are in memory at once."""


class Condition(StrEnum):
    """What encoder and decoder are told besides the filter and the latent."""

    NONE = "none"
    """Nothing: filters of a group are exchangeable, as published."""
    LAYER = "layer"
    """The layer of the filter, as a learned vector."""


class FilterVAEOptions(PriorOptionsBase):
    """Settings of a filter VAE. β-VAE, conditional and convolutional VAE are settings of it."""

    kind: Literal["vae"] = "vae"
    latent: int = Field(default=6, ge=1, description="Dimensions of the latent z.")
    beta: float = Field(default=1.0, gt=0, description="Weight of the KL term in the fit (β-VAE); 1 is the ELBO.")
    architecture: Architecture = Field(default=Architecture.MLP, description="Encoder and decoder.")
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(128, 128), min_length=1, description="Widths of the hidden layers (channels, if convolutional)."
    )
    condition: Condition = Field(default=Condition.NONE, description="What else the networks are conditioned on.")
    embedding: int = Field(default=8, ge=1, description="Length of the vector that stands for a layer.")
    scaling: Scaling = Field(default=Scaling.NONE, description="What filters are divided by before they are pooled.")
    standardise: Covariance | None = Field(
        default=None,
        description="Covariance that is removed before the networks see a filter; none: full for the MLP, isotropic "
        "for the convolutional networks, whose neighbours must stay neighbours.",
    )
    start_at_gaussian: bool | None = Field(
        default=None,
        description="Start with a decoder that ignores z: the density before the first step is the Gaussian that "
        "standardisation removes, and training can only add to it; none: for the MLP, whose Gaussian is a full one.",
    )
    norm_input: bool = Field(
        default=True,
        description="Show the encoder a filter as direction and log norm; norms spread over orders of magnitude.",
    )
    validation_share: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="Share of the positions that are not trained on; the state that scores best on them is kept.",
    )
    log_variance_floor: float = Field(
        default=-10.0, description="Smallest log-variance of the decoder, in standardised units."
    )
    latent_prior: LatentPriorKind = Field(default=LatentPriorKind.STANDARD, description="Density of the latent.")
    components: int = Field(
        default=8, ge=1, description="Components that a boosted or mixture prior gets for each source set."
    )
    component_steps: int = Field(default=100, ge=1, description="Optimiser steps for the pseudo-input of a component.")
    boost_objective: BoostingObjective = Field(
        default=BoostingObjective.EXACT, description="What the pseudo-input of a new component minimises."
    )
    boost_weight: float = Field(default=1.0, gt=0, description="λ of BooVAE's first-order objective.")
    boost_subset: int = Field(default=500, ge=2, description="Filters that stand for the source set in boosting.")
    memory_weight: float = Field(
        default=1.0, ge=0, description="Weight of keeping what was learned from earlier source sets in an update."
    )
    epochs: int = Field(default=100, ge=1, description="Passes over the bank, unless max_steps ends the fit before.")
    max_steps: int = Field(default=3000, ge=1, description="Largest number of optimiser steps.")
    batch: int = Field(default=512, ge=2, description="Filters per step.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Peak rate of Adam; cosine to zero.")
    fit_samples: int = Field(default=1, ge=1, description="Latent draws per filter in the fit; more tighten the bound.")
    max_filters: int | None = Field(
        default=None, ge=2, description="Largest number of filters to fit to, drawn at random; none: all."
    )

    @model_validator(mode="after")
    def _beta_needs_closed_form(self) -> Self:
        if self.beta != 1.0 and self.fit_samples > 1:
            raise ValueError("beta other than 1 is defined for fit_samples: 1 only")
        return self

    @property
    def covariance_removed(self) -> Covariance:
        """The form of the standardisation after defaults."""
        if self.standardise is not None:
            return self.standardise
        return Covariance.FULL if self.architecture is Architecture.MLP else Covariance.ISOTROPIC

    @property
    def starts_at_gaussian(self) -> bool:
        """Whether the decoder ignores z at the start, after defaults."""
        return self.architecture is Architecture.MLP if self.start_at_gaussian is None else self.start_at_gaussian


class FilterVAE(FilterPrior):
    """A VAE over filters; `log_prob` is a K-sample lower bound.

    Args:
        options: settings.
        kernel_voxels: numbers per filter.
    """

    options: FilterVAEOptions
    layer_ids: Tensor
    sets: Tensor

    def __init__(self, options: FilterVAEOptions, kernel_voxels: int = KERNEL_VOXELS) -> None:
        super().__init__(options, kernel_voxels)
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
            options.latent,
        )
        self.decoder: GaussianNet = build_decoder(
            options.architecture,
            options.latent,
            context,
            options.hidden,
            self.kernel_voxels,
            options.log_variance_floor,
        )
        if options.starts_at_gaussian:
            self.decoder.start_at_standard_normal()

    def _build_latent_prior(self) -> LatentPrior:
        options = self.options
        if options.latent_prior is LatentPriorKind.BOOSTED:
            return BoostedMixture(options.latent, self.kernel_voxels)
        if options.latent_prior is LatentPriorKind.MIXTURE:
            return LearnedMixture(options.latent, options.components)
        return StandardNormal(options.latent)

    @property
    def is_bound(self) -> bool:
        """True: the marginal density of a VAE has no closed form."""
        return True

    @property
    def needs_positions(self) -> bool:
        """Whether filters are scaled by layer or the networks are told the layer."""
        return self.options.condition is Condition.LAYER or self.options.scaling is not Scaling.NONE

    def free_parameters(self) -> int:
        """Returns the parameters of standardisation, decoder and latent prior; the encoder is no part of p(w)."""
        parts = [self.decoder, self.decoder_embedding, self.latent_prior]
        networks = sum(p.numel() for part in parts if part is not None for p in part.parameters())
        mixture = 0
        if isinstance(self.latent_prior, BoostedMixture):
            # A component is where the encoder puts its pseudo-input: mean and variance of each latent dimension.
            mixture = len(self.latent_prior.log_weights) * (2 * self.options.latent + 1) - 1
        whitening = self.standardisation.free_parameters(self.options.covariance_removed, self.options.latent)
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
            closed_form: less noise, but exp of the bound is then no unbiased estimate of the density.
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

    def _fit(self, bank: FilterBank, generator: torch.Generator | None, progress: Progress | None) -> FitReport:
        options = self.options
        dtype, device = self.standardisation.mean.dtype, self.fitted.device
        trained, checked = self._set_aside(bank, generator)
        # Whitened by the checked filters too, the networks would learn directions of chance that these share. Scales of
        # layers need every layer, and are too few for that.
        whole = options.scaling is not Scaling.NONE
        self.standardisation.fit(
            bank if whole else trained, options.covariance_removed, options.latent, options.scaling, zero_mean=False
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
        """Divides a bank, or a sample of it, into filters to train on and filters to check on."""
        most = self.options.max_filters
        used = bank if most is None else bank.subsample(most, generator)
        if not self.options.validation_share:
            return used, None
        # Positions of two networks do not correspond; those of two snapshots of one network do.
        keys = used.positions.keys() * (int(used.network.max()) + 1) + used.network
        rows, others = set_aside(keys, self.options.validation_share, generator)
        return (used[rows], used[others]) if len(others) and len(rows) > 1 else (used, None)

    def update(
        self,
        bank: FilterBank,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
        penalty: Penalty | None = None,
    ) -> FitReport:
        """Learns a further source set without the filters of those before.

        With a boosted latent prior this is BooVAE; with a mixture, the components so far are frozen and new ones join
        them; any latent prior will do with a penalty that holds the networks (elastic weight consolidation).

        Args:
            bank: filters of the new source set, of the same layers.
            generator: source of all randomness.
            progress: called as the update goes on.
            penalty: added to the loss of every step, nats per filter.

        Raises:
            ModelError: if nothing would hold what was learned before, or the bank does not fit.
        """
        self._check_fitted()
        self.check_bank(bank)
        if isinstance(self.latent_prior, StandardNormal) and penalty is None:
            raise ModelError(
                "a filter VAE with a standard normal latent cannot take a second source set",
                expected="latent_prior: boosted",
                fix="set 'latent_prior: boosted' and fit again, or fit to the filters of both sets",
            )
        memory = remember(self) if isinstance(self.latent_prior, BoostedMixture) else None
        self.requires_grad_(True)
        self.sets += 1
        if isinstance(self.latent_prior, LearnedMixture):
            self.latent_prior.grow(int(self.sets))
        with torch.enable_grad():
            return self._train(bank, *self._set_aside(bank, generator), generator, progress, memory, penalty)

    def standardised(self, bank: FilterBank) -> tuple[TrainingSet, Tensor]:
        """Returns the filters of a bank as the networks see them, and the log |dx/dw| of each (or one for all)."""
        filters = bank.filters.to(self.fitted.device, self.standardisation.mean.dtype)
        with torch.no_grad():
            standardised, log_jacobian = self.standardisation(filters, bank.positions)
        return TrainingSet(standardised, self._layer_rows(bank.positions)), log_jacobian

    def _train(
        self,
        bank: FilterBank,
        trained: FilterBank,
        checked: FilterBank | None,
        generator: torch.Generator | None,
        progress: Progress | None,
        memory: FilterVAE | None = None,
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
        most = self.options.max_filters
        used = len(bank) if most is None else min(most, len(bank))
        return FitReport(len(bank), used, steps=steps, log_density=bound + offset, history=history)

    def _prepare_for_state(self, state: Mapping[str, Tensor]) -> None:
        if "layer_ids" in state:
            self._build(len(state["layer_ids"]))

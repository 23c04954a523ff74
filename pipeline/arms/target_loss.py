"""The objective of a step on the target: data term + (T / N_vox) Σ [ −H(q) − E_q log p(w) ]."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork, WeightDraw
from models.deep_supervision import DeepSupervisionLoss
from models.objectives import Likelihood, SegmentationLoss
from models.posteriors.mixture import Mixture
from pipeline.arms.choices import ArmOptions
from pipeline.arms.prior_term import PriorTerm, WeightPriors
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.training.loop import StepLoss, is_logged
from pipeline.training.patches import BatchSampler

_ELBO_BATCHES = 16
"""Batches, each with one draw, that the data term of a reported ELBO is averaged over; all where there are fewer."""


class TargetLoss:
    """Computes the loss of a step on the batch of that step.

    Args:
        arm: the choices.
        options: data term, common to all arms.
        model: network and posterior.
        priors: p(w); none for a plain loss.
        sampler: draws the batches.
        seed: of the posterior's draws.
        device: where to compute.
        autocast: context of the network's passes; none by default.
    """

    def __init__(
        self,
        arm: ArmOptions,
        options: TargetTrainingOptions,
        model: BayesianNetwork,
        priors: WeightPriors,
        sampler: BatchSampler,
        seed: int,
        device: str,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._arm = arm
        self._options = options
        self._model = model
        self._sampler = sampler
        self._seed = seed
        self._device = device
        self._autocast = autocast
        self._draws = torch.Generator(device).manual_seed(stream_seed(seed, "draws"))
        self._data_loss = _data_loss(options.likelihood)
        self.prior_term = PriorTerm(arm, priors, sampler.voxels, options.steps, seed)

    def is_logged(self, step: int) -> bool:
        """Whether a step's numbers are kept."""
        return is_logged(step, self._options.steps, self._options.log_every)

    def of_component(self, component: int) -> Callable[[int], StepLoss]:
        """The loss while one component of a mixture is trained, on batches of its own."""
        return lambda step: self(step, first_batch=component * self._options.steps)

    def __call__(self, step: int, first_batch: int = 0) -> StepLoss:
        """Computes the loss of a step.

        Args:
            step: from 0.
            first_batch: number of the batch of step 0.
        """
        self._model.train()
        images, labels, names = self._sampler.batch(first_batch + step)
        images, labels = images.to(self._device), labels.to(self._device)
        logged = self.is_logged(step)
        terms: dict[str, float] = {}
        number = self._arm.train_samples
        data_term, divergence = torch.zeros((), device=self._device), torch.zeros((), device=self._device)
        for draw in self._model.draws(number, self._draws):
            data_term = data_term + self._data_loss(self._logits(images, draw), labels) / number
            if self.prior_term.priors:
                nats = self.prior_term.kl(self._model, draw, self._draws, terms=terms if logged else None)
                divergence = divergence + nats / number
        loss = data_term
        if self.prior_term.priors:
            scaled = self.prior_term.scaled(divergence, step)
            loss = data_term + scaled
            if logged:
                terms |= {"kl": float(scaled.detach()), "kl_weight": self.prior_term.weight(step)}
                terms |= self.prior_term.gaps(draw, first_batch + step)
        # What is read from the accelerator waits for it, so most steps read nothing but the loss.
        return StepLoss(loss, {"data_term": float(data_term.detach()), **terms} if logged else {}, names)

    def _logits(self, images: Tensor, draw: WeightDraw) -> Tensor | list[Tensor]:
        with self._autocast():
            if self._arm.local_reparameterisation:
                return self._model.local_forward(images, draw, self._draws)
            logits: Tensor | list[Tensor] = self._model(images, *draw)
            return logits

    @torch.no_grad()
    def elbo(self) -> float:
        """Estimates −N_vox · cross-entropy − T · KL in nats of the posterior (of a mixture, its active component).

        It is the component's own ELBO, with its own entropy: what keeps components apart in training is no part of it.
        The cross-entropy is the log likelihood, whatever the data term of the training is. With T = 1 this is the ELBO,
        else that of the tempered posterior.
        """
        self._model.eval()
        likelihood = _data_loss(Likelihood.CROSS_ENTROPY)
        generator = torch.Generator(self._device).manual_seed(stream_seed(self._seed, "elbo"))
        values = []
        # Batches beyond those of the training may not exist: they are drawn ahead, and only so many.
        for number, draw in enumerate(self._model.draws(min(_ELBO_BATCHES, self._options.steps), generator)):
            images, labels, _ = self._sampler.batch(number)
            data = likelihood(self._model(images.to(self._device), *draw), labels.to(self._device))
            values.append(-self._sampler.voxels * float(data))
        posterior = self._model.posterior
        alone = posterior.component(draw.component) if isinstance(posterior, Mixture) else posterior
        kl = float(self.prior_term.kl(self._model, draw, generator, share=1.0, posterior=alone))
        return sum(values) / len(values) - self._arm.posterior_temperature * kl


def _data_loss(likelihood: Likelihood) -> DeepSupervisionLoss:
    return DeepSupervisionLoss(SegmentationLoss(likelihood))

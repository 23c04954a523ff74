"""The objective of a step on the target: data term + (T / N_vox) Σ [ −H(q) − E_q log p(w) ]."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork, WeightDraw
from models.deep_supervision import DeepSupervisionLoss
from models.heads import Heads
from models.objectives import Likelihood, SegmentationLoss
from models.posteriors.mixture import Mixture
from models.soft_targets import SoftTargetLoss, shrink_targets
from pipeline.arms.choices import ArmOptions
from pipeline.arms.gradient_sizes import log_gradient_sizes
from pipeline.arms.prior_term import PriorTerm, WeightPriors
from pipeline.arms.pseudo_patches import SoftBatch
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.unlabelled_use import SelfTrainingOptions, UnlabelledUse
from pipeline.training.background import Sampler
from pipeline.training.loop import StepLoss, is_logged
from pipeline.training.patches import BatchSampler

_ELBO_BATCHES = 16
"""Batches, each with one draw, over which the data term of a reported ELBO is averaged (all if there are fewer)."""


@dataclass
class TargetLoss:
    """Computes the loss of a step on the batch of that step.

    Attributes:
        arm: the choices.
        options: data term, common to all arms.
        model: network and posterior.
        priors: p(w); empty for a plain loss.
        sampler: draws the batches.
        seed: of the posterior's draws.
        device: where to compute.
        autocast: context of the network's passes.
        heads: what the network's output channels stand for.
        gradient_scale: tells the factor on the gradients of a backward pass.
        unlabelled: draws what a student learns from beside annotated scans, if it is one.
        draws: the stream that steps draw from.
    """

    arm: ArmOptions
    options: TargetTrainingOptions
    model: BayesianNetwork
    priors: WeightPriors
    sampler: BatchSampler
    seed: int
    device: str
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    heads: Heads = Heads.EXCLUSIVE
    gradient_scale: Callable[[], float] = lambda: 1.0
    unlabelled: Sampler[SoftBatch] | None = None

    def __post_init__(self) -> None:
        self.draws = torch.Generator(self.device).manual_seed(stream_seed(self.seed, "draws"))
        self._data_loss = _data_loss(self.options.likelihood, self.heads)
        self._soft_loss = DeepSupervisionLoss(SoftTargetLoss(self.options.likelihood, self.heads), shrink_targets)
        self.prior_term = PriorTerm(self.arm, self.priors, self.sampler.voxels, self.options.steps, self.seed)

    def of_component(self, component: int) -> Callable[[int], StepLoss]:
        """The loss while one component of a mixture is trained, on its own batches."""
        return lambda step: self(step, first_batch=component * self.options.steps)

    def __call__(self, step: int, first_batch: int = 0) -> StepLoss:
        """Computes the loss of a step (from 0); `first_batch` is the number of the batch of step 0."""
        self.model.train()
        images, labels, names = self.sampler.batch(first_batch + step)
        images, labels = images.to(self.device), labels.to(self.device)
        pseudo = None if self.unlabelled is None else self.unlabelled.batch(first_batch + step)
        share = 0.0 if pseudo is None else pseudo_weight(self.arm.unlabelled, step, self.options.steps)
        logged = is_logged(step, self.options.steps, self.options.log_every)
        terms: dict[str, float] = {}
        number = self.arm.train_samples
        data_term, divergence, pseudo_term = (torch.zeros((), device=self.device) for _ in range(3))
        self.prior_term.settle(self.model.posterior, step)
        for draw in self.model.draws(number, self.draws):
            data_term = data_term + self._data_loss(self._logits(images, draw), labels) / number
            if pseudo is not None:
                soft = self._soft_loss(self._logits(pseudo[0].to(self.device), draw), pseudo[1].to(self.device))
                pseudo_term = pseudo_term + soft / number
            if self.priors:
                nats = self.prior_term.kl(self.model, draw, self.draws, terms=terms if logged else None)
                divergence = divergence + nats / number
        loss = data_term
        if pseudo is not None:
            loss = loss + share * pseudo_term
            names = [*names, *pseudo[2]]
        if self.priors:
            scaled = self.prior_term.scaled(divergence, step)
            loss = loss + scaled
        if not logged:
            # Reading a value from the accelerator waits for it, so most steps read nothing but the loss.
            return StepLoss(loss, {}, names)
        terms = {"data_term": float(data_term.detach()), **terms}
        if pseudo is not None:
            terms |= {"pseudo_term": float(pseudo_term.detach()), "pseudo_weight": share}
        if self.priors:
            terms |= {"kl": float(scaled.detach()), "kl_weight": self.prior_term.weight(step)}
            terms |= self.prior_term.gaps(draw, first_batch + step)
            terms |= self.prior_term.outside(self.model.posterior, first_batch + step)
            means = self.model.posterior.mean()
            log_gradient_sizes(means, scaled, self.prior_term.thinning(number), terms, self.gradient_scale())
        return StepLoss(loss, terms, names)

    def _logits(self, images: Tensor, draw: WeightDraw) -> Tensor | list[Tensor]:
        with self.autocast():
            if self.arm.local_reparameterisation:
                return self.model.local_forward(images, draw, self.draws)
            logits: Tensor | list[Tensor] = self.model(images, *draw)
            return logits

    @torch.no_grad()
    def elbo(self) -> float:
        """Estimates −N_vox · cross-entropy − T · KL in nats of the posterior (of a mixture, its active component).

        It is the component's own ELBO, with its own entropy and without the repulsion between components. The
        cross-entropy is the log likelihood, whatever the data term of the training. With T = 1 this is the ELBO,
        otherwise that of the tempered posterior.
        """
        self.model.eval()
        likelihood = _data_loss(Likelihood.CROSS_ENTROPY, self.heads)
        generator = torch.Generator(self.device).manual_seed(stream_seed(self.seed, "elbo"))
        values = []
        # Batches are drawn ahead, and none exist beyond those of the training.
        for number, draw in enumerate(self.model.draws(min(_ELBO_BATCHES, self.options.steps), generator)):
            images, labels, _ = self.sampler.batch(number)
            data = likelihood(self.model(images.to(self.device), *draw), labels.to(self.device))
            values.append(-self.sampler.voxels * float(data))
        posterior = self.model.posterior
        alone = posterior.component(draw.component) if isinstance(posterior, Mixture) else posterior
        kl = float(self.prior_term.kl(self.model, draw, generator, share=1.0, posterior=alone))
        return sum(values) / len(values) - self.arm.posterior_temperature * kl


def pseudo_weight(options: UnlabelledUse, step: int, steps: int) -> float:
    """Returns the weight of the loss on pseudo-labels at a step (from 0): λ exp(−5 (1 − t)²), t the share of its rise.

    Laine and Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017, section 2.1; 0 without a student.
    """
    if not isinstance(options, SelfTrainingOptions):
        return 0.0
    rise = options.ramp_up * steps
    risen = 1.0 if step >= rise else step / rise
    return options.weight * math.exp(-5 * (1 - risen) ** 2)


def _data_loss(likelihood: Likelihood, heads: Heads) -> DeepSupervisionLoss:
    return DeepSupervisionLoss(SegmentationLoss(likelihood, heads))

"""Learning the target with one arm: the objective is the same for all, a point in the choices sets its terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork
from models.filters import FilterLayer, filter_layers, filter_positions, get_filters
from models.networks.factory import NetworkOptions, build_network
from models.objectives import FilterGroups, SegmentationLoss, SegmentationLossOptions, kl_term
from models.posteriors.factory import build_posterior
from models.priors.prior import FilterPrior
from pipeline.arms.choices import ArmOptions, Initialisation
from pipeline.arms.inference_options import InferenceOptions
from pipeline.arms.starting_point import (
    Groups,
    choose_trainable,
    learned_layers,
    start_from_prior,
    start_from_source,
)
from pipeline.training.loop import History, StepLoss, train
from pipeline.training.patches import PatchSampler
from pipeline.training.schedule import cosine_cycles


@dataclass(frozen=True)
class SourceKnowledge:
    """What an arm may take from the source.

    Attributes:
        state: weights of the source network that this member starts from, if it does.
        priors: group → fitted density, if the arm has a prior.
        groups: group → layers.
    """

    state: Mapping[str, torch.Tensor] | None
    priors: Mapping[str, FilterPrior]
    groups: Groups


def learn_member(
    arm: ArmOptions,
    options: InferenceOptions,
    network_options: NetworkOptions,
    channels: int,
    classes: int,
    knowledge: SourceKnowledge,
    sampler: PatchSampler,
    seed: int,
    device: str,
    progress: Callable[[float], None],
) -> tuple[BayesianNetwork, History, list[str]]:
    """Trains one member of an arm.

    Args:
        arm: the choices.
        options: steps, rates and data term, common to all arms.
        network_options: which network.
        channels: image channels.
        classes: classes of the output, background included.
        knowledge: what it takes from the source.
        sampler: draws the batches; the same for every arm.
        seed: of the initial weights and the posterior's draws; the same for every arm.
        device: where to train.
        progress: is told the share of the steps done.

    Returns:
        the trained network, the history, and the names of source parameters that did not fit.

    Raises:
        TrainingError: the loss is not finite.
    """
    network = build_network(network_options, channels, classes, stream_seed(seed, "weights"))
    model, anew = _starting_network(arm, network, knowledge, seed)
    model = model.to(device)
    priors, groups = _prior_term(arm, model, knowledge, device)
    loss = TargetLoss(arm, options, model, priors, groups, sampler, seed, device)
    warm_up = round(arm.warm_up * options.steps)
    history = train(
        parameter_groups(model, priors, arm),
        loss,
        steps=options.steps,
        rate=lambda step: cosine_cycles(
            step, cycle=options.steps, peak=arm.peak_rate, floor=options.floor_rate, warm_up=warm_up
        ),
        options=options.optimiser,
        after_step=lambda step, row: progress((step + 1) / options.steps),
    )
    return model.eval(), history, anew


def _starting_network(
    arm: ArmOptions, network: torch.nn.Module, knowledge: SourceKnowledge, seed: int
) -> tuple[BayesianNetwork, list[str]]:
    """Gives a network its start and a posterior over what of its filters is learned.

    Returns:
        both together, and the names of source parameters that did not fit.
    """
    anew: list[str] = []
    if arm.init is Initialisation.SOURCE and knowledge.state is not None:
        anew = start_from_source(network, knowledge.state)
    elif arm.init is Initialisation.PRIOR:
        generator = torch.Generator().manual_seed(stream_seed(seed, "prior-start"))
        start_from_prior(network, knowledge.priors, knowledge.groups, generator)
    choose_trainable(network, arm.trainable)
    layers = learned_layers(network)
    posterior = build_posterior(arm.posterior, get_filters(network.state_dict(), layers), layers)
    return BayesianNetwork(network, posterior, layers), anew


def _prior_term(
    arm: ArmOptions, model: BayesianNetwork, knowledge: SourceKnowledge, device: str
) -> tuple[dict[str, FilterPrior], FilterGroups]:
    """The priors of the groups that are learned, ready for the target, and the rows of these groups.

    There are no priors where the arm has none, or where T = 0 takes them out of the objective.
    """
    groups = learned_groups(knowledge.groups, model.layers, filter_layers(model.network)).to(device)
    if not arm.needs_prior or arm.temperature == 0:
        return {}, groups
    priors = {name: knowledge.priors[name].to(device) for name in groups.rows}
    for prior in priors.values():
        prior.freeze_for_target()
    return priors, groups


class TargetLoss:
    """The objective of a step: data term + (T / N_vox) Σ_filters [ −H(q) − E_q log p(w) ].

    Args:
        arm: the choices.
        options: data term, common to all arms.
        model: network and posterior.
        priors: group → density; none for a plain loss.
        groups: rows of the groups among the learned filters.
        sampler: draws the batches.
        seed: of the posterior's draws.
        device: where to compute.
    """

    def __init__(
        self,
        arm: ArmOptions,
        options: InferenceOptions,
        model: BayesianNetwork,
        priors: Mapping[str, FilterPrior],
        groups: FilterGroups,
        sampler: PatchSampler,
        seed: int,
        device: str,
    ) -> None:
        self._arm = arm
        self._model = model
        self._priors = priors
        self._groups = groups
        self._sampler = sampler
        self._device = device
        self._draws = torch.Generator(device).manual_seed(stream_seed(seed, "draws"))
        self._data_loss = SegmentationLoss(SegmentationLossOptions(likelihood=options.likelihood))
        self._voxels = sampler.voxels

    def __call__(self, step: int) -> StepLoss:
        """Computes the loss of a step on the batch of that step, with one draw of the filters."""
        self._model.train()
        images, labels, names = self._sampler.batch(step)
        filters = self._model.posterior.sample(self._draws)
        logits = self._model(images.to(self._device), filters)
        loss = self._data_loss(logits, labels.to(self._device))
        terms = {"data_term": float(loss.detach())}
        if self._priors:
            divergence = kl_term(
                self._model.posterior,
                self._priors,
                self._groups,
                self._voxels,
                temperature=self._arm.temperature,
                samples=self._arm.prior_samples,
                share=self._arm.filter_share,
                generator=self._draws,
                filters=filters,
            )
            loss = loss + divergence.total
            terms["kl"] = float(divergence.total.detach())
            for name, nats in divergence.kl_per_group.items():
                terms[f"kl_nats_{name}"] = float(nats)
                terms[f"left_prior_{name}"] = float(divergence.left_prior[name])
        return StepLoss(loss, terms, names)


def learned_groups(groups: Groups, learned: Sequence[FilterLayer], layers: Sequence[FilterLayer]) -> FilterGroups:
    """The groups of those filters that are learned: rows count among them, positions in the whole network."""
    kept = {name: [layer for layer in members if layer in learned] for name, members in groups.items()}
    kept = {name: members for name, members in kept.items() if members}
    rows = FilterGroups.of(kept, learned)
    return FilterGroups(
        rows.rows, {name: filter_positions(members, layers) for name, members in kept.items()}, rows.count
    )


def parameter_groups(
    model: BayesianNetwork, priors: Mapping[str, FilterPrior], arm: ArmOptions
) -> list[dict[str, Any]]:
    """Groups for the optimiser.

    Weight decay is a prior of its own, so filters that have a prior get none. Log-variances have far to go at a rate
    made for weights and get a multiple of it. The encoders of the priors start trained and get less: at the rate of the
    log-variances theirs diverge.
    """
    plain: list[torch.nn.Parameter] = model.point_parameters()
    weights: list[torch.nn.Parameter] = []
    quick: list[torch.nn.Parameter] = []
    for name, parameter in model.posterior.named_parameters():
        (quick if name.endswith("log_variances") else weights).append(parameter)
    encoders = [parameter for prior in priors.values() for parameter in prior.variational_parameters()]
    without_decay = {"weight_decay": 0.0}
    return [
        {"params": plain},
        {"params": weights, **(without_decay if priors else {})},
        {"params": quick, **without_decay, "rate_factor": arm.log_variance_rate},
        {"params": encoders, **without_decay, "rate_factor": arm.encoder_rate},
    ]

"""Learning the target with one arm: all arms share the objective, and the choices set its terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork
from models.filters import filter_layers, get_filters
from models.networks.weight_transfer import start_from_source
from models.other_weights import WeightLayout
from models.posteriors.mixture import MixtureOptions
from models.posteriors.point import Point, PointOptions
from models.posteriors.swag import SWAGOptions
from pipeline.arms.choices import L2, L2_SP, ArmOptions, Initialisation, LayerScale
from pipeline.arms.iterate_collection import IterateCollection
from pipeline.arms.member import assemble_member
from pipeline.arms.prior_term import WeightPriors
from pipeline.arms.pseudo_patches import SoftBatch
from pipeline.arms.pursuit import pursue
from pipeline.arms.source_knowledge import SourceKnowledge, State, filter_penalty, other_weight_prior
from pipeline.arms.starting_point import (
    centre_on_start,
    learned_groups,
    spared_names,
    start_from_prior,
)
from pipeline.arms.target_loss import TargetLoss
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.unlabelled_use import SelfTrainingOptions
from pipeline.arms.weight_average import WeightAverage
from pipeline.training.background import Sampler
from pipeline.training.checkpoint import Checkpoints, Resumption
from pipeline.training.computing import Computing
from pipeline.training.loop import StepLoss, TrainingPlan, train
from pipeline.training.patches import BatchSampler
from pipeline.training.schedule import cosine_cycles
from pipeline.training.training_log import TrainingLog


@dataclass(frozen=True)
class TrainedMember:
    """The outcome of training a member.

    Attributes:
        model: network and posterior, ready to predict.
        history: of the objective.
        started_anew: names of the parameters that did not fit the source network.
        about: further facts for the record, JSON-able.
    """

    model: BayesianNetwork
    history: TrainingLog
    started_anew: list[str]
    about: dict[str, Any] = field(default_factory=dict)


def learn_member(
    arm: ArmOptions,
    options: TargetTrainingOptions,
    network: TargetNetwork,
    knowledge: SourceKnowledge,
    sampler: BatchSampler,
    seed: int,
    computing: Computing,
    progress: Callable[[float], None],
    checkpoints: Checkpoints,
    unlabelled: Sampler[SoftBatch] | None = None,
) -> TrainedMember:
    """Trains one member of an arm, from its last checkpoint on if there is one.

    Args:
        arm: the choices.
        options: steps, rates and data term, common to all arms.
        network: the network to train.
        knowledge: what the arm takes from the source.
        sampler: draws the batches; the same for every arm.
        seed: of the initial weights and the posterior's draws; the same for every arm.
        computing: device and precision.
        progress: called with the share of the steps done.
        checkpoints: when and where it is saved; the log goes to the same folder.
        unlabelled: draws what a student of self-training learns from beside annotated scans.

    Raises:
        TrainingError: the loss is not finite.
        StopRequestedError: the command was asked to stop; a checkpoint is written.
    """
    device = str(computing.device)
    networks, anew = starting_networks(arm, network, knowledge, seed)
    states = [own.state_dict() for own in networks]
    # SWAG collects the iterates of a point estimate.
    trained = PointOptions() if isinstance(arm.posterior, SWAGOptions) else arm.posterior
    model = assemble_member(arm, networks[0], states, trained).to(device)
    priors = _weight_priors(arm, model, states, knowledge, device)
    loss = TargetLoss(
        arm, options, model, priors, sampler, seed, device, computing.autocast, network.heads,
        lambda: computing.gradient_scale, unlabelled,
    )  # fmt: skip
    collection = None
    if isinstance(arm.posterior, SWAGOptions):
        collection = IterateCollection(arm.posterior, model, options.steps)
    average = _student_average(arm, model, options.steps)
    elbos = torch.zeros(arm.components, dtype=torch.float64)
    # All that steps change. Densities are among it: their encoders and the scales of layers are learned on the target.
    changed: dict[str, torch.nn.Module] = {
        "member": model,
        **{f"prior.{name}": prior for name, prior in priors.fitted.items()},
        "pursuit": torch.nn.ParameterDict({"elbos": torch.nn.Parameter(elbos, requires_grad=False)}),
        **(collection.modules() if collection else {}),
        **(average.modules() if average else {}),
    }
    resumption = Resumption(checkpoints, changed, {"draws": loss.draws})
    about: dict[str, Any] = {}
    with TrainingLog(checkpoints.folder, start=resumption.steps_done) as log:
        run = partial(_optimise, loss, computing, log, resumption)
        if isinstance(arm.posterior, MixtureOptions):
            about = pursue(model, loss, arm.posterior.weights, run, progress, elbos, resumption.steps_done)
        elif collection:
            run(loss, progress, rate=collection.rate(arm, options), watch=collection)
            model = collection.network()
        elif average:
            run(loss, progress, watch=average)
            average.apply()
        else:
            run(loss, progress)
    if scales := _layer_scales(priors, model):
        about["layer_scales"] = scales
    return TrainedMember(model.eval(), log, anew, about)


def _student_average(arm: ArmOptions, model: BayesianNetwork, steps: int) -> WeightAverage | None:
    """The average of a student's weights; none of other trainings, and none where the posterior is one."""
    own = arm.unlabelled
    if not isinstance(own, SelfTrainingOptions) or not own.rounds or own.average_from == 1:
        return None
    if isinstance(arm.posterior, SWAGOptions | MixtureOptions):
        return None
    return WeightAverage(model, own.average_from, steps)


def _layer_scales(priors: WeightPriors, model: BayesianNetwork) -> dict[str, float]:
    """Layer → its learned factor on the deviations from the prior's centre."""
    layers = filter_layers(model.network)
    return {
        layers[number].parameter: factor
        for prior in priors.fitted.values()
        for number, factor in prior.layer_scales().items()
    }


def starting_networks(
    arm: ArmOptions, target: TargetNetwork, knowledge: SourceKnowledge, seed: int
) -> tuple[list[torch.nn.Module], list[str]]:
    """The starting network of each component, and the names of the parameters that did not fit the source."""
    networks, anew = [], []
    for component in range(arm.components):
        own = seed if component == 0 else stream_seed(seed, "component", component)
        network = target.build(stream_seed(own, "weights"))
        if arm.starts_trained:
            anew = start_from_source(network, knowledge.states[component])
        elif arm.init is Initialisation.PRIOR:
            generator = torch.Generator().manual_seed(stream_seed(own, "prior-start"))
            start_from_prior(network, knowledge.priors, knowledge.groups, generator)
        networks.append(network)
    return networks, anew


def _weight_priors(
    arm: ArmOptions, model: BayesianNetwork, states: Sequence[State], knowledge: SourceKnowledge, device: str
) -> WeightPriors:
    """The densities in the objective; none if the arm has none or T = 0."""
    spared = spared_names(model.network, arm.spared)
    groups = learned_groups(knowledge.groups, model.layers, filter_layers(model.network), spared)
    if arm.posterior_temperature == 0:
        return WeightPriors({}, groups).to(device)
    fitted = {name: knowledge.priors[name] for name in groups.rows} if arm.needs_prior else {}
    centre_on_start(fitted, groups, get_filters(states[0], model.layers))
    for name, prior in fitted.items():
        prior.freeze_for_target()
        if arm.layer_scale is LayerScale.LEARNED:
            prior.learn_layer_scales(groups.positions[name], arm.layer_scale_weight)
    free = [name for name, parameter in model.network.named_parameters() if parameter.requires_grad]
    layout = WeightLayout.of(model.network, free) if model.others is None else model.others.layout
    filters, others = [], []
    for number, state in enumerate(states):
        source = knowledge.states[number] if knowledge.states else None
        penalty = filter_penalty(arm, state, model.layers, source)
        filters += [] if penalty is None else [penalty]
        of_others = other_weight_prior(arm, state, layout, source, knowledge.references)
        others += [] if of_others is None or not layout.names else [of_others]
    return WeightPriors(fitted, groups, filters, others, layout).to(device)


def _optimise(
    loss: TargetLoss,
    computing: Computing,
    log: TrainingLog,
    resumption: Resumption,
    step_loss: Callable[[int], StepLoss],
    progress: Callable[[float], None],
    component: int | None = None,
    rate: Callable[[int], float] | None = None,
    watch: Callable[[int], None] = lambda step: None,
) -> None:
    """Trains the parameters that are free to learn; of a mixture, those of the active component."""
    arm, options = loss.arm, loss.options
    warm_up = round(arm.warm_up * options.steps)

    def cosine(step: int) -> float:
        return cosine_cycles(step, cycle=options.steps, peak=arm.peak_rate, floor=options.floor_rate, warm_up=warm_up)

    def after_step(step: int, row: dict[str, float]) -> None:
        if component is not None:
            row["component"] = component
        watch(step)
        progress((step + 1) / options.steps)

    train(
        parameter_groups(loss.model, loss.priors, arm),
        step_loss,
        TrainingPlan(
            options.steps,
            rate or cosine,
            options.optimiser,
            loss.seed,
            options.log_every,
            earlier=(component or 0) * options.steps,
        ),
        after_step=after_step,
        computing=computing,
        history=log,
        resumption=resumption,
    )


def parameter_groups(model: BayesianNetwork, priors: WeightPriors, arm: ArmOptions) -> list[dict[str, Any]]:
    """Groups for the optimiser: point estimates, filters, log-variances, encoders of the priors, and other means.

    Weight decay is itself a prior, so weights with a prior get none. Log-variances have further to go than weights and
    get a multiple of their rate. The encoders of the priors start trained and get less: at the rate of the
    log-variances they diverge.
    """
    plain = model.point_parameters()
    weights: list[torch.nn.Parameter] = []
    means: list[torch.nn.Parameter] = []
    quick: list[torch.nn.Parameter] = []
    for name, parameter in model.posterior.named_parameters():
        (quick if name.endswith("log_variances") else weights).append(parameter)
    for posterior in model.others.posteriors if model.others is not None else ():
        for name, parameter in posterior.named_parameters():
            if isinstance(posterior, Point):
                plain.append(parameter)
            else:
                (quick if name.endswith("log_variances") else means).append(parameter)
    encoders = [parameter for prior in priors.fitted.values() for parameter in prior.variational_parameters()]
    without_decay = {"weight_decay": 0.0}
    penalised = arm.prior in {L2, L2_SP} and bool(priors)
    return [
        {"params": plain, **(without_decay if penalised else {})},
        {"params": weights, **(without_decay if priors.fitted or priors.filters else {})},
        {"params": quick, **without_decay, "rate_factor": arm.log_variance_rate},
        {"params": encoders, **without_decay, "rate_factor": arm.encoder_rate},
        {"params": means, **without_decay},
    ]

"""A member of an arm: a network with a posterior, built from starting weights or from a saved state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from data.errors import ModelError
from models.bayesian_network import BayesianNetwork
from models.filters import KERNEL_VOXELS, FilterLayer, get_filters, mirror_transposed
from models.other_weights import OtherWeights, WeightLayout
from models.posteriors.factory import PosteriorOptions, build_posterior
from models.posteriors.mean_field import MeanField, MeanFieldOptions
from models.posteriors.mixture import MixtureOptions
from models.posteriors.point import Point
from models.posteriors.posterior import Posterior
from models.posteriors.swag import SWAG, SWAGOptions
from pipeline.arms.choices import ArmOptions, BayesianScope, Trainable
from pipeline.arms.starting_point import choose_trainable, learned_layers, learned_names
from pipeline.arms.target_network import TargetNetwork

_LEAST_MEAN_SQUARE = 1e-4
"""Biases start at zero, which gives no scale; their initial variance is then relative to 0.01²."""


def assemble_member(
    arm: ArmOptions,
    network: torch.nn.Module,
    starts: Sequence[Mapping[str, Tensor]],
    options: PosteriorOptions | None = None,
) -> BayesianNetwork:
    """Puts a posterior around starting weights.

    Args:
        arm: says which weights are learned and which are Bayesian.
        network: holds the weights that are neither.
        starts: state dicts of the network, one for each component.
        options: the posterior; by default the arm's.
    """
    chosen = arm.posterior if options is None else options
    choose_trainable(network, arm.trainable)
    layers = learned_layers(network)
    posterior = build_posterior(chosen, [get_filters(state, layers) for state in starts], layers)
    return BayesianNetwork(network, posterior, layers, _other_weights(arm, chosen, network, layers, starts))


def _other_weights(
    arm: ArmOptions,
    options: PosteriorOptions,
    network: torch.nn.Module,
    layers: Sequence[FilterLayer],
    starts: Sequence[Mapping[str, Tensor]],
) -> OtherWeights | None:
    """Posteriors over the weights that are not filters, where they cannot stay parameters of the network."""
    bayesian = arm.bayesian_scope is BayesianScope.ALL
    mixture = isinstance(options, MixtureOptions)
    if not bayesian and not mixture:
        return None
    layout, fixed_layout = other_layouts(network, layers, arm.trainable)
    kind = options.component if isinstance(options, MixtureOptions) else options
    posteriors = [_posterior_of_others(kind, layout.join(state), layout, bayesian) for state in starts]
    if not mixture:
        return OtherWeights(layout, posteriors)
    return OtherWeights(layout, posteriors, fixed_layout, torch.stack([fixed_layout.join(state) for state in starts]))


def other_layouts(
    network: torch.nn.Module, layers: Sequence[FilterLayer], trainable: Trainable
) -> tuple[WeightLayout, WeightLayout]:
    """Layouts of the learned weights that are not filters of `layers`, and of all weights that are not learned."""
    learned = learned_names(network, trainable)
    others = {name for name, _ in network.named_parameters()} - {layer.parameter for layer in layers}
    return WeightLayout.of(network, others & learned), WeightLayout.of(network, others - learned)


def _posterior_of_others(options: PosteriorOptions, column: Tensor, layout: WeightLayout, bayesian: bool) -> Posterior:
    if bayesian and isinstance(options, SWAGOptions):
        return SWAG(len(column), options.rank, options.scale, kernel_voxels=1)
    if bayesian and isinstance(options, MeanFieldOptions):
        return MeanField(column, _start_log_variances(options, column, layout), options.antithetic)
    return Point(column)


def _start_log_variances(options: MeanFieldOptions, column: Tensor, layout: WeightLayout) -> Tensor:
    start = torch.full_like(column, options.initial_log_variance)
    if not options.relative_to_layer:
        return start
    parts = column.split(layout.counts)
    squares = [part.square().mean().clamp_min(_LEAST_MEAN_SQUARE).expand(len(part)) for part in parts]
    return start + torch.cat(squares).log()[:, None]


def rebuild_member(
    arm: ArmOptions, network: TargetNetwork, state: Mapping[str, Tensor], as_stored: bool = False
) -> BayesianNetwork:
    """Rebuilds a trained member from its state, ready to predict.

    Args:
        arm: the choices of the arm.
        network: the network.
        state: of the member.
        as_stored: whether the filters of transposed convolutions in the state are the kernels as a network stores them,
            not mirrored.

    Raises:
        ModelError: the state does not fit these options.
    """
    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in network.build(0).parameters())
    if wanted > sum(tensor.numel() for tensor in state.values()):
        # Checked before memory is allocated for a network that the file cannot fill.
        raise _unfitting(f"they are fewer than the network's {wanted}")
    built = network.build(0)
    options: PosteriorOptions = arm.posterior
    components = 1
    # An incremental update turns a mean-field posterior into a mixture, and adds components to a mixture.
    weights = state.get("posterior.log_weights")
    if weights is not None and isinstance(options, MeanFieldOptions | MixtureOptions):
        # Each component has tensors of its own, so a file cannot hold more components than tensors.
        components = max(1, min(weights.numel(), len(state)))
        component = options.component if isinstance(options, MixtureOptions) else options
        options = MixtureOptions(components=components, component=component)
    member = assemble_member(arm, built, [built.state_dict()] * components, options)
    for name, own in member.state_dict().items():
        if name in state and state[name].dtype != own.dtype:
            # Torch would convert them, and rounded weights are not the trained ones.
            raise _unfitting(f"`{name}` holds {_kind(state[name])} numbers, not {_kind(own)}")
    if as_stored:
        state = {name: _mirrored(tensor, name, member) for name, tensor in state.items()}
    try:
        member.load_state_dict(dict(state))
    except RuntimeError as error:
        raise _unfitting(str(error)) from error
    return member.requires_grad_(False).eval()


def _mirrored(tensor: Tensor, name: str, member: BayesianNetwork) -> Tensor:
    """Mirrors what a posterior keeps of every weight (means, log-variances, moments, deviations)."""
    of_weights = name.startswith("posterior.") and tensor.shape[-2:] == (member.posterior.count, KERNEL_VOXELS)
    return mirror_transposed(tensor, member.layers) if of_weights else tensor


def _unfitting(reason: str) -> ModelError:
    return ModelError(
        f"the weights of a trained member do not fit its options: {reason}",
        expected="the network, channels, classes and arm that it was trained with",
        fix="use the folder that `graft infer` wrote",
    )


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

"""Maximum-entropy pursuit (MPVI): the components of a mixture are trained one after the other.

Round t trains only the new component h, with its weight α fixed in the round: the exact objective
E_h [ log p(D, w) − log((1−α) q_t + α h) ] of `models.posteriors.mixture`. Each component gets the full number of steps,
like each member of an ensemble, and usually starts from its own source network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from data.errors import ModelError
from models.bayesian_network import BayesianNetwork
from models.posteriors.mixture import ComponentWeights, Mixture
from pipeline.arms.target_loss import TargetLoss
from pipeline.training.loop import StepLoss

Round = Callable[[Callable[[int], StepLoss], Callable[[float], None], int], None]
"""Trains the parameters that are free to learn, given the loss of a step, the progress, and the number of the
component."""


def pursue(
    model: BayesianNetwork,
    loss: TargetLoss,
    weights: ComponentWeights,
    train_round: Round,
    progress: Callable[[float], None],
    elbos: Tensor,
    steps_done: int = 0,
) -> dict[str, Any]:
    """Trains every component of a mixture, one by one with `train_round`.

    Args:
        model: network and mixture.
        loss: of the training.
        weights: which weights the components get.
        train_round: trains one of them.
        progress: called with the share of all steps done.
        elbos: `[C]`, receives the ELBO of each component in nats; holds those of the components that are done.
        steps_done: steps of all rounds that are done; a component whose steps are among them is not trained again.

    Returns:
        The weights and ELBOs of the components, for the record.
    """
    mixture = model.posterior
    if not isinstance(mixture, Mixture):
        raise ModelError("maximum-entropy pursuit of a posterior that is not a mixture", expected="posterior: mixture")
    number = len(mixture.components)
    for component in range(steps_done // loss.options.steps, number):
        _train_only(model, component)

        def share(fraction: float, component: int = component) -> None:
            progress((component + fraction) / number)

        train_round(loss.of_component(component), share, component)
        elbos[component] = loss.elbo()
    _train_only(model, None)
    by_elbo = elbos.softmax(0).tolist()
    if weights is ComponentWeights.ELBO:
        mixture.set_weights_by_elbo(elbos.tolist())
    used = mixture.log_weights.exp().tolist()
    return {"components": {"weights": used, "elbo_nats": elbos.tolist(), "weights_by_elbo": by_elbo}}


def _train_only(model: BayesianNetwork, component: int | None) -> None:
    if isinstance(model.posterior, Mixture):
        model.posterior.train_component(component)
    if model.others is not None:
        model.others.train_component(component)

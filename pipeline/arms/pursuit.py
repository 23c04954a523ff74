"""Maximum-entropy pursuit (MPVI): the components of a mixture are trained one after the other.

Round t trains only the new component h, with its weight α fixed in the round: the exact objective
E_h [ log p(D, w) − log((1−α) q_t + α h) ] of `models.posteriors.mixture`. Each component gets the full number of steps,
like each member of an ensemble, and usually starts from its own source network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from data.errors import ModelError
from models.bayesian_network import BayesianNetwork
from models.posteriors.mixture import ComponentWeights, Mixture
from pipeline.arms.target_loss import TargetLoss
from pipeline.training.loop import StepLoss
from pipeline.training.training_log import History

Round = Callable[[Callable[[int], StepLoss], Callable[[float], None]], History]
"""Trains the parameters that are free to learn, given the loss of a step and the progress; returns the history."""


def pursue(
    model: BayesianNetwork,
    loss: TargetLoss,
    weights: ComponentWeights,
    train_round: Round,
    progress: Callable[[float], None],
) -> tuple[History, dict[str, Any]]:
    """Trains every component of a mixture, one by one with `train_round`.

    Returns:
        The history of all rounds (column `component`), and the weights and ELBOs of the components for the record.
    """
    mixture = model.posterior
    if not isinstance(mixture, Mixture):
        raise ModelError("maximum-entropy pursuit of a posterior that is not a mixture", expected="posterior: mixture")
    number = len(mixture.components)
    history, elbos = History(), []
    for component in range(number):
        _train_only(model, component)

        def share(fraction: float, component: int = component) -> None:
            progress((component + fraction) / number)

        rows = train_round(loss.of_component(component), share).rows
        last = history.rows[-1]["step"] if history.rows else 0
        history.rows += [{**row, "step": last + row["step"], "component": component} for row in rows]
        elbos.append(loss.elbo())
    _train_only(model, None)
    by_elbo = torch.tensor(elbos, dtype=torch.float64).softmax(0).tolist()
    if weights is ComponentWeights.ELBO:
        mixture.set_weights_by_elbo(elbos)
    used = mixture.log_weights.exp().tolist()
    return history, {"components": {"weights": used, "elbo_nats": elbos, "weights_by_elbo": by_elbo}}


def _train_only(model: BayesianNetwork, component: int | None) -> None:
    if isinstance(model.posterior, Mixture):
        model.posterior.train_component(component)
    if model.others is not None:
        model.others.train_component(component)

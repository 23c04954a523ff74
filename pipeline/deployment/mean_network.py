"""The mean networks of a model: each member as an ordinary network with the mean of its posterior as weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from data.errors import ModelError
from pipeline.deployment.model_description import ModelDescription
from pipeline.deployment.model_folder import Model
from pipeline.prediction.scan_prediction import draw_probability
from pipeline.prediction.temperature import read_probability


def mean_networks(model: Model) -> list[nn.Module]:
    """Returns one network `[N, C, X, Y, Z]` → logits `[N, C, X, Y, Z]` for each member, ready to predict.

    Averaging weights over members, or over the components of a mixture, would not give a working network; of a mixture,
    the heaviest component's mean is taken. Heads on coarser levels, which only training uses, are left out.

    Raises:
        ModelError: the weights do not fit the network.
    """
    about = model.description
    networks = []
    for name, member in zip(about.members, model.members, strict=True):
        trained = {**dict(member.network.state_dict()), **member.tensors(member.centre())}
        network = about.target_network.build(0)
        names = network.state_dict().keys()
        if missing := names - trained.keys():
            raise ModelError(f"{model.folder / name}: lacks the weights {', '.join(sorted(missing))}")
        network.load_state_dict({key: trained[key] for key in names})
        networks.append(network.eval().requires_grad_(False))
    return networks


def mean_probability(networks: Sequence[nn.Module], image: torch.Tensor, about: ModelDescription) -> torch.Tensor:
    """Predicts a preprocessed scan with the mean networks.

    Args:
        networks: of `mean_networks`.
        image: `[C, X, Y, Z]`, preprocessed.
        about: gives window, overlap and temperature.

    Returns:
        Probabilities `[C, X, Y, Z]`, averaged over the networks, read with the model's temperature.
    """
    first, *others = networks
    total = draw_probability(first, image, about.patch, about.window, heads=about.heads)
    for network in others:
        total = total + draw_probability(network, image, about.patch, about.window, heads=about.heads)
    return read_probability(total / len(networks), about.arm.reading.logit_temperature, about.heads)

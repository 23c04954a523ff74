"""The passes over a scan that a model makes: every draw of every member."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from models.bayesian_network import BayesianNetwork, WeightDraw
from pipeline.arms.prediction import WeightDraws, weight_draws
from pipeline.deployment.model_folder import Model
from pipeline.prediction.scan_prediction import Forward


def pass_count(model: Model, samples: int | None) -> int:
    """Number of passes with so many draws from each member's posterior (the model's own number if `None`)."""
    return sum(len(draws) for draws in _draws(model, samples, "cpu"))


def weight_passes(model: Model, samples: int | None, device: str) -> Iterator[Forward]:
    """Yields the network with each draw, one in memory at a time; the draws are those of the study.

    Args:
        model: with its members on the device.
        samples: draws from each member's posterior; the model's own number if `None`.
        device: of the members and the scans.
    """
    for draws in _draws(model, samples, device):
        for draw in draws:
            yield partial(_forward, draws.member, draw)


def _draws(model: Model, samples: int | None, device: str) -> list[WeightDraws]:
    number = samples or model.description.draws
    pairs = zip(model.members, model.description.seeds, strict=True)
    return [weight_draws(member, number, seed, device) for member, seed in pairs]


def _forward(member: BayesianNetwork, draw: WeightDraw, images: torch.Tensor) -> torch.Tensor:
    logits = member(images, *draw)
    # Networks with deep supervision return one map for each resolution, the finest first.
    return logits[0] if isinstance(logits, list) else logits

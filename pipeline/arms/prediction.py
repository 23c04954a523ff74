"""Prediction of test cases by a trained arm: the average over its members and their draws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork
from pipeline.inference.posterior_average import PosteriorAverage
from pipeline.inference.sliding_window import SlidingWindowOptions, predict_logits
from pipeline.storage.tensors import save_tensors
from pipeline.training.cached_case import CachedCase


def weight_draws(member: BayesianNetwork, count: int, seed: int, device: str) -> list[torch.Tensor]:
    """Draws filters `[F, 27]`, one for each pass over a volume; a point posterior has a single one."""
    with torch.no_grad():
        if not member.posterior.has_density:
            return [member.posterior.mean()]
        generator = torch.Generator(device).manual_seed(stream_seed(seed, "prediction"))
        return [member.posterior.sample(generator) for _ in range(count)]


def predict_case(
    members: Sequence[tuple[BayesianNetwork, Sequence[torch.Tensor]]],
    case: CachedCase,
    patch: Sequence[int],
    window: SlidingWindowOptions,
    device: str,
) -> PosteriorAverage:
    """Averages the probabilities of a case over members and draws; each draw serves a whole pass over the volume."""
    average = PosteriorAverage()
    image = case.image().to(device)
    for member, draws in members:
        for filters in draws:
            logits = predict_logits(partial(member, filters=filters), image, patch, window)
            average.add(logits.softmax(dim=0))
    return average


def save_prediction(average: PosteriorAverage, case: CachedCase, path: Path) -> None:
    """Writes the foreground probabilities `[K, X, Y, Z]` and, of several draws, their uncertainty in nats."""
    tensors = {"probability": average.probability[1:].half()}
    if average.count > 1:
        tensors["entropy"] = average.predictive_entropy.half()
        tensors["mutual_information"] = average.mutual_information.half()
    about = {"affine": case.affine.tolist(), "classes": list(case.classes), "draws": average.count, "case": case.name}
    save_tensors(path, tensors, about)


def predicted_classes(probability: torch.Tensor) -> torch.Tensor:
    """Class numbers `[X, Y, Z]` (0 background) from foreground probabilities `[K, X, Y, Z]`."""
    probability = probability.float()
    return torch.cat([1 - probability.sum(dim=0, keepdim=True), probability]).argmax(dim=0)

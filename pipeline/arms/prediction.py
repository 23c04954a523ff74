"""Prediction of test cases by a trained arm: the average over its members and their draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork, WeightDraw
from pipeline.inference.most_probable import most_probable_class
from pipeline.inference.posterior_average import PosteriorAverage
from pipeline.inference.scan_prediction import draw_probability
from pipeline.inference.sliding_window import SlidingWindowOptions
from pipeline.storage.tensors import save_tensors
from pipeline.training.cached_case import CachedCase

_CUBIC_MM_PER_ML = 1000.0


@dataclass(frozen=True)
class WeightDraws:
    """Draws of a network's weights, the same ones every time they are gone through.

    One draw is in memory at a time, so S = 39 draws need no more of it than one.

    Attributes:
        member: the trained network.
        count: number of draws.
        seed: of the draws.
        device: where the network is.
    """

    member: BayesianNetwork
    count: int
    seed: int
    device: str

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[WeightDraw]:
        if not self.member.posterior.has_density:
            yield self.member.centre()
            return
        generator = torch.Generator(self.device).manual_seed(stream_seed(self.seed, "prediction"))
        stream = self.member.draws(self.count, generator)
        for _ in range(self.count):
            # Around the draw alone: what stands around a `yield` would hold for whoever takes the draw.
            with torch.no_grad():
                draw = next(stream)
            yield draw


def weight_draws(member: BayesianNetwork, count: int, seed: int, device: str) -> WeightDraws:
    """Draws weights, one draw for each pass over a volume; a point posterior has a single one.

    Args:
        member: the trained network.
        count: number of draws S, those of a mixture stratified over its components.
        seed: of the draws.
        device: where the network is.
    """
    return WeightDraws(member, count if member.posterior.has_density else 1, seed, device)


@dataclass(frozen=True)
class CasePrediction:
    """What the draws say of a case.

    Attributes:
        average: moments of the probabilities.
        voxels: `[S, K]` int64, voxels of each foreground class in the mask of every draw.
    """

    average: PosteriorAverage
    voxels: torch.Tensor


def predict_case(
    members: Sequence[tuple[BayesianNetwork, WeightDraws]],
    case: CachedCase,
    patch: Sequence[int],
    window: SlidingWindowOptions,
    device: str,
) -> CasePrediction:
    """Averages the probabilities of a case over members and draws; each draw serves a whole pass over the volume."""
    average = PosteriorAverage()
    voxels = []
    image = case.image().to(device)
    with torch.inference_mode():
        for member, draws in members:
            for draw in draws:
                probability = draw_probability(member.with_weights(draw), image, patch, window)
                chosen = most_probable_class(probability)
                voxels.append(torch.tensor([int((chosen == k).sum()) for k in range(1, len(probability))]))
                average.add(probability, keep=False)
    return CasePrediction(average, torch.stack(voxels))


def save_prediction(prediction: CasePrediction, case: CachedCase, path: Path) -> None:
    """Writes the foreground probabilities `[K, X, Y, Z]` and, of several draws, what their spread says.

    That is `entropy` and `mutual_information` `[X, Y, Z]` in nats, and `volumes_ml` `[S, K]`: the volume of each class
    in the mask of every draw, float64.
    """
    average = prediction.average
    tensors = {"probability": average.probability[1:].half()}
    if average.count > 1:
        tensors["entropy"] = average.predictive_entropy.half()
        tensors["mutual_information"] = average.mutual_information.half()
        voxel = abs(float(np.linalg.det(case.affine[:3, :3]))) / _CUBIC_MM_PER_ML
        tensors["volumes_ml"] = prediction.voxels.double() * voxel
    about = {"affine": case.affine.tolist(), "classes": list(case.classes), "draws": average.count, "case": case.name}
    save_tensors(path, tensors, about)

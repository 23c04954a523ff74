"""Prediction of test cases by a trained arm: the average over its members and their draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork, WeightDraw
from pipeline.prediction.most_probable import single_codes
from pipeline.prediction.posterior_average import PosteriorAverage
from pipeline.prediction.scan_prediction import draw_probability
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.prediction.stored_prediction import CasePrediction
from pipeline.storage.cached_case import CachedCase

_MEMORY = 2**28
"""Bytes for the maps of the cases that share a draw: little beside a training, yet dozens of small volumes."""


@dataclass(frozen=True)
class WeightDraws:
    """Draws of a network's weights, one for each pass over a volume; every iteration yields the same draws.

    One draw is in memory at a time. A point posterior has a single one.

    Attributes:
        member: the trained network.
        count: number of draws S; those of a mixture are stratified over its components.
        seed: of the draws.
        device: of the network.
    """

    member: BayesianNetwork
    count: int
    seed: int
    device: str

    def __len__(self) -> int:
        return self.count if self.member.posterior.has_density else 1

    def __iter__(self) -> Iterator[WeightDraw]:
        if not self.member.posterior.has_density:
            yield self.member.centre()
            return
        generator = torch.Generator(self.device).manual_seed(stream_seed(self.seed, "prediction"))
        stream = self.member.draws(self.count, generator)
        for _ in range(self.count):
            # Not around the `yield`, where it would apply to the caller too.
            with torch.no_grad():
                draw = next(stream)
            yield draw


def predict_cases(
    members: Sequence[WeightDraws],
    cases: Sequence[CachedCase],
    patch: Sequence[int],
    window: SlidingWindowOptions,
    device: str,
    progress: Callable[[float], object] = lambda share: None,
    memory: int = _MEMORY,
) -> Iterator[tuple[CachedCase, CasePrediction]]:
    """Averages the probabilities of every case over members and draws.

    Drawing a network's weights takes longer than a pass over a small volume, so each draw serves as many cases as fit
    into memory. The prediction of a case does not depend on the others.

    Args:
        members: the draws of each trained network.
        cases: to predict.
        patch: voxels of a window.
        window: how windows overlap.
        device: of the networks.
        progress: called with the share of all passes done.
        memory: bytes for the images and maps of the cases that share a draw; at least one case is taken.

    Yields:
        The cases in their order, each with its prediction.
    """
    done, passes = 0, len(cases) * sum(map(len, members))
    for block in _blocks(cases, memory):
        images = [case.image().to(device) for case in block]
        heads = block[0].heads
        averages = [PosteriorAverage(heads) for _ in block]
        voxels: list[list[torch.Tensor]] = [[] for _ in block]
        for draws in members:
            for draw in draws:
                # Not around the `yield`, where it would apply to the caller too.
                with torch.inference_mode():
                    network = draws.member.with_weights(draw)
                    for image, average, of_draws in zip(images, averages, voxels, strict=True):
                        probability = draw_probability(network, image, patch, window, heads=heads)
                        chosen = single_codes(probability, heads)
                        numbers = range(1, len(heads.foreground(probability)) + 1)
                        of_draws.append(torch.tensor([int(heads.belongs(chosen, k).sum()) for k in numbers]))
                        average.add(probability, keep=False)
                        done += 1
                        progress(done / passes)
        for case, average, of_draws in zip(block, averages, voxels, strict=True):
            yield case, CasePrediction(average, torch.stack(of_draws))


def _blocks(cases: Sequence[CachedCase], memory: int) -> Iterator[list[CachedCase]]:
    """Divides the cases, in their order, into blocks whose images and maps fit into memory."""
    block: list[CachedCase] = []
    left = memory
    for case in cases:
        # Image, mean of every class, entropy and squares, in float32.
        needed = 4 * math.prod(case.shape) * (case.channels + len(case.classes) + 3)
        if block and needed > left:
            yield block
            block, left = [], memory
        block.append(case)
        left -= needed
    if block:
        yield block

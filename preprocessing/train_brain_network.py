"""Trains the brain network on random heads and writes its weights: `python -m preprocessing.train_brain_network`.

The same seed and threads give the same weights. No real scan is used.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.random_streams import random_stream, stream_seed
from preprocessing.brain_network import SPACING, WEIGHTS, build_network, save_network
from preprocessing.random_heads import HeadCodes, RandomScan, draw_head_codes, draw_scan

logger = logging.getLogger(__name__)

SHAPE = (48, 64, 64)
"""Voxels of a training scan."""


def brain_loss(logits: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy with the share of brain plus one minus the soft Dice."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * share).sum() / (probability.square().sum() + share.square().sum() + 1.0)
    return functional.binary_cross_entropy_with_logits(logits, share) + 1 - overlap


def example(heads: list[HeadCodes], seed: int, step: int) -> RandomScan:
    """Draws the example of a training step; a function of (seed, step) alone."""
    rng = random_stream(seed, "brain-network", "example", step)
    return draw_scan(heads[int(rng.integers(len(heads)))], SHAPE, SPACING, rng)


def train(steps: int, heads: int, seed: int, rate: float, bfloat16: bool, path: Path) -> None:
    """Trains for a number of steps, of one random scan each, and writes the weights, every 100 steps too.

    Args:
        steps: length of the schedule over which the learning rate falls to 0.
        heads: number of random heads that the scans are drawn from.
        seed: of heads, scans and first weights.
        rate: learning rate of Adam.
        bfloat16: whether the network computes in bfloat16 (the weights and sums do not).
        path: where the weights go.
    """
    torch.manual_seed(stream_seed(seed, "brain-network", "init"))
    pool = [draw_head_codes(random_stream(seed, "brain-network", "head", i)) for i in range(heads)]
    logger.info("%d heads drawn", heads)
    network = build_network().train()
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    start, losses = time.monotonic(), []
    facts = {"seed": seed, "schedule": steps, "heads": heads, "rate": rate, "bfloat16": bfloat16}
    for step in range(steps):
        done = step / steps
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + np.cos(np.pi * done))
        scan = example(pool, seed, step)
        optimiser.zero_grad()
        # Half the time of a step in single precision where the processor has bfloat16; the sums stay in single.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            logits = network(scan.image[None])
        loss = brain_loss(logits.float(), scan.brain[None])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            logger.info("step %d, loss %.4f, %.0f s", step + 1, np.mean(losses[-100:]), time.monotonic() - start)
            save_network(network, path, facts | {"steps": step + 1})
    save_network(network, path, facts | {"steps": len(losses)})


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps")
    parser.add_argument("--heads", type=int, default=32, help="number of random heads")
    parser.add_argument("--seed", type=int, default=0, help="seed")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True, help="compute in bfloat16")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the weights go")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    train(options.steps, options.heads, options.seed, options.rate, options.bfloat16, options.out)


if __name__ == "__main__":
    main()

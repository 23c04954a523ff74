"""The script that makes the brain network's weights gives the same bytes again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.torch_threads import torch_threads
from preprocessing.brain_network import brain_logits, load_network
from preprocessing.random_heads import draw_head_codes, draw_scan
from preprocessing.train_brain_network import train


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    with torch_threads(1):
        for number, path in enumerate(paths):
            torch.manual_seed(number)
            train(steps=1, heads=1, seed=0, rate=2e-3, bfloat16=False, path=path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.slow
def test_the_shipped_weights_find_the_brain_of_a_random_head() -> None:
    import numpy as np

    from data.volume import Volume
    from preprocessing.brain_network import SPACING
    from preprocessing.content import overlap

    rng = np.random.default_rng(7)
    scan = draw_scan(draw_head_codes(rng), (48, 64, 64), SPACING, rng)
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = -SPACING * (np.array([48, 64, 64]) - 1) / 2
    logits = brain_logits(Volume(scan.image[0].numpy(), affine), load_network())
    assert logits.shape == (48, 64, 64)
    assert overlap(logits.array > 0, scan.brain[0].numpy() > 0.5) > 0.85

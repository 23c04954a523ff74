"""Named random streams: one seed, and an independent generator for every purpose.

A stream is a function of the seed and of its names alone, so that what one unit draws never depends on which units ran
before it, on how many workers there are, or on whether the run was interrupted.
"""

from __future__ import annotations

import hashlib

import numpy as np


def _entropy(names: tuple[str | int, ...]) -> list[int]:
    words: list[int] = []
    for name in names:
        digest = hashlib.sha256(f"{type(name).__name__}:{name}".encode()).digest()
        words.extend(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))
    return words


def random_stream(seed: int, *names: str | int) -> np.random.Generator:
    """Returns the generator of the stream with these names, e.g. `random_stream(0, "bootstrap", 3)`."""
    return np.random.default_rng(np.random.SeedSequence([seed, *_entropy(names)]))


def stream_seed(seed: int, *names: str | int) -> int:
    """Returns a 63-bit integer seed of the stream, for libraries that take no numpy generator (torch)."""
    return int(random_stream(seed, *names).integers(0, 2**63 - 1))

"""What all tests have in common."""

from __future__ import annotations

import os

# Before torch is loaded: tests run on small machines, several at a time, and small networks gain nothing from threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's environment must not change what the tests see."""
    monkeypatch.delenv("GRAFT_DEBUG", raising=False)

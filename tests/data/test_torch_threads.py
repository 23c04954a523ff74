"""The threads of torch inside a block, and after it."""

from __future__ import annotations

import sys

import pytest
import torch

from data.torch_threads import torch_threads


def test_the_threads_are_set_back_also_after_a_failure() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 2):
        assert torch.get_num_threads() == before + 2
        with torch_threads(before + 1):
            assert torch.get_num_threads() == before + 1
        assert torch.get_num_threads() == before + 2
    with pytest.raises(KeyError), torch_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


def test_a_process_without_torch_stays_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    with torch_threads(2):
        assert "torch" not in sys.modules

"""Tracks the memory held by the tensors of a computation, also on the meta device, where they have no data."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_BLOCK = 16
"""Channels of a block of oneDNN's memory format on processors with 512-bit registers."""


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all storages that operations create inside it, until they are freed.

    Views share the storage of their base and count once; tensors created before do not count.

    Args:
        large: smallest number of bytes of a large storage.

    Attributes:
        live: bytes currently held.
        peak: largest number of bytes held at any time.
        small: bytes currently held in storages that are not large.
        small_peak: largest number of these at any time.
        convolution: largest size of input and output of a convolution, channels padded to a multiple of 16.
    """

    def __init__(self, large: int = 1 << 25) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.small = self.small_peak = 0
        self.convolution = 0
        self._large = large
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # Collected first: an in-place operation or a view returns a storage that it was given.
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.convolution = max(self.convolution, _blocked_size(args[0]) + _blocked_size(result))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self._known:
                    self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        small = size if size < self._large else 0

        def forget(_reference: object) -> None:
            del self._known[key]
            self.live -= size
            self.small -= small

        self._known[key] = weakref.ref(storage, forget)
        self.live += size
        self.small += small
        self.peak = max(self.peak, self.live)
        self.small_peak = max(self.small_peak, self.small)


def _blocked_size(tensor: torch.Tensor) -> int:
    batch, channels, *size = tensor.shape
    return batch * math.ceil(channels / _BLOCK) * _BLOCK * math.prod(size) * tensor.element_size()

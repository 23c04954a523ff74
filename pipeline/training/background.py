"""Batches drawn ahead by background processes, so that the network does not wait for augmentation."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from data.errors import GraftError

BatchT = TypeVar("BatchT")
DrawnT = TypeVar("DrawnT", covariant=True)


class Sampler(Protocol[DrawnT]):
    """Draws batches of any kind."""

    @property
    def voxels(self) -> int:
        """Voxels that a training learns from."""

    def batch(self, step: int) -> DrawnT:
        """Draws the batch of a step, a function of the step."""


class _Steps(Dataset[BatchT | GraftError]):
    """The batches as a dataset, indexed by step."""

    def __init__(self, sampler: Sampler[BatchT]) -> None:
        self._sampler = sampler

    def __getitem__(self, step: int) -> BatchT | GraftError:
        try:
            return self._sampler.batch(step)
        except GraftError as error:
            # If raised here, the error would reach the user inside a traceback of the loader.
            return error


class BackgroundSampler(Generic[BatchT]):
    """Draws the same batches as its sampler, ahead of time.

    Args:
        sampler: draws a batch as a function of the step.
        steps: number of steps of the training; no more batches are drawn.
        workers: background processes; 0 to draw in this process.
    """

    def __init__(self, sampler: Sampler[BatchT], steps: int, workers: int) -> None:
        self._sampler = sampler
        self._steps = steps
        self._workers = workers
        self._next = -1
        self._ahead: Iterator[BatchT | GraftError] | None = None

    @property
    def voxels(self) -> int:
        """N_vox, as the sampler counts it."""
        return self._sampler.voxels

    def batch(self, step: int) -> BatchT:
        """Returns the batch of a step; consecutive steps are drawn ahead.

        Raises:
            GraftError: a case cannot be read.
        """
        if self._workers == 0:
            return self._sampler.batch(step)
        if self._ahead is None or step != self._next:
            self._ahead = self._loader(step)
        self._next = step + 1
        drawn = next(self._ahead)
        if isinstance(drawn, GraftError):
            raise drawn
        return drawn

    def _loader(self, first: int) -> Iterator[BatchT | GraftError]:
        loader: DataLoader[BatchT | GraftError] = DataLoader(
            _Steps(self._sampler),
            batch_size=None,
            sampler=range(first, max(self._steps, first + 1)),
            num_workers=self._workers,
            # Explicit, because inside a worker of joblib the default is a start method that the loader cannot use.
            multiprocessing_context="fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn",
            # Otherwise the loader would draw a seed for its workers from torch's global generator.
            generator=torch.Generator().manual_seed(0),
            collate_fn=_unchanged,
        )
        return iter(loader)


def _unchanged(batch: Any) -> Any:
    return batch

"""What the pictures of filters are made from: samples of banks, pairs of first and last weights, and fitted priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import ModelError, WorkspaceError
from data.natural_order import natural
from data.random_streams import random_stream, stream_seed
from models.filter_bank import FilterBank
from models.filters import KERNEL_VOXELS
from models.priors.factory import PriorOptions, load_prior
from models.priors.prior import FilterPrior
from pipeline.report.source_trunk import trunk_folder
from pipeline.report.study_files import folders
from pipeline.storage.file_names import BANK, CONFIG
from pipeline.storage.prior_files import density_file
from pipeline.storage.stage_names import Stage
from pipeline.storage.stored_bank import StoredBank
from pipeline.storage.tensors import load_tensors
from pipeline.training.source_network import INITIAL

Filters = NDArray[np.float32]
"""`[F, 27]`, raw weights."""

_MOST_NETWORKS = 8


def group_folders(root: Path, stage: str) -> list[Path]:
    """Returns the folders of the groups that a stage wrote, those of the encoder first."""
    return sorted(folders(root / stage), key=lambda path: not path.name.startswith("encoder"))


def read_filters(root: Path, group: str, most: int, seed: int) -> FilterBank | None:
    """Reads a random sample of the filter bank of a group, in memory that does not grow with the bank.

    Args:
        root: the workspace.
        group: name of the group.
        most: filters to read; all of them where there are no more.
        seed: of the study; the same seed draws the same filters.

    Returns:
        The sample in the order of the bank, or None where there is no bank.

    Raises:
        WorkspaceError: the bank is damaged or of an older layout.
    """
    path = root / Stage.COLLECT_FILTERS / group / BANK
    if not path.is_file():
        return None
    generator = torch.Generator().manual_seed(stream_seed(seed, "report", "bank", group))
    return StoredBank(path).draw(most, generator).bank


def sample_rows(count: int, most: int, seed: int, *names: str) -> NDArray[np.int64]:
    """Draws at most `most` of `count` rows without repetition, rising; the same for the same seed and names."""
    if count <= most:
        return np.arange(count)
    return np.sort(random_stream(seed, "report", *names).choice(count, most, replace=False))


@dataclass(frozen=True)
class TrainedPairs:
    """Filters of source networks before and after training, the same filter in the same row.

    Attributes:
        initial: `[F, 27]`, as initialised.
        trained: `[F, 27]`, in the last snapshot.
        networks: how many networks they were taken from.
        total: how many filters the group has in these networks, of which the rows are a random sample.
    """

    initial: Filters
    trained: Filters
    networks: int
    total: int


def read_trained_pairs(root: Path, group: str, layers: Sequence[str], most: int, seed: int) -> TrainedPairs | None:
    """Reads random and last weights of a group's filters from `train-source/network-NN/`, and those of their trunk.

    Args:
        root: the workspace.
        group: name of the group.
        layers: parameters of its layers.
        most: filters to keep, spread evenly over networks; of many networks, 8 are read.
        seed: of the study.

    Returns:
        The filters, or None where no network has both its initial weights and a snapshot.

    Raises:
        WorkspaceError: a file is damaged or lacks a layer.
    """
    trunk = trunk_folder(root)
    pairs = [((trunk or f) / INITIAL, _last_snapshot(f)) for f in folders(root / Stage.TRAIN_SOURCE)]
    whole = [(first, last) for first, last in pairs if first.is_file() and last is not None]
    if not whole or not layers:
        return None
    chosen = [whole[i] for i in np.unique(np.linspace(0, len(whole) - 1, _MOST_NETWORKS).round().astype(int))]
    initial, trained, total = [], [], 0
    for first, last in chosen:
        before, after = _filters(first, layers), _filters(last, layers)
        rows = sample_rows(len(before), max(most // len(chosen), 1), seed, "pairs", group, last.parent.name)
        initial.append(before[rows])
        trained.append(after[rows])
        total += len(before)
    return TrainedPairs(np.concatenate(initial), np.concatenate(trained), len(chosen), total)


def _last_snapshot(folder: Path) -> Path | None:
    return max(folder.glob("snapshot-*.safetensors"), key=lambda path: natural(path.name), default=None)


def _filters(path: Path, layers: Sequence[str]) -> Filters:
    # A filter is compared with its own start alone, so neither the order of channels matters here nor that kernels of
    # transposed convolutions are stored as mirror images.
    tensors = load_tensors(path, names=layers)
    return np.concatenate([tensors[layer].float().numpy().reshape(-1, KERNEL_VOXELS) for layer in layers])


def read_prior(root: Path, densities: Mapping[str, PriorOptions], group: str, density: str) -> FilterPrior | None:
    """Reads a fitted density.

    Args:
        root: the workspace.
        densities: density → its settings in the resolved configuration.
        group: name of the group of layers.
        density: which.

    Returns:
        The prior on the CPU, or None where it was not fitted.

    Raises:
        WorkspaceError: its file is damaged, or the configuration does not describe it.
    """
    path = density_file(root, group, density)
    if not path.is_file():
        return None
    try:
        prior = load_prior(densities[density], load_tensors(path))
    except (KeyError, ModelError) as error:
        raise WorkspaceError(
            f"{path}: does not fit the options of '{density}' in {CONFIG}",
            expected="a density that was fitted with these options",
            fix="run 'graft fit-priors' again",
        ) from error
    return prior.eval().requires_grad_(False)

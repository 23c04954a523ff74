"""Source sets that arrive one after the other: digits, patches of scans, filters of workspaces, synthetic filters.

Whatever a set holds, it is a filter bank: rows of numbers, each with the unit that it came from. Rows of one unit (a
source network, or a patient) are never divided between the part that is fitted to and a part that is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.case import Case
from data.layouts.detection import read_dataset
from data.random_streams import random_stream, stream_seed
from graft.preprocessing import preprocess
from models.filter_bank import FilterBank
from pipeline.priors.held_out_scores import divide_positions
from pipeline.storage.file_names import BANK
from pipeline.storage.stored_bank import StoredBank


@dataclass(frozen=True)
class SourceSet:
    """One set: what a VAE is fitted to, what its settings are tuned on, and what it is tested on."""

    name: str
    fitted: FilterBank
    validation: FilterBank
    test: FilterBank


def _bank(rows: Tensor, units: Tensor) -> FilterBank:
    zeros = torch.zeros_like(units)
    return FilterBank(rows, zeros, units, zeros, units, zeros)


def digits(seed: int) -> list[SourceSet]:
    """Divides scikit-learn's 1797 digits of 8 × 8 pixels into ten sets in rising order: half, a fifth, the rest.

    Grey levels are whole numbers from 0 to 16. Uniform noise in [0, 1) is added to them: the mean log density is then a
    lower bound on the log probability of the whole numbers (Theis et al., "A note on the evaluation of generative
    models", ICLR 2016).
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    stream = random_stream(seed, "digits")
    images = images + stream.random(images.shape)
    sets = []
    for digit in range(10):
        rows = stream.permutation(np.flatnonzero(labels == digit))
        ends = [len(rows) // 2, len(rows) // 2 + len(rows) // 5]
        banks = [
            _bank(torch.tensor(images[part], dtype=torch.float32), torch.tensor(part)) for part in np.split(rows, ends)
        ]
        sets.append(SourceSet(str(digit), *banks))
    return sets


def patches(
    dataset: Path, seed: int, most: int, spacing: float, side: int, per_case: int, cache: Path
) -> list[SourceSet]:
    """Cuts cubes centred on random voxels of each structure out of preprocessed scans; a structure is a set.

    Of `most` patients, the same for every seed, half are fitted to, a fifth are for tuning, the rest are tested. A
    patient may have several cases.
    """
    cases = read_dataset(dataset).by_patient()
    names = {value: name for value, name in read_dataset(dataset).label_names.items() if value}
    chosen = random_stream(0, "patients").permutation(list(cases))[:most]
    patients = random_stream(seed, "parts").permutation(chosen).tolist()
    ends = [len(patients) // 2, len(patients) // 2 + len(patients) // 5]
    parts = [patients[: ends[0]], patients[ends[0] : ends[1]], patients[ends[1] :]]
    numbers = {patient: number for number, patient in enumerate(cases)}
    found: dict[int, list[FilterBank]] = {value: [] for value in names}
    for part in parts:
        of_part: dict[int, list[FilterBank]] = {value: [] for value in names}
        for patient in part:
            for case in cases[patient]:
                image, label = _preprocessed(case, spacing, cache)
                for value, banks in of_part.items():
                    stream = random_stream(seed, "patches", case.name, value)
                    rows = torch.from_numpy(_cubes(image, label == value, side, per_case, stream))
                    banks.append(_bank(rows, torch.full((len(rows),), numbers[patient])))
        for value, banks in of_part.items():
            found[value].append(FilterBank.concatenate(banks))
    return [SourceSet(name, *found[value]) for value, name in names.items()]


def _preprocessed(case: Case, spacing: float, cache: Path) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Preprocesses a case as a study does, once."""
    path = cache / f"{case.name}-{spacing:g}.npz"
    if not path.is_file():
        done = preprocess(case, "mr_brain", {"resampling": {"spacing": [spacing] * 3}}, label=case.label)
        assert done.label is not None
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, image=next(iter(done.channels.values())).array, label=done.label.array)
    with np.load(path) as stored:
        return stored["image"], stored["label"]


def _cubes(
    image: NDArray[np.float32], structure: NDArray[np.bool_], side: int, count: int, stream: np.random.Generator
) -> NDArray[np.float32]:
    """Cuts `count` cubes `[count, side³]` centred on voxels of a structure; what lies outside the scan is 0."""
    before, after = side // 2, side - side // 2
    padded = np.pad(image, [(before, after)] * 3)
    voxels = np.argwhere(structure)
    centres = voxels[stream.choice(len(voxels), count, replace=len(voxels) < count)] if len(voxels) else voxels
    cubes = [padded[x : x + side, y : y + side, z : z + side].ravel() for x, y, z in centres]
    return np.stack(cubes).astype(np.float32) if cubes else np.zeros((0, side**3), np.float32)


def filters(workspaces: Sequence[Path], group: str, most: int) -> list[SourceSet]:
    """Reads the filters that each workspace has of a group; its last networks, half of them but four at most, test."""
    return [_of_workspace(workspace, group, most) for workspace in workspaces]


def _of_workspace(workspace: Path, group: str, most: int) -> SourceSet:
    bank = StoredBank(workspace / "collect-filters" / group / BANK)
    networks = bank.networks
    if len(networks) < 2:
        raise SystemExit(f"{workspace}: one source network; two or more are needed, so that one can be held out")
    held = set(networks[-min(4, len(networks) // 2) :])
    generator = torch.Generator().manual_seed(stream_seed(0, "filters"))
    drawn = bank.draw(most, generator, set(networks) - held, norm_threshold=0.01).bank
    each = [bank.draw(4000, generator, {network}, last_snapshots=True).bank for network in sorted(held)]
    return SourceSet(workspace.name, *divide_positions(drawn, generator), FilterBank.concatenate(each))


FAMILIES = ("blobs", "edges", "ramps")


def synthetic(family: str) -> SourceSet:
    """Draws eight networks of one family under noise, with log-normal norms: four to fit to, four to score.

    Blobs are Gaussian, edges have any direction, ramps rise along one axis and fall off from its centre.
    """
    generator = torch.Generator().manual_seed(stream_seed(0, "synthetic", family))
    axis = torch.linspace(-1, 1, 3)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(27, 3)
    banks = []
    for network in range(8):
        count = 1500
        drawn = torch.randn(count, 1, 3, generator=generator)
        if family == "blobs":
            shape = torch.exp(-(grid - 0.7 * drawn).square().sum(2))
        elif family == "edges":
            shape = torch.tanh(3 * (grid * torch.nn.functional.normalize(drawn, dim=2)).sum(2))
        else:
            shape = grid[:, 0] * torch.exp(-(grid[:, 1:] - 0.5 * drawn[..., 1:]).square().sum(2))
        scale = 0.05 * torch.exp(0.5 * torch.randn(count, 1, generator=generator))
        rows = scale * (shape + 0.15 * torch.randn(count, 27, generator=generator))
        index = torch.arange(count)
        zeros = torch.zeros_like(index)
        banks.append(FilterBank(rows, zeros, index // 50, index % 50, zeros + network, zeros))
    fitted, validation = divide_positions(FilterBank.concatenate(banks[:4]), generator)
    return SourceSet(family, fitted, validation, FilterBank.concatenate(banks[4:]))

"""The unit that measures the structure of the filters of one group, network by network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from data.random_streams import stream_seed
from models.filter_structure import effective_dimension, filter_spectrum, share_under, start_shares
from models.filters import FilterLayer, get_filters
from models.intrinsic_dimension import maximum_likelihood_dimension, two_nearest_dimension
from pipeline.execution.progress import ProgressFile
from pipeline.priors.structure_record import FilterStructure, OverNetworks
from pipeline.storage.atomic import write_record
from pipeline.storage.file_names import STRUCTURE
from pipeline.storage.tensors import load_tensors
from pipeline.training.source_network import snapshot_name


def measure_structure(
    folder: Path,
    progress: ProgressFile,
    *,
    group: str,
    layers: Sequence[FilterLayer],
    networks: Sequence[Path],
    starts: Sequence[Path],
    cycles: int,
    norm_threshold: float,
) -> None:
    """Compares the last snapshot of every network with its random start, one network in memory at a time.

    `starts` holds the file of each network's start: of networks that branch from a trunk, that of the trunk.
    """
    names = [layer.parameter for layer in layers]
    dimensions, intrinsic, two_nearest, still, left, under = [], [], [], [], [], []
    generator = torch.Generator().manual_seed(stream_seed(0, "structure", group))
    for number, (network, start) in enumerate(zip(networks, starts, strict=True)):
        trained = get_filters(load_tensors(network / snapshot_name(cycles - 1), names=names), layers)
        shares = start_shares(trained, get_filters(load_tensors(start, names=names), layers))
        dimensions.append(effective_dimension(filter_spectrum(trained)))
        above = trained[trained.norm(dim=1) > norm_threshold]
        intrinsic.append(maximum_likelihood_dimension(above, generator=generator))
        two_nearest.append(two_nearest_dimension(above, generator=generator))
        still.append(shares.still_start)
        left.append(shares.start_left)
        under.append(share_under(trained, norm_threshold))
        progress((number + 1) / len(networks))
    record = FilterStructure(
        group=group,
        networks=len(networks),
        filters=sum(layer.count for layer in layers),
        effective_dimension=OverNetworks.of(dimensions),
        intrinsic_dimension=OverNetworks.of(intrinsic),
        two_nearest_dimension=OverNetworks.of(two_nearest),
        still_start=OverNetworks.of(still),
        start_left=OverNetworks.of(left),
        norm_threshold=norm_threshold,
        under_threshold=OverNetworks.of(under),
    )
    write_record(folder / STRUCTURE, record)


def take_structure(folder: Path, progress: ProgressFile, *, structure: FilterStructure) -> None:
    """Takes what a source pack says of a group."""
    write_record(folder / STRUCTURE, structure)

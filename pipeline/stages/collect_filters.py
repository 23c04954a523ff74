"""collect-filters: collects all 3×3×3 filters of all snapshots, by group of layers, and measures their structure."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.stored_record import read_record
from models.filter_bank import FilterBank, SourceState
from models.filter_stream import StreamedQuantiles
from models.filters import FilterLayer, filter_layers, filter_positions, group_layers
from models.networks.factory import NetworkRecord, layers_of_network
from models.priors.factory import needs_starts
from pipeline.config.study import StudyConfig
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stage import complete, run_in_order
from pipeline.execution.unit import Unit, require_done
from pipeline.priors.filter_summary import FilterSummary
from pipeline.priors.structure_record import FilterStructure
from pipeline.priors.structure_units import measure_structure
from pipeline.stages import train_source
from pipeline.stages.resources import Resources
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.storage.atomic import write_record
from pipeline.storage.file_names import BANK, STARTS, STRUCTURE, STRUCTURES, SUMMARY_JSON, TRUNK_UNIT, TRUNKS
from pipeline.storage.stored_bank import write_bank
from pipeline.storage.tensors import load_tensors
from pipeline.storage.workspace import Workspace
from pipeline.training.source_network import INITIAL, snapshot_name

logger = logging.getLogger(__name__)

STAGE = "collect-filters"
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def source_groups(plan: StudyPlan) -> tuple[dict[str, tuple[FilterLayer, ...]], tuple[FilterLayer, ...]]:
    """Groups of layers of the source network by name, and all its layers in order."""
    config = plan.config
    network = layers_of_network(NetworkRecord(config.network, len(plan.source_channels), plan.source_outputs))
    return group_layers(network, config.filters.grouping), filter_layers(network)


@dataclass(frozen=True)
class _Snapshots:
    """The filters of one group in the snapshots of all networks, read one file at a time."""

    networks: Sequence[tuple[int, Path]]
    starts: Sequence[Path]
    cycles: int
    layers: Sequence[FilterLayer]
    all_layers: Sequence[FilterLayer]

    @property
    def names(self) -> list[str]:
        """Parameters of the group's layers."""
        return [layer.parameter for layer in self.layers]

    @property
    def rows(self) -> int:
        """Filters of one snapshot."""
        return sum(layer.count for layer in self.layers)

    @property
    def order(self) -> list[tuple[int, int]]:
        """Network and cycle of each snapshot."""
        return [(number, cycle) for number, _ in self.networks for cycle in range(self.cycles)]

    def read(self, number: int, path: Path, cycle: int) -> FilterBank:
        """The filters of one file."""
        state = SourceState(number, cycle, load_tensors(path, names=self.names))
        return FilterBank.from_state(state, self.layers, filter_positions(self.layers, self.all_layers))

    def __iter__(self) -> Iterator[tuple[FilterBank, FilterBank | None]]:
        """Yields every snapshot's filters and, with the last one of a network, the filters of its random start."""
        for (number, folder), start in zip(self.networks, self.starts, strict=True):
            for cycle in range(self.cycles):
                bank = self.read(number, folder / snapshot_name(cycle), cycle)
                last = cycle == self.cycles - 1
                yield bank, self.read(number, start, cycle) if last else None


def collect_group(
    folder: Path,
    progress: ProgressFile,
    *,
    group: str,
    layers: Sequence[FilterLayer],
    all_layers: Sequence[FilterLayer],
    networks: Sequence[tuple[int, Path]],
    starts: Sequence[Path],
    cycles: int,
) -> None:
    """Writes the bank of a group and a summary.

    The bank holds all filters, even small ones, because densities are compared on filters that were not selected by
    norm. One snapshot is in memory at a time.
    """
    snapshots = _Snapshots(networks, starts, cycles, layers, all_layers)
    total = snapshots.rows * len(snapshots.order)
    norms, moved = StreamedQuantiles(total), StreamedQuantiles(snapshots.rows * len(networks))
    moved_by_network: dict[int, float] = {}

    def banks() -> Iterator[FilterBank]:
        for number, (bank, initial) in enumerate(snapshots):
            norms.add(bank.filters.norm(dim=1))
            network = snapshots.order[number][0]
            if initial is not None:
                share = (bank.filters - initial.filters).norm(dim=1) / initial.filters.norm(dim=1).clamp_min(1e-12)
                moved.add(share)
                moved_by_network[network] = float(share.median())
            progress((number + 1) / len(snapshots.order))
            yield bank

    write_bank(folder / BANK, banks(), (len(snapshots.order), snapshots.rows))
    summary = FilterSummary(
        group=group,
        layers=tuple(snapshots.names),
        networks=tuple(number for number, _ in networks),
        snapshots=cycles,
        filters=total,
        norm_quantile_levels=_QUANTILES,
        norm_quantiles=tuple(norms.quantiles(_QUANTILES)),
        norm_quantiles_of_every=norms.stride,
        moved_from_initial=float(moved.values.median()),
        moved_quantiles=tuple(moved.quantiles(_QUANTILES)),
        moved_by_network={str(number): value for number, value in moved_by_network.items()},
    )
    write_record(folder / SUMMARY_JSON, summary)


def collect_starts(
    folder: Path,
    progress: ProgressFile,
    *,
    layers: Sequence[FilterLayer],
    all_layers: Sequence[FilterLayer],
    networks: Sequence[tuple[int, Path]],
) -> None:
    """Writes the filters that each network started from: its random ones, or those of its trunk."""
    starts = _Snapshots(networks, (), 1, layers, all_layers)
    banks = (starts.read(number, path / INITIAL, 0) for number, path in networks)
    write_bank(folder / BANK, banks, (len(networks), starts.rows))


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """For each group of layers: one unit for its filters, one for their structure, and one for their starts.

    There is one for their starts where a density is of changes, or needs networks that share their start.

    Raises:
        WorkspaceError: a stage before is not done.
    """
    return [unit for kind in _planned(config, workspace) for unit in kind]


def _planned(config: StudyConfig, workspace: Workspace) -> tuple[list[Unit], ...]:
    plan = read_plan(config, workspace)
    groups, all_layers = source_groups(plan)
    keys = [train_source.network_key(number) for number in range(config.source_training.networks)]
    digests = [require_done(workspace, train_source.STAGE, key)["digest"] for key in keys]
    networks = [(number, workspace.unit_folder(train_source.STAGE, key)) for number, key in enumerate(keys)]
    cycles, threshold = config.source_training.cycles, config.filters.norm_threshold
    trunk = workspace.unit_folder(TRUNKS, TRUNK_UNIT) if config.source_training.has_trunk else None
    random_starts = [(path if trunk is None else trunk) / INITIAL for _, path in networks]
    with_starts = any(needs_starts(density) for density in config.priors.densities.values())
    banks, structures, starts = [], [], []
    for group, layers in groups.items():
        same: dict[str, Any] = {
            "networks": digests,
            "layers": [layer.parameter for layer in layers],
            "cycles": cycles,
            # Earlier versions did not mirror the kernels of transposed convolutions.
            **({"kernels": "mirrored"} if any(layer.transposed for layer in layers) else {}),
        }
        arguments: dict[str, Any] = {"group": group, "layers": layers, "cycles": cycles, "starts": random_starts}
        of_bank = {**arguments, "all_layers": all_layers, "networks": networks}
        banks.append(Unit(STAGE, group, {**same, "version": 4}, collect_group, of_bank))
        # A unit of its own: fits and trainings depend on the filters, and not on what is measured of them.
        recipe = {**same, "norm_threshold": threshold, "version": 1}
        of_structure = {**arguments, "networks": [folder for _, folder in networks], "norm_threshold": threshold}
        structures.append(Unit(STRUCTURES, group, recipe, measure_structure, of_structure))
        if with_starts:
            of_starts = {"layers": layers, "all_layers": all_layers, "networks": networks}
            starts.append(Unit(STARTS, group, {**same, "version": 1}, collect_starts, of_starts))
    return banks, structures, starts


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Collects the filters of every group, and says what structure they have.

    Raises:
        WorkspaceError: a source network is missing.
    """
    kinds = _planned(config, workspace)
    complete(STAGE, run_in_order(kinds, workspace, resources.execution(config)))
    for unit in kinds[1]:
        structure = read_record(workspace.unit_folder(unit.stage, unit.key) / STRUCTURE, FilterStructure)
        logger.info("%s: %s", STAGE, structure.describe())

"""collect-filters: all 3×3×3 filters of all snapshots, by group of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from models.filter_bank import FilterBank, SourceState
from models.filters import FilterLayer, filter_layers, group_layers
from models.networks.factory import build_network
from pipeline.config.study import StudyConfig
from pipeline.progress import ProgressFile
from pipeline.stages import train_source
from pipeline.stages.resources import Resources
from pipeline.stages.stage import complete, run_stage
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.storage.atomic import write_json
from pipeline.storage.tensors import load_tensors, save_tensors
from pipeline.storage.units import Unit, require_done
from pipeline.storage.workspace import Workspace
from pipeline.training.source_network import INITIAL, snapshot_name

STAGE = "collect-filters"
BANK = "filters.safetensors"
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def source_groups(plan: StudyPlan) -> tuple[dict[str, tuple[FilterLayer, ...]], tuple[FilterLayer, ...]]:
    """Groups of layers of the source network by name, and all its layers in order."""
    config, dataset = plan.config, plan.config.source.dataset
    network = build_network(config.network, len(plan.channels[dataset]), len(plan.classes[dataset]) + 1)
    return group_layers(network, config.filters.grouping), filter_layers(network)


def _states(networks: Sequence[tuple[int, Path]], cycles: int, names: Sequence[str]) -> Iterator[SourceState]:
    for number, folder in networks:
        for cycle in range(cycles):
            yield SourceState(number, cycle, load_tensors(folder / snapshot_name(cycle), names=names))


def collect_group(
    folder: Path,
    progress: ProgressFile,
    *,
    group: str,
    layers: Sequence[FilterLayer],
    all_layers: Sequence[FilterLayer],
    networks: Sequence[tuple[int, Path]],
    cycles: int,
    norm_threshold: float,
) -> None:
    """Writes the bank of a group (all filters, none dropped) and a summary of what the threshold would keep.

    The bank holds the small filters too, because densities are compared on filters that were not selected by norm.
    """
    names = [layer.parameter for layer in layers]
    bank = FilterBank.from_state_dicts(_states(networks, cycles, names), layers, all_layers)
    save_tensors(folder / BANK, bank.to_tensors(), {"group": group})
    kept, share = bank.above_norm(norm_threshold)
    norms = bank.filters.norm(dim=1)
    initial = FilterBank.from_state_dicts(
        (SourceState(number, 0, load_tensors(path / INITIAL, names=names)) for number, path in networks),
        layers,
        all_layers,
    )
    last = bank.last_snapshots()
    moved = (last.filters - initial.filters).norm(dim=1) / initial.filters.norm(dim=1).clamp_min(1e-12)
    summary = {
        "group": group,
        "layers": names,
        "networks": [number for number, _ in networks],
        "snapshots": cycles,
        "filters": len(bank),
        "kept": len(kept),
        "share_kept": share,
        "norm_threshold": norm_threshold,
        "norm_quantiles": torch.quantile(norms[:: max(1, len(norms) // 1_000_000)], torch.tensor(_QUANTILES)).tolist(),
        "moved_from_initial": float(moved.median()),
    }
    write_json(folder / "summary.json", summary)


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for each group of layers.

    Raises:
        WorkspaceError: a stage before is not done.
    """
    plan = read_plan(config, workspace)
    groups, all_layers = source_groups(plan)
    keys = [train_source.network_key(number) for number in range(config.source_training.networks)]
    digests = [require_done(workspace, train_source.STAGE, key)["digest"] for key in keys]
    networks = [(number, workspace.unit_folder(train_source.STAGE, key)) for number, key in enumerate(keys)]
    planned = []
    for group, layers in groups.items():
        options = config.filters.model_dump(mode="json")
        recipe = {
            "networks": digests,
            "layers": [layer.parameter for layer in layers],
            "options": options,
            "version": 1,
        }
        arguments = {
            "group": group,
            "layers": layers,
            "all_layers": all_layers,
            "networks": networks,
            "cycles": config.source_training.cycles,
            "norm_threshold": config.filters.norm_threshold,
        }
        planned.append(Unit(STAGE, group, recipe, collect_group, arguments))
    return planned


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Collects the filters of every group.

    Raises:
        WorkspaceError: a source network is missing.
    """
    complete(STAGE, run_stage(STAGE, units(config, workspace, resources), workspace, resources.execution(config)))

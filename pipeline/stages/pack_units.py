"""Units of a study whose source is a pack: networks, densities and scores are taken from it, not made.

Their folders hold what those of a source dataset do, as far as a pack has it, so that all that follows reads the same
files. A recipe names the digests of what is taken and not the pack's path: a pack that was moved makes nothing stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from models.filters import FilterLayer
from pipeline.execution.progress import ProgressFile
from pipeline.execution.unit import Unit
from pipeline.packs.pack_archive import PackError, SourcePack, open_pack
from pipeline.packs.pack_record import PackRecord, density_entry, snapshot_entry
from pipeline.packs.pack_weights import density, snapshot
from pipeline.priors.scores_record import FitRecord, ScoresRecord
from pipeline.priors.structure_units import take_structure
from pipeline.stages.study_plan import StudyPlan
from pipeline.storage.atomic import write_record
from pipeline.storage.digest import digest
from pipeline.storage.file_names import STRUCTURES
from pipeline.storage.prior_files import COMPARISON, DENSITY, FIT, FITS, SCORES, prior_key
from pipeline.storage.stage_names import Stage
from pipeline.training.source_network import network_key, snapshot_name


def network_units(plan: StudyPlan, pack: PackRecord) -> list[Unit]:
    """One unit for each network of the pack."""
    planned = []
    for number in pack.networks:
        entries = [snapshot_entry(number, cycle) for cycle in pack.snapshots]
        recipe = {"taken": {name: pack.files[name].sha256 for name in entries}, "version": 1}
        arguments = {"pack": plan.config.source_pack, "expected": pack, "number": number}
        planned.append(Unit(Stage.TRAIN_SOURCE, network_key(number), recipe, take_network, arguments))
    return planned


def prior_units(plan: StudyPlan, pack: PackRecord) -> tuple[list[Unit], list[Unit], list[Unit]]:
    """For each group of layers: one unit for the structure of its filters, one for each density, one for the scores."""
    structures, fits, comparisons = [], [], []
    for group, own in pack.groups.items():
        if own.structure is not None:
            recipe = {"taken": digest(own.structure.as_json()), "version": 1}
            structures.append(Unit(STRUCTURES, group, recipe, take_structure, {"structure": own.structure}))
        for name, fit in own.fits.items():
            recipe = {
                "taken": pack.files[density_entry(group, name)].sha256,
                "density": pack.priors.densities[name].model_dump(mode="json"),
                "version": 1,
            }
            arguments = {
                "pack": plan.config.source_pack, "expected": pack, "group": group, "name": name, "fit": fit,
            }  # fmt: skip
            fits.append(Unit(FITS, prior_key(group, name), recipe, take_density, arguments))
        if own.scores is not None:
            recipe = {"taken": digest(own.scores.as_json()), "version": 1}
            comparisons.append(Unit(COMPARISON, group, recipe, take_scores, {"scores": own.scores}))
    return structures, fits, comparisons


def require_layers(pack: PackRecord, groups: Mapping[str, Sequence[FilterLayer]]) -> None:
    """Refuses a pack whose groups are not those of its network.

    Raises:
        PackError: names the group.
    """
    own = {name: tuple(layer.parameter for layer in layers) for name, layers in groups.items()}
    found = {name: group.layers for name, group in pack.groups.items()}
    for name in dict.fromkeys([*own, *found]):
        if own.get(name) != found.get(name):
            raise PackError(
                f"the source pack groups the layers of its networks otherwise: {name!r} holds "
                f"{', '.join(found.get(name, ())) or 'nothing'}",
                expected=", ".join(own.get(name, ())) or "no such group",
                fix="make the pack again with this version of Graft",
            )


def take_network(folder: Path, progress: ProgressFile, *, pack: Path, expected: PackRecord, number: int) -> None:
    """Takes the snapshots of a network.

    Raises:
        PackError: they are damaged, or the pack is not the one that was checked.
    """
    opened = _same(pack, expected)
    for position, cycle in enumerate(expected.snapshots):
        content, _ = snapshot(opened, number, cycle)
        (folder / snapshot_name(cycle)).write_bytes(content)
        progress((position + 1) / len(expected.snapshots))


def take_density(
    folder: Path, progress: ProgressFile, *, pack: Path, expected: PackRecord, group: str, name: str, fit: FitRecord
) -> None:
    """Takes a fitted density.

    Raises:
        PackError: it is damaged, or the pack is not the one that was checked.
    """
    (folder / DENSITY).write_bytes(density(_same(pack, expected), group, name))
    write_record(folder / FIT, fit)


def take_scores(folder: Path, progress: ProgressFile, *, scores: ScoresRecord) -> None:
    """Takes the held-out scores of a group."""
    write_record(folder / SCORES, scores)


def _same(path: Path, expected: PackRecord) -> SourcePack:
    opened = open_pack(path)
    if opened.record.files != expected.files:
        raise PackError(
            f"{path}: is not the pack that `check` saw",
            expected="the same pack",
            fix="run `graft check CONFIG`, or put the pack back",
        )
    return opened

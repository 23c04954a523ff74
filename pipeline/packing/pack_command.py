"""`graft pack`: what was learned on the source of a study, as one file that holds nothing of a patient."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data.errors import WorkspaceError
from data.input_file import read_text
from data.options import Options
from data.stored_record import record_if_there
from models.heads import Heads
from pipeline.config.reading import read_config
from pipeline.config.study import StudyConfig
from pipeline.deployment.pack_card import pack_card
from pipeline.execution.provenance import graft_version
from pipeline.packing.source_facts import source_facts
from pipeline.packs.pack_archive import PackError, open_pack, write_pack
from pipeline.packs.pack_record import (
    CARD,
    LICENCE,
    PackedFile,
    PackedGroup,
    PackRecord,
    density_entry,
    snapshot_entry,
)
from pipeline.priors.prior_units import read_fit
from pipeline.priors.scores_record import ScoresRecord
from pipeline.priors.structure_record import FilterStructure
from pipeline.stages import collect_filters
from pipeline.stages.needed_stages import needless_stages
from pipeline.stages.resources import Resources
from pipeline.stages.stale_results import stale_results
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.storage.atomic import remove_temporaries_of, temporary_room, write_text
from pipeline.storage.digest import file_digest
from pipeline.storage.file_names import CONFIG, STRUCTURE, STRUCTURES
from pipeline.storage.owned_folder import require_writable
from pipeline.storage.prior_files import COMPARISON, DENSITY, FITS, SCORES, prior_key
from pipeline.storage.stage_names import Stage
from pipeline.storage.tensors import load_tensors, save_tensors
from pipeline.storage.workspace import Workspace
from pipeline.training.source_network import network_key, snapshot_name

logger = logging.getLogger(__name__)

OptionsT = TypeVar("OptionsT", bound=Options)
_LICENCE_BYTES = 2**20


@dataclass(frozen=True)
class PackRequest:
    """What the command was asked for.

    Attributes:
        workspace: of the study whose source is given away.
        output: the pack.
        title: what the giver calls it.
        licence: under which terms it may be used, in a sentence.
        licence_file: text of the licence, which goes into the pack.
        citation: what to cite.
        all_snapshots: put in the weights at the end of every cycle, not of the last one alone.
        force: replace a pack that is there.
    """

    workspace: Path
    output: Path
    title: str = ""
    licence: str = ""
    licence_file: Path | None = None
    citation: str = ""
    all_snapshots: bool = False
    force: bool = False


def pack(request: PackRequest) -> list[str]:
    """Writes the pack of a study's source, whole or not at all.

    Returns:
        what was written and what is left to do, in sentences.

    Raises:
        GraftError: the source is not learned yet, results are of other settings, or the output is something else.
    """
    _require_free(request.output, request.force)
    plan = _finished_source(request.workspace)
    remove_temporaries_of(request.output)
    require_writable(request.output.parent)
    with temporary_room(request.output) as folder:
        record, files = _gather(plan, request, folder)
        write_pack(request.output, record, files)
    size = request.output.stat().st_size
    networks = f"{len(record.networks)} network{'s' * (len(record.networks) > 1)}"
    densities = ", ".join(record.densities) or "none, because the study fitted none"
    lines = [f"The pack is {request.output} ({size / 1e6:.2f} MB): {networks}; densities: {densities}"]
    lines.append("It holds no scan, no name and no number of a patient; `graft pack --show` prints its card")
    unfilled = [
        option for option, value in (("--license", record.licence), ("--citation", record.citation)) if not value
    ]
    if unfilled:
        lines.append(f"Only you can fill in: {', '.join(unfilled)}")
    return lines


def _require_free(output: Path, force: bool) -> None:
    """Keeps what lies at the output from being lost.

    Raises:
        WorkspaceError: something lies there that may not be replaced.
    """
    if not output.exists():
        return
    try:
        open_pack(output)
    except PackError as error:
        raise WorkspaceError(
            f"{output}: is there already, and is not a source pack",
            expected="a new name, or a pack that `graft pack` wrote",
            fix="name another with --output",
        ) from error
    if not force:
        raise WorkspaceError(
            f"{output}: is there already", expected="a new name", fix="name another, or add --force to replace the pack"
        )


def _finished_source(root: Path) -> StudyPlan:
    """The plan of a study whose source is learned with the configuration of its workspace.

    Raises:
        GraftError: there is no such study, its source is a pack, or a result is missing or of other settings.
    """
    if not (root / CONFIG).is_file():
        raise WorkspaceError(
            f"{root}: holds no {CONFIG}", expected="the workspace of a study", fix="name one, such as workspaces/demo"
        )
    config = read_config(root / CONFIG, workspace=root)
    if config.source is None:
        raise PackError(
            f"{root}: this study has no source, so nothing was learned that could be given away",
            expected="the workspace of a study that learned from a source dataset",
            fix="name another",
        )
    if config.source.pack is not None:
        raise PackError(
            f"{root}: the source of this study is itself a pack, {config.source.pack}",
            expected="the workspace of a study that learned from a source dataset",
            fix="give that pack away",
        )
    workspace = Workspace(root)
    stages = [Stage.TRAIN_SOURCE, *((Stage.COLLECT_FILTERS, Stage.FIT_PRIORS) if _fits(config, workspace) else ())]
    for stale in stale_results(stages, config, workspace, Resources()):
        raise WorkspaceError(
            f"{workspace.unit_folder(stale.kind, stale.key)}: this result of `{stale.stage}` {stale.why()}",
            expected="a source that is learned with the configuration of the workspace",
            fix=f"run `graft {stale.stage} CONFIG`",
        )
    return read_plan(config, workspace)


def _fits(config: StudyConfig, workspace: Workspace) -> bool:
    """Whether the study has densities to give away."""
    return Stage.FIT_PRIORS not in needless_stages(config) or (workspace.root / COMPARISON).is_dir()


def _gather(plan: StudyPlan, request: PackRequest, folder: Path) -> tuple[PackRecord, dict[str, Path]]:
    """Puts the files of the pack into a folder.

    Returns:
        what the pack holds, and the name of each file in it → the file.
    """
    config, name = plan.config, plan.dataset_of("source")
    cycles = config.source_training.cycles
    snapshots = tuple(range(cycles)) if request.all_snapshots else (cycles - 1,)
    files = _weights(plan, snapshots, folder)
    groups = _groups(plan)
    files |= _densities(plan, groups, folder)
    if request.licence_file is not None:
        text = read_text(request.licence_file, "the text of a licence", PackError, _LICENCE_BYTES)
        files[LICENCE] = folder / LICENCE
        write_text(files[LICENCE], text)
    about = config.datasets[name]
    record = PackRecord(
        graft_version=graft_version(),
        title=request.title,
        licence=request.licence,
        citation=request.citation,
        modality=about.modality,
        channels=plan.source_channels,
        classes=plan.source_classes,
        # Exclusive classes are the rule, and were the only kind once.
        **({} if plan.source_heads is Heads.EXCLUSIVE else {"heads": plan.source_heads}),
        preprocessing=without_paths(about.preprocessing),
        network=config.network,
        source_training=config.source_training,
        patches=config.patches,
        augmentation=config.augmentation,
        filters=config.filters,
        priors=without_paths(config.priors),
        seed=config.seed,
        snapshots=snapshots,
        groups=groups,
        source=source_facts(plan, synthetic=about.synthetic is not None),
        files=_listed({**files, CARD: None}),
    )
    files[CARD] = folder / CARD
    write_text(files[CARD], pack_card(record))
    return record.model_copy(update={"files": _listed(files)}), files


def _listed(files: Mapping[str, Path | None]) -> dict[str, PackedFile]:
    """Size and digest of each file, by name; of one that is not written yet, a place for them."""
    nothing = PackedFile(size=0, sha256="0" * 64)
    return {
        name: nothing if path is None else PackedFile(size=path.stat().st_size, sha256=file_digest(path))
        for name, path in sorted(files.items())
    }


def _weights(plan: StudyPlan, snapshots: tuple[int, ...], folder: Path) -> dict[str, Path]:
    """Writes the weights of the networks again, so that a pack holds what is meant to be in it and nothing else."""
    files = {}
    for number in range(plan.config.source_training.networks):
        for cycle in snapshots:
            source = plan.workspace.unit_folder(Stage.TRAIN_SOURCE, network_key(number)) / snapshot_name(cycle)
            entry = snapshot_entry(number, cycle)
            files[entry] = folder / entry
            save_tensors(files[entry], load_tensors(source), {"network": number, "cycle": cycle})
    return files


def _groups(plan: StudyPlan) -> dict[str, PackedGroup]:
    fits = _fits(plan.config, plan.workspace)
    layers, _ = collect_filters.source_groups(plan)
    return {group: _group(plan, group, [own.parameter for own in of_group], fits) for group, of_group in layers.items()}


def _group(plan: StudyPlan, group: str, layers: list[str], fitted: bool) -> PackedGroup:
    densities = plan.config.priors.densities if fitted else {}
    folders = {name: plan.workspace.unit_folder(FITS, prior_key(group, name)) for name in densities}
    scores = plan.workspace.unit_folder(COMPARISON, group) / SCORES
    structure = plan.workspace.unit_folder(STRUCTURES, group) / STRUCTURE
    return PackedGroup(
        layers=tuple(layers),
        fits={name: read_fit(folder) for name, folder in folders.items()},
        scores=record_if_there(scores, ScoresRecord) if fitted else None,
        structure=record_if_there(structure, FilterStructure) if fitted else None,
    )


def _densities(plan: StudyPlan, groups: Mapping[str, PackedGroup], folder: Path) -> dict[str, Path]:
    files = {}
    for group, own in groups.items():
        for name in own.fits:
            source = plan.workspace.unit_folder(FITS, prior_key(group, name)) / DENSITY
            entry = density_entry(group, name)
            files[entry] = folder / entry
            save_tensors(files[entry], load_tensors(source), {"group": group, "density": name})
    return files


def without_paths(options: OptionsT) -> OptionsT:
    """The same options without the paths in them, which are this machine's."""
    changes: dict[str, object] = {}
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, Path):
            changes[name] = None
        elif isinstance(value, Options):
            changes[name] = without_paths(value)
    return options.model_copy(update=changes)

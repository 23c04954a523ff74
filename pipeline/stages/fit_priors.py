"""fit-priors: fits densities to the filters of every group, and scores them on the filters of held-out networks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.stored_record import record_if_there
from models.filters import FilterLayer
from models.priors.factory import needs_starts
from pipeline.config.study import StudyConfig
from pipeline.execution.stage import complete, run_in_order
from pipeline.execution.unit import Unit, require_done
from pipeline.priors.density_choice import ChosenDensity, resolve_densities
from pipeline.priors.earlier_density import EarlierDensity
from pipeline.priors.filter_options import HeldOut
from pipeline.priors.group_fit import GroupFit
from pipeline.priors.prior_units import compare_densities, fit_density, score_density
from pipeline.priors.structure_record import FilterStructure, little_to_learn
from pipeline.stages import collect_filters
from pipeline.stages.earlier_study import earlier_densities
from pipeline.stages.older_layout import refuse_older_layout
from pipeline.stages.pack_units import prior_units, require_layers
from pipeline.stages.resources import Resources
from pipeline.stages.study_plan import read_plan
from pipeline.storage.file_names import BANK, STARTS, STRUCTURE, STRUCTURES
from pipeline.storage.prior_files import COMPARISON, FITS, SCORES, SCORING, density_file, prior_key
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)

STAGE = "fit-priors"


def chosen_densities(
    workspace: Workspace, groups: Iterable[str], prior: str, config: StudyConfig
) -> dict[str, ChosenDensity]:
    """Returns the fitted density that an arm with this prior (a name, or `auto`) uses in every group of layers.

    Raises:
        WorkspaceError: the densities of a group are not fitted, or `auto` has nothing to choose from.
    """
    scores = {group: workspace.unit_folder(COMPARISON, group) / SCORES for group in groups}
    names = resolve_densities(scores, prior, config.priors.densities)
    found = {}
    for group, name in names.items():
        own = require_done(workspace, FITS, prior_key(group, name))["digest"]
        path = density_file(workspace.root, group, name)
        found[group] = ChosenDensity(config.priors.densities[name], path, own)
    return found


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """For each group of layers: one unit for the fit of each density, one for its score, one for their comparison.

    Of a source pack, none for the scores: it holds their comparison alone.

    Raises:
        PackError: the groups of the pack are other layers.
        WorkspaceError: an earlier stage is not done, or the study to update priors from is missing.
        ConfigError: there is nothing to update, or the earlier study has other settings.
        ModelError: the earlier study's layers differ.
    """
    return [unit for kind in _planned(config, workspace, resources) for unit in kind]


def _planned(config: StudyConfig, workspace: Workspace, resources: Resources) -> tuple[list[Unit], ...]:
    plan = read_plan(config, workspace)
    groups, _ = collect_filters.source_groups(plan)
    if plan.pack is not None:
        require_layers(plan.pack, groups)
        return prior_units(plan, plan.pack)
    threads = resources.execution(config).threads
    of_groups = [_Group(config, workspace, group, layers, threads) for group, layers in groups.items()]
    fits = [own.fit(density) for own in of_groups for density in config.priors.densities]
    scores = [own.score(density) for own in of_groups for density in own.task.options.scorable]
    return fits, scores, [own.comparison() for own in of_groups]


class _Group:
    """The units of one group of layers."""

    def __init__(
        self, config: StudyConfig, workspace: Workspace, group: str, layers: Sequence[FilterLayer], threads: int
    ) -> None:
        marker = require_done(workspace, collect_filters.STAGE, group)
        self._options = config.priors
        self._workspace = workspace
        self._group = group
        self._earlier: Mapping[str, EarlierDensity] = earlier_densities(config, group, layers)
        self._size = float(sum(layer.count for layer in layers))
        self._several = config.source_training.networks > 1
        bank = workspace.unit_folder(collect_filters.STAGE, group) / BANK
        # Only a study with a density that needs them has collected them.
        wanted = any(needs_starts(density) for density in config.priors.densities.values())
        self._starts = require_done(workspace, STARTS, group)["digest"] if wanted else None
        starts = None if self._starts is None else workspace.unit_folder(STARTS, group) / BANK
        self.task = GroupFit(
            group, bank, config.priors, config.filters.norm_threshold, self._earlier, config.seed, starts
        )
        self._same = {
            "bank": marker["digest"],
            "norm_threshold": config.filters.norm_threshold,
            "largest_fit": config.priors.largest_fit,
            "seed": config.seed,
            "threads": threads,
            "version": 3,
        }

    @property
    def _refit(self) -> bool:
        return self._options.refits(self._several)

    def _held_out(self) -> dict[str, Any]:
        """The networks that are kept for scoring."""
        options = self._options
        if options.held_out is HeldOut.CROSS:
            return {"held_out": options.held_out.value, "folds": options.folds}
        return {"held_out": options.held_out.value, "held_out_networks": options.held_out_networks}

    def _density(self, density: str) -> dict[str, Any]:
        # Without the path of the earlier study: a moved workspace is the same.
        earlier = {"update_from": self._earlier[density].digest} if density in self._earlier else {}
        starts = {"starts": self._starts} if needs_starts(self._options.densities[density]) else {}
        return {"density": self._options.densities[density].model_dump(mode="json"), **earlier, **starts}

    def fit(self, density: str) -> Unit:
        # A fit to all networks does not depend on which of them are held out for scoring.
        recipe = {**self._same, **self._density(density), "fitted_to": "all" if self._refit else self._held_out()}
        arguments = {"group": self.task, "density": density}
        return Unit(FITS, prior_key(self._group, density), recipe, fit_density, arguments, self._size)

    def score(self, density: str) -> Unit:
        fit = None if self._refit else self.fit(density)
        recipe = {
            **self._same,
            **self._density(density),
            **self._held_out(),
            "largest_score": self._options.largest_score,
            "score_samples": self._options.score_samples,
            "fit": None if fit is None else fit.digest,
        }
        folder = None if fit is None else self._folder(fit)
        arguments = {"group": self.task, "density": density, "fitted": folder}
        needs = () if fit is None else (fit.name,)
        return Unit(SCORING, prior_key(self._group, density), recipe, score_density, arguments, self._size, needs=needs)

    def comparison(self) -> Unit:
        fits = {density: self.fit(density) for density in self._options.densities}
        scores = {density: self.score(density) for density in self._options.scorable}
        recipe = {
            "fits": {density: unit.digest for density, unit in fits.items()},
            "scores": {density: unit.digest for density, unit in scores.items()},
            # For the full Gaussian, which is fitted for the comparison if the study has none.
            **self._same,
            **self._held_out(),
            "largest_score": self._options.largest_score,
        }
        arguments = {
            "group": self.task,
            "fits": {density: self._folder(unit) for density, unit in fits.items()},
            "scores": {density: self._folder(unit) for density, unit in scores.items()},
        }
        needs = tuple(unit.name for unit in (*fits.values(), *scores.values()))
        return Unit(COMPARISON, self._group, recipe, compare_densities, arguments, needs=needs)

    def _folder(self, unit: Unit) -> Path:
        return self._workspace.unit_folder(unit.stage, unit.key)


def _structures(config: StudyConfig, workspace: Workspace) -> list[FilterStructure]:
    """The structure of the filters of every group, as far as it was measured."""
    plan = read_plan(config, workspace)
    if plan.pack is not None:
        found = [own.structure for own in plan.pack.groups.values()]
    else:
        groups, _ = collect_filters.source_groups(plan)
        files = [workspace.unit_folder(STRUCTURES, group) / STRUCTURE for group in groups]
        found = [record_if_there(path, FilterStructure) for path in files]
    return [own for own in found if own is not None]


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Fits, scores and compares the densities of every group, or takes them from the source pack.

    Raises:
        PackError: a density of the pack is damaged, or is of other layers.
        WorkspaceError: filters are not collected, or `fit-priors/` holds results of an older layout.
        StageError: units failed; the others are kept.
    """
    kinds = _planned(config, workspace, resources)
    refuse_older_layout(workspace, STAGE, [unit.key for unit in kinds[-1]])
    limit, of_pack = config.filters.most_start, config.source_pack is not None
    if little := little_to_learn(_structures(config, workspace), limit, of_pack=of_pack):
        logger.warning("%s: %s", STAGE, little)
    complete(STAGE, run_in_order(kinds, workspace, resources.execution(config)))

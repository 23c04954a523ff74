"""What the arms of a study take from its source: snapshots, fitted densities, and a model to update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.filters import FilterLayer
from models.heads import Heads
from pipeline.arms.choices import ArmOptions, Initialisation
from pipeline.arms.target_network import TargetNetwork
from pipeline.deployment.updatable_model import UpdatableModel, find_updatable
from pipeline.execution.unit import require_done
from pipeline.stages import collect_filters, fit_priors, train_source
from pipeline.stages.study_plan import StudyPlan
from pipeline.training.source_network import snapshot_name


@dataclass(frozen=True)
class SourceInputs:
    """What an arm takes from the source.

    Attributes:
        recipe: digests of the inputs of all members.
        networks: digest and last snapshot of each source network that members start from.
        references: last snapshots that the prior of the other weights is fitted to.
        priors: group → file of the fitted density.
        densities: group → options of that density.
        groups: group → layers of the source network.
        updated: model whose posterior is updated, if any.
        heads: what the output channels of the source networks stand for.
    """

    recipe: dict[str, Any]
    networks: Sequence[tuple[str, Path]] = ()
    references: Sequence[Path] = ()
    priors: Mapping[str, Path] = field(default_factory=dict)
    densities: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Sequence[FilterLayer]] = field(default_factory=dict)
    updated: UpdatableModel | None = None
    heads: Heads = Heads.EXCLUSIVE

    @classmethod
    def read(cls, plan: StudyPlan, arm: ArmOptions) -> SourceInputs:
        """Finds the inputs in the workspace.

        Raises:
            WorkspaceError: an earlier stage is not done.
            ModelError: the arm updates a model that does not fit.
        """
        config = plan.config
        recipe: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        numbers = range(config.source_training.networks)
        if arm.needs_source or arm.needs_references:
            inputs["heads"] = plan.source_heads
        if arm.needs_source:
            every = arm.init is Initialisation.BRANCHES
            needed = len(numbers) if every else min(arm.members * arm.components, len(numbers))
            inputs["networks"] = _snapshots(plan, numbers[:needed])
        if arm.needs_references:
            references = _snapshots(plan, numbers)
            recipe["references"] = [own for own, _ in references]
            inputs["references"] = [path for _, path in references]
        if arm.needs_prior:
            groups, _ = collect_filters.source_groups(plan)
            chosen = fit_priors.chosen_densities(plan.workspace, groups, arm.prior, config)
            recipe["priors"] = {group: density.digest for group, density in chosen.items()}
            inputs["priors"] = {group: density.path for group, density in chosen.items()}
            inputs["densities"] = {group: density.options for group, density in chosen.items()}
            inputs["groups"] = groups
        if arm.update_from is not None:
            dataset = config.target.dataset
            heads = Heads.of(plan.classes[dataset])
            outputs = heads.outputs(len(plan.classes[dataset]))
            network = TargetNetwork(arm.network or config.network, len(plan.channels[dataset]), outputs, heads)
            inputs["updated"] = find_updatable(arm.update_from, network)
            recipe["update_from"] = inputs["updated"].digest
        return cls(recipe, **inputs)


def _snapshots(plan: StudyPlan, numbers: Iterable[int]) -> list[tuple[str, Path]]:
    """Digests and last snapshots of source networks."""
    last = snapshot_name(plan.config.source_training.cycles - 1)
    found = []
    for number in numbers:
        key = train_source.network_key(number)
        own = require_done(plan.workspace, train_source.STAGE, key)["digest"]
        found.append((own, plan.workspace.unit_folder(train_source.STAGE, key) / last))
    return found

"""What the arms of a study take: snapshots and fitted densities of its source, image models, a model to update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.filters import FilterLayer
from models.heads import Heads
from pipeline.arms.choices import ArmOptions, Initialisation
from pipeline.deployment.updatable_model import UpdatableModel, find_updatable
from pipeline.execution.unit import Unit
from pipeline.stages import collect_filters, fit_priors
from pipeline.stages.source_snapshots import source_snapshots
from pipeline.stages.study_plan import StudyPlan


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
        image_model: the training of the image model that members start from, if any.
    """

    recipe: dict[str, Any]
    networks: Sequence[tuple[str, Path]] = ()
    references: Sequence[Path] = ()
    priors: Mapping[str, Path] = field(default_factory=dict)
    densities: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Sequence[FilterLayer]] = field(default_factory=dict)
    updated: UpdatableModel | None = None
    heads: Heads = Heads.EXCLUSIVE
    image_model: Unit | None = None

    @classmethod
    def read(cls, plan: StudyPlan, arm: ArmOptions, image_models: Mapping[str, Unit]) -> SourceInputs:
        """Finds the inputs in the workspace; image models may be yet to be trained.

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
            inputs["networks"] = source_snapshots(plan, numbers[:needed])
        if arm.needs_references:
            references = source_snapshots(plan, numbers)
            recipe["references"] = [own for own, _ in references]
            inputs["references"] = [path for _, path in references]
        if arm.needs_prior:
            groups, _ = collect_filters.source_groups(plan)
            chosen = fit_priors.chosen_densities(plan.workspace, groups, arm.prior, config)
            recipe["priors"] = {group: density.digest for group, density in chosen.items()}
            inputs["priors"] = {group: density.path for group, density in chosen.items()}
            inputs["densities"] = {group: density.options for group, density in chosen.items()}
            inputs["groups"] = groups
        if arm.image_model is not None:
            inputs["image_model"] = image_models[arm.image_model]
            recipe["image_model"] = image_models[arm.image_model].digest
        if arm.update_from is not None:
            inputs["updated"] = find_updatable(arm.update_from, plan.target_network(arm.network or config.network))
            recipe["update_from"] = inputs["updated"].digest
        return cls(recipe, **inputs)

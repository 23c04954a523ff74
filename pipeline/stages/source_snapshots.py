"""The last snapshots of a study's source networks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.execution.unit import require_done
from pipeline.stages import train_source
from pipeline.stages.study_plan import StudyPlan
from pipeline.training.source_network import snapshot_name


def source_snapshots(plan: StudyPlan, numbers: Iterable[int]) -> list[tuple[str, Path]]:
    """Finds digest and last snapshot of source networks, trained here or taken from a pack.

    Raises:
        WorkspaceError: a network is not trained.
    """
    last = snapshot_name(plan.config.source_training.cycles - 1)
    found = []
    for number in numbers:
        key = train_source.network_key(number)
        own = require_done(plan.workspace, train_source.STAGE, key)["digest"]
        found.append((own, plan.workspace.unit_folder(train_source.STAGE, key) / last))
    return found

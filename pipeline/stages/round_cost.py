"""What a round of self-training costs: trainings, before any of them is planned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data.errors import GraftError
from data.splits import Split
from pipeline.config.study import StudyConfig
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.stages.target_cells import reading_folds, target_cells
from pipeline.storage.workspace import Workspace


@dataclass(frozen=True)
class RoundCost:
    """Of one arm.

    Attributes:
        arm: its name.
        rounds: most rounds.
        trainings: of one round, over all sizes, repeats, folds and members: those by which the round is chosen, and
            those of the models that keep it. Fewer where arms share them or keep an earlier round.
    """

    arm: str
    rounds: int
    trainings: int


def round_costs(config: StudyConfig, workspace: Workspace) -> Iterator[RoundCost]:
    """Yields the costs of all arms with self-training, as far as the patients are counted.

    Where `check` has not drawn the patients, their number is that of the configuration; nothing is yielded if that has
    none.
    """
    plan = _counted(config, workspace)
    if plan is None:
        return
    for name, arm in config.target_training.arms.items():
        if not arm.rounds:
            continue
        learners = set()
        for cell in target_cells(plan, name):
            sets = [*(fold.learned_from for fold in cell.folds), *([] if cell.final is None else [cell.final])]
            inner = config.target_training.inner_folds
            folds = [own.learned_from for p in sets for own in reading_folds(p, inner, cell.repeat, config.seed)]
            learners |= {(cell.n, cell.repeat, patients) for patients in (*sets, *folds)}
        yield RoundCost(name, arm.rounds, len(learners) * arm.members)


def _counted(config: StudyConfig, workspace: Workspace) -> StudyPlan | None:
    """The plan of the study, or one of nameless patients."""
    try:
        return read_plan(config, workspace)
    except GraftError:
        target = config.target
        number = target.pool if target.pool_cases is None else len(target.pool_cases)
        if number is None:
            return None
        pool: dict[str, tuple[str, ...]] = {f"{k:04d}": () for k in range(number)}
        test = pool if target.cross_validated else {"test": ()} if target.tested else {}
        return StudyPlan(Split({}, pool, test), {}, {}, config, workspace)

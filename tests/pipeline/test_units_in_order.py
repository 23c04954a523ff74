"""Units of several kinds, some of which need others: what comes when, and what a failure stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import DataError
from pipeline.execution.in_process import InProcessBackend
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stage import run_in_order
from pipeline.execution.unit import Unit, is_done
from pipeline.execution.units import Execution
from pipeline.stages.target_units import TargetPlan, in_levels
from pipeline.storage.workspace import Workspace


def work(folder: Path, progress: ProgressFile, *, log: Path, name: str, fails: bool) -> None:
    with log.open("a") as stream:
        stream.write(f"{name}\n")
    if fails:
        raise DataError("the loss is nan")
    (folder / "out").write_text(name)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def unit(workspace: Workspace, stage: str, key: str, *needs: Unit, fails: bool = False) -> Unit:
    arguments = {"log": workspace.root.parent / "log", "name": key, "fails": fails}
    return Unit(stage, key, {"key": key}, work, arguments, needs=tuple(own.name for own in needs))


@pytest.fixture
def plan(workspace: Workspace) -> TargetPlan:
    """Two rounds of self-training of one arm, and an arm whose training fails."""
    first = unit(workspace, "train-target", "a0")
    bad = unit(workspace, "train-target", "b0", fails=True)
    taught = unit(workspace, "predict-unlabelled", "pa0", first)
    second = unit(workspace, "train-target", "a1", taught, first)
    more = unit(workspace, "predict-unlabelled", "pa1", second)
    third = unit(workspace, "train-target", "a2", more, second)
    found = TargetPlan()
    found.trainings = {own.key: own for own in (third, bad, second, first)}
    found.pseudo_labels = {own.key: own for own in (more, taught)}
    found.predictions = {
        "a": unit(workspace, "predict-test", "a", third),
        "b": unit(workspace, "predict-test", "b", bad),
    }
    return found


def test_every_round_comes_after_what_it_learns_from(plan: TargetPlan, workspace: Workspace) -> None:
    levels = in_levels(plan.learning(workspace))
    # The last step of a kind knows all of it.
    assert [sorted(own.key for own in level) for level in levels] == [
        ["a0", "b0"], ["pa0"], ["a0", "a1", "b0"], ["pa0", "pa1"], ["a0", "a1", "a2", "b0"],
    ]  # fmt: skip


def test_what_fails_runs_once_and_stops_only_what_needs_it(plan: TargetPlan, workspace: Workspace) -> None:
    failed: set[tuple[str, str]] = set()
    execution = Execution(1, 1, InProcessBackend())
    for attempt in range(2):
        levels = in_levels(plan.learning(workspace))
        run = run_in_order((*levels, *plan.in_order()), workspace, execution, failed)
        # Each unit counts once, however often its kind came; on the second time, what failed is left out.
        assert [outcome.key for outcome in run.failures] == (["b0"] if attempt == 0 else [])
        assert len(run.outcomes) == len({outcome.key for outcome in run.outcomes})
        assert failed == {("train-target", "b0"), ("predict-test", "b")}
    log = (workspace.root.parent / "log").read_text().split()
    assert sorted(log) == ["a", "a0", "a1", "a2", "b0", "pa0", "pa1"]
    assert log.index("pa0") < log.index("a1") < log.index("pa1") < log.index("a2") < log.index("a")


def test_only_what_something_unfinished_needs_is_learned_again(plan: TargetPlan, workspace: Workspace) -> None:
    execution = Execution(1, 1, InProcessBackend())
    run_in_order((*in_levels(plan.learning(workspace)), *plan.in_order()), workspace, execution)
    assert is_done(plan.predictions["a"], workspace)

    def delete(own: Unit) -> None:
        (workspace.unit_folder(own.stage, own.key) / "out").unlink()

    for own in (plan.trainings["a0"], plan.pseudo_labels["pa0"], plan.trainings["a1"]):
        delete(own)
    del plan.predictions["b"]
    assert {own.key for own in plan.learning(workspace)} == {"a2", "pa1"}
    # The prediction needs the last round, which is there; the last round needs nothing any more.
    delete(plan.predictions["a"])
    assert {own.key for own in plan.learning(workspace)} == {"a2", "pa1"}
    # Without it, everything that it goes back to is needed.
    delete(plan.trainings["a2"])
    delete(plan.pseudo_labels["pa1"])
    assert {own.key for own in plan.learning(workspace)} == {"a0", "pa0", "a1", "pa1", "a2"}

"""The threads of units that run at a time on the cores of one machine."""

from __future__ import annotations

import pytest

from pipeline.execution import processes
from pipeline.execution.units import Execution


@pytest.mark.parametrize(
    ("limit", "jobs", "threads"),
    [
        (None, 1, 8),
        (None, 2, 4),
        (None, 16, 1),
        ("3", 1, 3),
        ("3", 4, 2),
        ("64", 1, 8),
        # What OpenMP itself does not understand limits nothing.
        ("0", 1, 8),
        ("many", 1, 8),
        ("", 1, 8),
    ],
)
def test_units_share_the_cores_within_the_variable(
    limit: str | None, jobs: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert Execution.sharing_cores(jobs, 100).threads == threads


def test_jobs_without_work_take_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Execution.sharing_cores(4, 1) == Execution(1, 8, Execution().backend)

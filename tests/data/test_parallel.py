"""Workers serve several calls, and each call means its own folder by a relative path."""

import os
from pathlib import Path

import pytest

from data.parallel import in_workers


@pytest.mark.parametrize("jobs", [1, 2])
def test_relative_paths_begin_where_the_caller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        calls = [(f"file-{number}",) for number in range(4)]
        found = list(in_workers(os.path.abspath, calls, jobs, ordered=True))
        assert found == [str(tmp_path / name / file) for (file,) in calls]

"""The tests test the clone that they lie in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with one test, and no packages but those that the test writes."""
    folder = tmp_path / "clone"
    (folder / "tests").mkdir(parents=True)
    shutil.copy(_ROOT / "pyproject.toml", folder)
    shutil.copy(_ROOT / "tests" / "conftest.py", folder / "tests")
    (folder / "tests" / "test_one.py").write_text("def test_one():\n    import data\n    assert data.MINE\n")
    return folder


def pytest_in(clone: Path) -> subprocess.CompletedProcess[str]:
    """Runs plain pytest, with this clone on the path as an editable installation would put it there."""
    command = [sys.executable, "-c", "import sys, pytest; sys.path.remove(''); sys.exit(pytest.main(['-q']))"]
    return subprocess.run(
        command, cwd=clone, env=os.environ | {"PYTHONPATH": str(_ROOT)}, capture_output=True, text=True, check=False
    )


def test_another_clone_s_packages_are_refused(clone: Path) -> None:
    run = pytest_in(clone)
    assert run.returncode == 2
    assert "`data` would be imported from" in run.stdout + run.stderr
    assert str(_ROOT) in run.stdout + run.stderr


def test_plain_pytest_imports_its_own_clone(clone: Path) -> None:
    for package in ("data", "models", "preprocessing", "pipeline", "graft"):
        (clone / package).mkdir()
        (clone / package / "__init__.py").write_text("MINE = True\n")
    run = pytest_in(clone)
    assert run.returncode == 0, run.stdout + run.stderr

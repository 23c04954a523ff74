"""What `import graft` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import graft

ROOT = Path(__file__).parents[2]


def test_every_public_name_is_there() -> None:
    assert sorted(graft.__all__) == list(graft.__all__) == dir(graft)
    for name in graft.__all__:
        value = getattr(graft, name)
        assert value.__doc__, name


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'load'; it has Case, .*load_model"):
        _ = graft.load


def test_importing_takes_no_time_and_no_torch() -> None:
    code = (
        "import sys, time; start = time.process_time(); import graft; graft.GraftError\n"
        "print(time.process_time() - start, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, *loaded = run.stdout.split()
    assert loaded == ["False", "False"]
    assert float(seconds) < 0.5


def test_the_package_is_typed() -> None:
    assert (Path(graft.__file__).parent / "py.typed").is_file()

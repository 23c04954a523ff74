"""A real SLURM on this machine, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "single_node_slurm.sh"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "munged")

Slurm = Callable[..., str]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Runs commands of SLURM and returns what they print."""
    pytest.importorskip("submitit")
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"SLURM is not installed here: no {missing[0]} (Debian's packages slurm-wlm and munge)")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run(["bash", SCRIPT, "start", folder], capture_output=True, text=True, check=False)
    if started.returncode:
        pytest.skip(f"SLURM does not start here: {started.stderr.strip()}")
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")

    def ask(*words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout

    try:
        yield ask
    finally:
        subprocess.run(["scancel", "--me"], check=False, timeout=30)
        subprocess.run(["bash", SCRIPT, "stop", folder], check=True)
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before

"""Provenance: commands, versions, inputs, run times and memory of a study."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import WorkspaceError
from data.stored_record import NewerFormatError, read_record
from pipeline.execution.provenance_record import InputFacts, Machine, Provenance, StageFacts
from pipeline.storage.atomic import write_record
from pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.execution.unit import Unit
    from pipeline.execution.units import StageRun

_PACKAGES = (
    "torch", "monai", "nibabel", "SimpleITK", "numpy", "scipy", "scikit-learn", "nilearn", "joblib", "pydantic",
    "safetensors", "matplotlib",
)  # fmt: skip


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            # A machine that only trains may lack the packages that read raw scans.
            found[package] = "not installed"
    return found


def graft_version() -> str:
    """Version of the installed distribution."""
    try:
        return importlib.metadata.version("graft-seg")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_commit() -> str:
    """Commit of the checkout that the code runs from, marked if files differ; empty outside a checkout."""
    folder = Path(__file__).parent
    try:
        run = [
            ["git", "-C", str(folder), *words] for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
        commit, changes = (subprocess.run(c, capture_output=True, text=True, timeout=10, check=True) for c in run)
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.stdout.strip() + (" with uncommitted changes" if changes.stdout.strip() else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory_gb() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_provenance(workspace: Workspace) -> Provenance:
    """Returns the record so far; an empty one if it is missing or damaged.

    Raises:
        NewerFormatError: a newer version wrote it.
    """
    try:
        return read_record(workspace.provenance, Provenance)
    except NewerFormatError:
        raise
    except WorkspaceError:
        return Provenance()


def _device_name(device: str) -> str:
    """Names the device, with the model of a GPU."""
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if torch.cuda.is_available() else device


def start_provenance(workspace: Workspace, *, seed: int, device: str) -> None:
    """Writes versions, machine and command; keeps the inputs, stages and training device of earlier commands.

    The requested `device` is replaced by the one that a stage trained on (`record_stage`).
    """
    record = read_provenance(workspace)
    trained_on = [stage.device for stage in record.stages.values() if stage.device]
    machine = Machine(
        cpu=_processor(),
        cpu_count=os.cpu_count(),
        memory_gb=_memory_gb(),
        platform=platform.platform(),
        device=trained_on[-1] if trained_on else device,
    )
    now = {
        "started": record.started or _now(),
        "graft_version": graft_version(),
        "git_commit": _git_commit(),
        "command": " ".join(["graft", *sys.argv[1:]]),
        "seed": seed,
        "machine": machine,
        "versions": _versions(),
        "inputs": record.inputs,
        "stages": record.stages,
    }
    _write(workspace, record.model_copy(update=now))


def _write(workspace: Workspace, record: Provenance) -> None:
    write_record(workspace.provenance, record)


def record_inputs(workspace: Workspace, inputs: Mapping[str, InputFacts]) -> None:
    """Writes the facts of every dataset."""
    _write(workspace, read_provenance(workspace).model_copy(update={"inputs": dict(inputs)}))


def record_stage(workspace: Workspace, stage: str, units: Sequence[Unit], run: StageRun) -> None:
    """Writes the run time of a stage and the memory of its largest process.

    Work time and memory come from the units' markers, so they are right for stages that were interrupted and resumed;
    wall time adds up over the commands that did some work.
    """
    from pipeline.execution.unit import read_marker

    markers = [read_marker(workspace.unit_folder(unit.stage, unit.key)) for unit in units]
    finished = [m for m in markers if m is not None]
    record = read_provenance(workspace)
    before, machine = record.stages.get(stage, StageFacts()), record.machine
    worked = run.count("done") + run.count("failed") > 0
    fresh = run.count("reused") == 0
    # Units that train carry their resolved device; reused ones keep the device that they were trained on.
    device = next((_device_name(str(u.arguments["device"])) for u in units if "device" in u.arguments), None)
    if device is None or not run.count("done"):
        device = before.device
    else:
        machine = machine.model_copy(update={"device": device})
    precisions = sorted(
        {str(m["recipe"]["computing"]["precision"]) for m in finished if "computing" in m.get("recipe", {})}
    )
    facts = StageFacts(
        wall_seconds=round((0.0 if fresh else before.wall_seconds) + (run.wall_seconds if worked or fresh else 0.0), 2),
        work_seconds=round(sum(m["seconds"] for m in finished), 2),
        peak_memory_gb=round(max((m["peak_memory"] for m in finished), default=0) / 1e9, 3),
        units=len(units),
        units_done=run.count("done"),
        units_reused=run.count("reused"),
        units_failed=run.count("failed"),
        **({"device": device} if device else {}),
        **({"precision": ", ".join(precisions)} if precisions else {}),
    )
    stages = {**record.stages, stage: facts}
    _write(workspace, record.model_copy(update={"machine": machine, "stages": stages, "finished": _now()}))

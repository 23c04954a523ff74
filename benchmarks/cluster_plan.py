"""What 2,000 units cost before and beside their work: planning, `graft status`, and the overhead of each in a job.

`python benchmarks/cluster_plan.py` plans `infer` of a study with as many arms, sizes and repeats, on scans of noise,
with its source networks marked as done; measures `graft status` on 2,000 units, in a process of its own; and runs units
that do nothing: together in one job of submitit's local cluster, for comparison in a worker of this machine, and each
in its own job, one at a time. Where SLURM is installed, these are jobs of a SLURM that has this machine alone, measured
like its own empty jobs; else they are of the local cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import yaml

from pipeline.config.reading import read_config
from pipeline.execution.backend import Backend
from pipeline.execution.backend_options import Cluster, SubmititOptions
from pipeline.execution.cluster.slurm import Slurm
from pipeline.execution.cluster.submitit_backend import SubmititBackend
from pipeline.execution.ledger import Ledger
from pipeline.execution.local_backend import LocalBackend
from pipeline.execution.progress import ProgressFile
from pipeline.execution.unit import MARKER, Unit
from pipeline.execution.units import Execution, run_units
from pipeline.stages.infer import units_to_run
from pipeline.stages.resources import Resources
from pipeline.stages.sequence import run_stages
from pipeline.stages.stale_results import stage_module
from pipeline.storage.atomic import write_json
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace

SLURM = Path(__file__).parents[1] / "tests" / "cluster" / "single_node_slurm.sh"
IMPORTED_BY_A_JOB = "import submitit.core._submit, pipeline.execution.cluster.units_job"
PATIENTS, REPEATS = 28, 5
SIZES = [5, 10, 15, 20]


def write_scans(folder: Path) -> None:
    """Writes a dataset of noise in MSD layout."""
    generator = np.random.default_rng(0)
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    training = []
    for number in range(PATIENTS):
        label = np.zeros((16, 16, 16), np.uint8)
        label[4:9, 4:9, 4:9] = 1
        image = generator.normal(100, 20, label.shape).astype(np.float32) + 80 * label
        name = f"case_{number:02d}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / name)
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / "labelsTr" / name)
        training.append({"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"})
    about = {"name": "noise", "modality": {"0": "MR"}, "labels": {"0": "background", "1": "cube"}, "training": training}
    (folder / "dataset.json").write_text(json.dumps(about))


def write_study(folder: Path, units: int) -> Path:
    """Writes a study whose `infer` has about so many units."""
    # An arm of its own rate has a training, a prediction and a folder at each size in each repeat.
    arms = max(round(units / (3 * len(SIZES) * REPEATS)), 1)
    study = {
        "name": "plan",
        "datasets": {"a": {"path": str(folder / "scans"), "modality": "mr", "foreground": ["cube"]}},
        "source": {"dataset": "a", "patients": 4},
        "target": {"dataset": "a", "pool": 20, "test": 4},
        "source_training": {"networks": 2},
        "patches": {"size": [16, 16, 16]},
        "target_training": {
            "arms": {
                f"arm_{k}": {"init": "source", "prior": "none", "posterior": "point", "peak_rate": 0.001 * (k + 1)}
                for k in range(arms)
            },
            "sizes": SIZES,
            "repeats": REPEATS,
        },
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def measure_planning(folder: Path, units: int) -> None:
    """Prints how long planning takes and how much memory it adds."""
    write_scans(folder / "scans")
    config = read_config(write_study(folder, units), workspace=folder / "workspace")
    resources = Resources(jobs=2, device="cpu")
    workspace = run_stages([Stage.CHECK], config, resources)
    run_stages([Stage.PREPROCESS], config, resources)
    for unit in stage_module(Stage.TRAIN_SOURCE).units(config, workspace, resources):
        place = workspace.unit_folder(unit.stage, unit.key)
        place.mkdir(parents=True)
        write_json(place / MARKER, {"digest": unit.digest, "files": {}, "recipe": unit.recipe})
    before = _peak_mb()
    begin = time.perf_counter()
    planned = units_to_run(config, workspace, resources)
    seconds = time.perf_counter() - begin
    print(f"planning {len(planned)} units of infer: {seconds:.1f} s, {_peak_mb() - before:.0f} MB more")


def measure_status(folder: Path, units: int) -> None:
    """Prints how long `graft status` takes, with its start."""
    workspace = Workspace(folder / "status")
    own = [Unit("train-target", f"n05/repeat-0/{k}", {"k": k}, do_nothing) for k in range(units)]
    Ledger(workspace, "train-target").begin(own, own)
    for unit in own[: units // 2]:
        place = workspace.unit_folder(unit.stage, unit.key)
        place.mkdir(parents=True)
        write_json(place / MARKER, {"digest": unit.digest, "files": {}, "seconds": 5.0, "recipe": unit.recipe})
    begin = time.perf_counter()
    command = [sys.executable, "-m", "pipeline.cli", "status", str(workspace.root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"graft status of {units} units: {time.perf_counter() - begin:.2f} s")


def do_nothing(folder: Path, progress: ProgressFile) -> None:
    """A unit without work."""


def measure_overhead(folder: Path, units: int) -> None:
    """Prints what a unit costs beside its work, in a job and in a worker."""
    job = SubmititBackend(SubmititOptions(cluster=Cluster.LOCAL, poll_seconds=0.5, concurrent_jobs=1))
    backends: dict[str, Backend] = {"in a job": job, "in a worker": LocalBackend()}
    for where, backend in backends.items():
        seconds = []
        for count in (units, 10 * units):
            workspace = Workspace(folder / f"{where}-{count}")
            own = [Unit("nothing", str(k), {}, do_nothing) for k in range(count)]
            begin = time.perf_counter()
            assert run_units("nothing", own, workspace, Execution(2, 1, backend)).count("done") == count
            seconds.append(time.perf_counter() - begin)
        # What all units share, imports among it, is in both.
        print(f"overhead of a unit {where}: {1000 * (seconds[1] - seconds[0]) / (9 * units):.1f} ms")


@contextmanager
def own_slurm(folder: Path) -> Iterator[bool]:
    """Starts a SLURM of this machine alone; False where it is not installed."""
    if any(shutil.which(name) is None for name in ("slurmctld", "slurmd", "sbatch", "munged")):
        yield False
        return
    subprocess.run(["bash", SLURM, "start", folder], check=True)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        yield True
    finally:
        subprocess.run(["bash", SLURM, "stop", folder], check=True)
        del os.environ["SLURM_CONF"]


def measure_jobs(folder: Path, jobs: int) -> None:
    """Prints what a unit costs that has a job of its own, beside its work and the imports of the job."""
    imports = min(_seconds_of([sys.executable, "-c", IMPORTED_BY_A_JOB]) for _ in range(3))
    with own_slurm(folder / "slurm") as there:
        # One at a time: each has the node for itself, or is the only process.
        options = SubmititOptions(
            cluster=Cluster.SLURM if there else Cluster.LOCAL,
            poll_seconds=1.0 if there else 0.1,
            chunk_minutes=0,
            memory_gb=0.5,
            concurrent_jobs=100 if there else 1,
            additional={"exclusive": True} if there else {},
        )

        def units_in_jobs(count: int) -> None:
            workspace = Workspace(folder / f"jobs-{count}")
            own = [Unit("nothing", str(k), {}, do_nothing) for k in range(count)]
            run = run_units("nothing", own, workspace, Execution(1, 1, SubmititBackend(options)))
            assert run.count("done") == count, run.failures

        whole = _seconds_for_each(units_in_jobs, jobs)
        empty = _seconds_for_each(_empty_jobs, jobs) if there else 0.0
    where = f"SLURM, whose empty job takes {empty:.2f} s" if there else "submitit's local cluster"
    print(f"overhead of a unit in a job of its own ({where}): {whole - imports:.2f} s, and {imports:.2f} s of imports")


def _seconds_for_each(do: Callable[[int], None], number: int) -> float:
    """Seconds of each, without what all share: from so many and four times as many."""
    seconds = []
    for count in (number, 4 * number):
        begin = time.perf_counter()
        do(count)
        seconds.append(time.perf_counter() - begin)
    return (seconds[1] - seconds[0]) / (3 * number)


def _empty_jobs(count: int) -> None:
    command = ["sbatch", "--exclusive", "--output=/dev/null", "--wrap=srun true"]
    for _ in range(count):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    while Slurm().queue() != []:
        time.sleep(0.2)


def _seconds_of(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - begin


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measures all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=4, help="jobs, and four times as many, to measure those by")
    arguments = parser.parse_args()
    units = arguments.units
    with tempfile.TemporaryDirectory() as name:
        measure_planning(Path(name), units)
        measure_status(Path(name), units)
        measure_overhead(Path(name), max(units // 40, 1))
        measure_jobs(Path(name), arguments.jobs)


if __name__ == "__main__":
    main()

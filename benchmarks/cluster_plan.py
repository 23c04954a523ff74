"""What 2,000 units cost before and beside their work: planning, `graft status`, and the overhead of each in a job.

`python benchmarks/cluster_plan.py` plans `infer` of a study with as many arms, sizes and repeats, on scans of noise,
with its source networks marked as done; measures `graft status` on 2,000 units, in a process of its own; and runs units
that do nothing, in one job of submitit's local cluster and, for comparison, in a worker of this machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import yaml

from pipeline.config.reading import read_config
from pipeline.execution.backend import Backend
from pipeline.execution.backend_options import Cluster, SubmititOptions
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


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measures all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=2000)
    units = parser.parse_args().units
    with tempfile.TemporaryDirectory() as name:
        measure_planning(Path(name), units)
        measure_status(Path(name), units)
        measure_overhead(Path(name), max(units // 40, 1))


if __name__ == "__main__":
    main()

"""What do Monte-Carlo dropout and bayesian-torch's layers give, on the same network, and what do they cost?

`python benchmarks/uncertainty_peers.py --dataset DIR --source NAME --target NAME --output DIR`, with the same options
and `--output` as `benchmarks/filter_starts.py`, whose source networks it takes (or trains). All arms start at random,
have the same number of steps, and are read as they are:

- `random`: one pass; `random_ensemble`: three networks;
- `mc_dropout`: channel dropout in every block of the same network, active in predictions;
- `bayesian_torch`: all its convolutions are those of bayesian-torch, which has to be importable, as it comes;
  `bayesian_torch_started`: its means start as the network's weights do, its deviations as 5 % of them;
- `gaussian`: mean-field under the isotropic Gaussian of the source's filters; `dwp`: under the VAE;
- `swag`: around a network that starts at random.

Dice, ECE and NLL near the boundary, and seconds of a training step and of one pass over a scan as multiples of
`random`'s, from the same run: they mean something if nothing else ran, with `--jobs 1`. A run that was stopped goes on.
Without a dataset there is nothing to do.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from filter_starts import TARGET, parser, prepared_sources, study
from result_tables import case_rows, dice_table
from study_runs import arguments_of, run_stages

from pipeline.arms.arm_record import PREDICTIONS, TRAININGS
from pipeline.config.reading import read_config
from pipeline.evaluation.calibration_tables import CALIBRATION, CalibrationRow
from pipeline.evaluation.csv_rows import read_rows
from pipeline.execution.unit import read_marker
from pipeline.report.study_files import StudyFiles
from pipeline.stages.study_plan import read_plan
from pipeline.storage.workspace import Workspace

TEMPERATURE = 1e-2
"""T of Graft's own arms."""


def arms(arguments: argparse.Namespace, kl_weight: float) -> dict[str, dict[str, Any]]:
    """The arms; those of bayesian-torch where it is installed."""
    network = {"name": "residual_unet", "channels": arguments.channels, "encoder_blocks": arguments.blocks}
    shared = {"network": network, "draws": arguments.draws}

    def other(factory: str, **options: Any) -> dict[str, Any]:
        named = {"factory": f"stochastic_networks:{factory}", "options": {**shared, **options}}
        return {"preset": "random", "network": named}

    of_peer = {"kl_weight": kl_weight, "layer": "Reparameterization"}
    found = {
        "random": {},
        "random_ensemble": {"preset": "random", "members": 3},
        "mc_dropout": other("dropout", rate=arguments.dropout),
        "bayesian_torch": other("variational", delta=0.0, **of_peer),
        "bayesian_torch_started": other("variational", delta=0.05, **of_peer),
        "gaussian": {"draws": arguments.draws},
        "dwp": {"draws": arguments.draws},
        "swag": {"init": "random", "draws": arguments.draws},
    }
    if importlib.util.find_spec("bayesian_torch") is None:
        print("bayesian-torch is not installed: without its arms")
        found = {name: own for name, own in found.items() if not name.startswith("bayesian_torch")}
    return found


def voxels_of_training(sources: Path, n: int) -> float:
    """Voxels of the scans of n patients, on average."""
    plan = read_plan(read_config(sources.with_suffix(".yaml")), Workspace(sources))
    sizes = [sum(math.prod(case.shape) for case in plan.cached("pool", patient)) for patient in plan.patients("pool")]
    return n * float(np.mean(sizes))


def seconds(workspace: Path, kind: str, keys: Iterable[str]) -> float:
    """Mean seconds of work of some units."""
    markers = [read_marker(workspace / kind / key) for key in sorted(set(keys))]
    return float(np.mean([marker["seconds"] for marker in markers if marker is not None]))


def table(workspace: Path, found: dict[str, dict[str, Any]], draws: int) -> str:
    """Calibration and costs of each arm."""
    units = StudyFiles(workspace).units
    rows = read_rows(workspace / "results" / CALIBRATION, CalibrationRow)
    costs = {}
    for name, own in found.items():
        records = [unit.record for unit in units if unit.arm == name]
        passes = own.get("members", 1) if name.startswith("random") else draws
        training = seconds(workspace, TRAININGS, (key for record in records for key in record.trainings))
        prediction = seconds(workspace, PREDICTIONS, (key for record in records for key in record.predictions))
        costs[name] = (training, prediction / passes)
    lines = ["| arm | ECE | NLL | a step | a pass |", "|---|---|---|---|---|"]
    for name, (training, prediction) in costs.items():
        own_rows = [row for row in rows if row.arm == name]
        ece, nll = (float(np.mean([getattr(row, key) for row in own_rows])) for key in ("ece", "nll"))
        relative = (training / costs["random"][0], prediction / costs["random"][1])
        lines.append(f"| {name} | {ece:.3f} | {nll:.3f} | {relative[0]:.2f} | {relative[1]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__, "filter-starts")
    options.add_argument("--draws", type=int, default=8, help="passes of a prediction")
    options.add_argument("--dropout", type=float, default=0.1, help="rate of the Monte-Carlo dropout")
    arguments = arguments_of(options)
    # The commands find the networks there.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    sources = prepared_sources(arguments)
    found = arms(arguments, TEMPERATURE / voxels_of_training(sources, arguments.n))
    for steps in arguments.steps:
        path = study(arguments, f"uncertainty-{steps}", steps, found)
        workspace = run_stages(path, sources, TARGET, arguments.jobs)
        print(f"\n{steps} steps\n\n{dice_table(case_rows(workspace), arguments.n, ['random'], arguments.seed)}\n")
        print(f"{table(workspace, found, arguments.draws)}\n", flush=True)


if __name__ == "__main__":
    main()

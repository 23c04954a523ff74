"""What do scans without annotation give to an arm that learns from its own predictions in them?

`python benchmarks/self_training.py --dataset DIR --source NAME --target NAME --output DIR` trains source networks, and
then learns n annotated patients of the target with

- `random`, `fine_tune` and the default arm, which use no other scans;
- `fine_tune_self_training`: a plain teacher, whose predictions in unlabelled scans weigh the same everywhere;
- `self_training`: the default arm as its own teacher, each voxel weighted by the mutual information of its posterior;
- `self_training_unweighted`: the same without the weights, so that the difference is what they bring.

The unlabelled scans are annotated ones whose labels are withheld (`target.unlabelled.withhold_labels`), of patients who
are in neither source, pool nor test set. The first table has the Dice on the test patients with paired differences; the
second one, for each arm, the rounds that were kept and the time of all that it needs: what arms share counts for each.

Every step is a command as a user types it, and a run that was stopped goes on. Without a dataset there is nothing to
do.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from result_tables import case_rows, dice_table
from study_runs import arguments_of, prepare, run_stages, source_training
from transfer_studies import parser_of_transfer, transfer_study

from pipeline.arms.arm_record import read_arm
from pipeline.arms.presets import DEFAULT_ARM
from pipeline.config.reading import read_config
from pipeline.execution.unit import Unit, read_marker
from pipeline.stages.resources import Resources
from pipeline.stages.target_plan import plan_target
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace

REFERENCES = ("random", "fine_tune", "fine_tune_self_training", DEFAULT_ARM, "self_training_unweighted")
"""Arms that the others are compared with."""


def arms(rounds: int) -> dict[str, dict[str, Any]]:
    """The arms, students with up to so many rounds."""
    taught = {"kind": "self_training", "rounds": rounds}
    plain = {**taught, "weighting": "none"}
    return {
        "random": {},
        "fine_tune": {},
        "fine_tune_self_training": {"unlabelled": {**plain, "average_from": 1.0}},
        DEFAULT_ARM: {},
        "self_training": {"unlabelled": taught},
        "self_training_unweighted": {"preset": "self_training", "unlabelled": plain},
    }


def study(arguments: argparse.Namespace) -> Path:
    """Writes the study."""
    sections = {
        "target": {"unlabelled": {"cases": arguments.unlabelled, "withhold_labels": True}},
        "source_training": source_training(arguments.networks, arguments.cycles, arguments.steps),
        "target_training": {"arms": arms(arguments.rounds), "steps": arguments.target_steps},
    }
    return transfer_study(arguments, "self-training", sections)


def cost_table(path: Path, workspace: Workspace) -> str:
    """The rounds that each arm kept, and the minutes of all units that it needs, in a repeat."""
    config = read_config(path)
    plan = plan_target(config, workspace, Resources(jobs=1, device="cpu"))
    learning = {**plan.trainings, **plan.pseudo_labels}
    units = {unit.name: unit for unit in (*learning.values(), *(own for kind in plan.in_order() for own in kind))}
    lines = ["| arm | rounds kept | trainings in a repeat | minutes in a repeat |", "|---|---|---|---|"]
    for arm in config.target_training.arms:
        own = [unit for key, unit in plan.arms.items() if key.startswith(f"{arm}/")]
        kept = Counter(read_arm(workspace.unit_folder(unit.stage, unit.key)).kept_rounds[-1:] for unit in own)
        rounds = ", ".join(f"{number[0]}: {count}" for number, count in sorted(kept.items()) if number)
        needed = {name: unit for unit in own for name, unit in _all_needed(unit, units).items()}
        seconds = sum(_seconds(unit, workspace) for unit in needed.values())
        trainings = sum(unit.key in plan.trainings for unit in needed.values())
        lines.append(f"| {arm} | {rounds or '–'} | {trainings / len(own):g} | {seconds / 60 / len(own):.1f} |")
    return "\n".join(lines)


def _all_needed(unit: Unit, units: Mapping[tuple[str, str], Unit]) -> dict[tuple[str, str], Unit]:
    """A unit, and all that it needs."""
    found: dict[tuple[str, str], Unit] = {}
    waiting = [unit]
    while waiting:
        own = waiting.pop()
        if own.name not in found:
            found[own.name] = own
            waiting += [units[name] for name in own.needs if name in units]
    return found


def _seconds(unit: Unit, workspace: Workspace) -> float:
    marker = read_marker(workspace.unit_folder(unit.stage, unit.key))
    return 0.0 if marker is None else float(marker["seconds"])


def main() -> None:
    own = {"spacing": 1.0, "patch": [32, 48, 32], "batch": 2}
    parser = parser_of_transfer(__doc__, "self-training", **own)
    parser.add_argument("--unlabelled", type=int, default=60, help="scans whose labels are withheld")
    parser.add_argument("--rounds", type=int, default=1, help="most rounds of self-training")
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--cycles", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400, help="in each cycle of a source network")
    parser.add_argument("--target-steps", type=int, default=250)
    arguments = arguments_of(parser)
    path = study(arguments)
    workspace = run_stages(path, prepare(path), tuple(Stage), arguments.jobs)
    print(dice_table(case_rows(workspace), arguments.n, REFERENCES, arguments.seed))
    print(f"\n{cost_table(path, Workspace(workspace))}", flush=True)


if __name__ == "__main__":
    main()

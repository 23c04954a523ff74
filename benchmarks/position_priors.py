"""Do priors that know positions, from sources that share positions, help the target more than a start does?

`python benchmarks/position_priors.py --dataset DIR --source NAME --target NAME --output DIR` trains two kinds of source
on the same patients, with the same number of steps for each network: branches of one trunk, and networks that start at
random, each alone. From them, n patients of the target are learned with

- `random`, and `fine_tune` of a network that trained alone: what a user has without a trunk;
- `fine_tune` of a branch, and `fine_tune_branches`, which starts from the mean of all: the start, without a prior;
- `gaussian_branches`: the same start, and the prior around it; `hierarchical`: its width learned for each layer;
- `displacement` from the branch and from the network alone: the prior of changes.

Several `--temperatures` repeat every arm with a prior, because how hard it pulls is no property of the prior.

Two tables: Dice on the test patients, with paired differences to `random` and to the starts; and as a positive control
what the fitted densities know: nats per filter of a branch that was left out, minus those of the isotropic Gaussian. A
prior that knows nothing there cannot help; one that does need not. With `--rates`, peak rates are tuned out of fold.

Every step is a command as a user types it, and a run that was stopped goes on. Without a dataset there is nothing to
do.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from result_tables import case_rows, dice_table, nats_table
from study_runs import arguments_of, prepare, run_stages, source_training
from transfer_studies import parser_of_transfer, transfer_study, tuning

from pipeline.evaluation.case_row import CaseRow
from pipeline.storage.stage_names import Stage

BRANCHES, ALONE = "branches", "alone"
"""The two kinds of source."""
ARMS = {
    BRANCHES: ("random", "fine_tune", "fine_tune_branches", "gaussian_branches", "hierarchical", "displacement"),
    ALONE: ("fine_tune", "displacement"),
}
REFERENCES = ("random", f"fine_tune ({ALONE})", f"fine_tune_branches ({BRANCHES})")
"""Arms that the others are compared with."""
AROUND = {"kind": "gaussian", "centre": "branches", "shrinkage": None}
DENSITIES: dict[str, dict[str, Any]] = {
    BRANCHES: {
        "vae": None,
        "branches_isotropic": {**AROUND, "covariance": "isotropic"},
        "branches_low_rank": {**AROUND, "covariance": "low_rank"},
        "displacement_mixture": {"kind": "displacement", "change": {"kind": "gaussian_mixture", "components": 4}},
    },
    ALONE: {"vae": None},
}
"""Densities beside those of the arms, for the positive control."""


def arms(arguments: argparse.Namespace, kind: str) -> dict[str, dict[str, Any]]:
    """The arms of a kind of source; those with a prior once for each temperature."""
    found: dict[str, dict[str, Any]] = {}
    for name in ARMS[kind]:
        if name.startswith(("random", "fine_tune")):
            found[name] = {}
            continue
        for temperature in arguments.temperatures:
            # Without the dot, which has a meaning in `--set`.
            named = f"{name}_T{temperature:g}".replace(".", "p") if len(arguments.temperatures) > 1 else name
            found[named] = {"preset": name, "posterior_temperature": temperature}
    return found


def study(arguments: argparse.Namespace, kind: str, name: str) -> Path:
    """Writes the study of a kind of source."""
    networks, trunk, steps = arguments.networks, arguments.trunk, arguments.steps
    if kind == ALONE:
        # As many steps for each network as the trunk and a branch have together.
        networks, trunk, steps = arguments.alone, 0, arguments.steps + trunk // arguments.cycles
    sections = {
        "patches": {"foreground_share": 0.0},
        "source_training": source_training(networks, arguments.cycles, steps, trunk_steps=trunk),
        # Every branch is left out once.
        "priors": {"densities": DENSITIES[kind], "held_out": "cross", "folds": max(networks, 2)},
        "target_training": {
            "arms": arms(arguments, kind),
            "steps": arguments.target_steps,
            **tuning(arguments.rates),
        },
    }
    return transfer_study(arguments, name, sections)


def dice_rows(workspaces: dict[str, Path]) -> Iterator[CaseRow]:
    """The cases of all arms, each named with the kind of source that it learned from."""
    for kind, workspace in workspaces.items():
        for row in case_rows(workspace):
            yield row if row.arm == "random" else replace(row, arm=f"{row.arm} ({kind})")


def main() -> None:
    parser = parser_of_transfer(__doc__, "position-priors", repeats=3)
    parser.add_argument("--networks", type=int, default=5, help="branches")
    parser.add_argument("--alone", type=int, default=2, help="networks that train alone")
    parser.add_argument("--trunk", type=int, default=400, help="steps of the trunk")
    parser.add_argument("--cycles", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200, help="in each cycle of a branch")
    parser.add_argument("--target-steps", type=int, default=250)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.01])
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="peak rates to tune out of fold")
    arguments = arguments_of(parser)
    prepared = prepare(study(arguments, BRANCHES, "prepared"))
    workspaces = {
        kind: run_stages(study(arguments, kind, kind), prepared, tuple(Stage), arguments.jobs)
        for kind in (BRANCHES, ALONE)
    }
    print(dice_table(dice_rows(workspaces), arguments.n, REFERENCES, arguments.seed))
    for kind, workspace in workspaces.items():
        print(f"\nNats per filter of a network that was left out, {kind}\n\n{nats_table(workspace)}", flush=True)


if __name__ == "__main__":
    main()

"""Is it the size of trained filters, their covariance, or more than that?

`python benchmarks/filter_starts.py --dataset DIR --source NAME --target NAME --output DIR` trains source networks, fits
an isotropic Gaussian, a full one and a VAE to the filters of each group, and learns n patients of the target with

- `random`: no transfer; `fine_tune`: all of it, filters at their places;
- starts without a prior: from draws of the isotropic Gaussian (the size of trained filters, and no shape), of the full
  one (their covariance), and of the VAE (`prior_init`);
- priors with a random start: `gaussian_full`, and `dwp`, which is the published method;
- both: `gaussian_full_prior` and `dwp_prior`, whose means start from draws of the prior.

A claim for the VAE needs both Gaussians beside it. All arms have the same rate and, for each of `--steps`, as many
steps. As a positive control it prints what each density knows of networks that it was not fitted to, and how large the
gradient of the prior is beside that of the data.

Every step is a command as a user types it, and a run that was stopped goes on. Without a dataset there is nothing to
do.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from result_tables import case_rows, dice_table, nats_table
from source_studies import ALL_CASES
from study_runs import arguments_of, prepare, run_stages, source_training
from transfer_studies import parser_of_transfer, transfer_study

from pipeline.report.prior_use import prior_lines
from pipeline.report.study_files import StudyFiles
from pipeline.storage.stage_names import Stage

ARMS: dict[str, dict[str, Any]] = {
    "random": {},
    "isotropic_init": {"preset": "prior_init", "prior": "isotropic"},
    "gaussian_full_init": {"preset": "prior_init", "prior": "gaussian_full"},
    "prior_init": {},
    "gaussian_full": {},
    "gaussian_full_prior": {"preset": "dwp_prior", "prior": "gaussian_full"},
    "dwp": {},
    "dwp_prior": {},
    "fine_tune": {},
}
RIVALS: dict[str, dict[str, Any]] = {
    "gaussian_mixture": {"kind": "gaussian_mixture"},
    "spike_and_slab": {"kind": "spike_and_slab"},
}
"""Densities that are scored alone: is the VAE better because decay has removed filters, or because scales differ?"""
REFERENCES = ("random", "isotropic_init", "gaussian_full_init")
SOURCES, TARGET = (Stage.TRAIN_SOURCE, Stage.COLLECT_FILTERS, Stage.FIT_PRIORS), (Stage.INFER, Stage.EVALUATE)


def study(arguments: argparse.Namespace, name: str, steps: int, arms: dict[str, dict[str, Any]]) -> Path:
    """Writes the study of a number of steps."""
    networks = arguments.networks
    sections = {
        "patches": {"foreground_share": 0.0},
        "source_training": source_training(
            networks, arguments.cycles, arguments.source_steps, validation_cases=ALL_CASES
        ),
        # Every network is left out once.
        "priors": {"held_out": "cross", "folds": max(networks, 2), "densities": RIVALS},
        "target_training": {
            "arms": {
                name: {**own, **({} if name == "fine_tune" else {"peak_rate": arguments.rate})}
                for name, own in arms.items()
            },
            "steps": steps,
        },
        "execution": {"threads": 1},
    }
    return transfer_study(arguments, name, sections)


def prior_table(workspace: Path) -> str:
    """How hard the prior of each arm pulled: its part of the gradient on the means, and whether the KL had settled."""
    lines = ["| arm | prior's part of the gradient | KL settled |", "|---|---|---|"]
    lines += [
        f"| {line['arm']} | {line['share']} | {line['settled']} |" for line in prior_lines(StudyFiles(workspace).units)
    ]
    return "\n".join(lines)


def parser(description: str | None, output: str) -> argparse.ArgumentParser:
    """Options of a study from source networks."""
    found = parser_of_transfer(description, output, pool=40, repeats=10)
    found.add_argument("--networks", type=int, default=4, help="of the source; each is left out once")
    found.add_argument("--cycles", type=int, default=4)
    found.add_argument("--source-steps", type=int, default=250, help="in each cycle of a source network")
    found.add_argument("--steps", type=int, nargs="+", default=[100, 250, 1000], help="on the target")
    found.add_argument("--rate", type=float, default=3e-3, help="peak rate of all arms but fine_tune")
    return found


def prepared_sources(arguments: argparse.Namespace) -> Path:
    """The workspace whose sources and densities all arms share."""
    prepared = prepare(study(arguments, "prepared", arguments.steps[0], ARMS))
    return run_stages(study(arguments, "sources", arguments.steps[0], ARMS), prepared, SOURCES, arguments.jobs)


def main() -> None:
    options = parser(__doc__, "filter-starts")
    options.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="NAME")
    arguments = arguments_of(options)
    sources = prepared_sources(arguments)
    print(f"\nNats per filter of a network that was left out\n\n{nats_table(sources)}\n", flush=True)
    references = [name for name in REFERENCES if name in arguments.arms]
    for steps in arguments.steps:
        path = study(arguments, f"steps-{steps}", steps, {name: ARMS[name] for name in arguments.arms})
        workspace = run_stages(path, sources, TARGET, arguments.jobs)
        print(f"\n{steps} steps\n\n{dice_table(case_rows(workspace), arguments.n, references, arguments.seed)}\n")
        print(f"{prior_table(workspace)}\n", flush=True)


if __name__ == "__main__":
    main()

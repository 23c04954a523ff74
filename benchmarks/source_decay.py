"""Which weight decay of the source networks leaves filters with structure, at no cost in Dice?

`python benchmarks/source_decay.py --dataset DIR --foreground NAME --output DIR` trains the same source network
(patients, seed, steps) once for each kind and strength of decay, and prints for each: Dice on out-of-bag patients,
and group by group the effective dimension of its filters, how much of them is still their random start, and the share
under the norm threshold. A decay is a better default where the Dice is not lower and the effective dimension and the
start are.

Decoupled decay acts by its product with the rates: weights that the data does not push shrink to exp(−Σ rate ·
decay), which is printed too. For other numbers of steps or rates it is this product that carries over, not the
strength.

Every step is a command as a user types it, and a run that was stopped goes on. Without a dataset there is nothing to
do.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from source_studies import out_of_bag_dice, parser_of_sources, source_study
from study_runs import arguments_of, prepare, run_stages

from data.stored_record import read_record
from pipeline.config.reading import read_config
from pipeline.priors.structure_record import FilterStructure
from pipeline.report.filter_files import group_folders
from pipeline.storage.file_names import STRUCTURE, STRUCTURES
from pipeline.storage.stage_names import Stage
from pipeline.training.optimiser import Decay, DecayedWeights
from pipeline.training.schedule import cosine_cycles

DECAYS = (
    "decoupled:1e-4", "decoupled:1", "decoupled:3", "decoupled:3:kernels", "decoupled:10", "l2:1e-3", "l2:1e-4"
)  # fmt: skip
HEAD = ("decay", "exp(−Σ rate · decay)", "Dice", "group", "dimension", "still start", "start left", "under threshold")


def study(arguments: argparse.Namespace, name: str, **optimiser: Any) -> Path:
    """Writes the study of one decay."""
    return source_study(
        arguments,
        name,
        arguments.cycles,
        arguments.steps,
        training={"optimiser": optimiser},
        network={"name": "residual_unet", "channels": arguments.channels, "encoder_blocks": arguments.blocks},
    )


def kept_by_decay(path: Path) -> float:
    """Share of its length that a weight without gradient keeps under decoupled decay."""
    options = read_config(path).source_training
    rates = (
        cosine_cycles(
            step,
            cycle=options.steps_per_cycle,
            peak=options.peak_rate,
            floor=options.floor_rate,
            warm_up=options.warm_up,
        )
        for step in range(options.cycles * options.steps_per_cycle)
    )
    return math.prod(1 - rate * options.optimiser.weight_decay for rate in rates)


def rows(workspace: Path, name: str, kept: str) -> list[tuple[str, ...]]:
    """Rows of the table, a group each; what is true of all groups stands in the first."""
    found: list[tuple[str, ...]] = []
    for folder in group_folders(workspace, STRUCTURES):
        own = read_record(folder / STRUCTURE, FilterStructure)
        shares = (own.still_start, own.start_left, own.under_threshold)
        texts = (f"{100 * share.mean:.1f} %" for share in shares)
        first = ("", "", "") if found else (name, kept, f"{out_of_bag_dice(workspace):.3f}")
        found.append((*first, own.group, f"{own.effective_dimension.mean:.1f}", *texts))
    return found


def main() -> None:
    options = parser_of_sources(__doc__, "source-decay")
    options.add_argument("--decays", nargs="+", default=DECAYS, metavar="KIND:STRENGTH[:WEIGHTS]")
    options.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128])
    options.add_argument("--blocks", type=int, nargs="+", default=[0, 2, 2, 5])
    options.add_argument("--cycles", type=int, default=4)
    options.add_argument("--steps", type=int, default=200, help="in each cycle of a source network")
    arguments = arguments_of(options)
    prepared = prepare(study(arguments, "prepared"))
    table = [HEAD, ("---",) * len(HEAD)]
    for text in arguments.decays:
        kind, strength, *which = text.split(":")
        name = text.replace(":", "-")
        decayed = which[0] if which else DecayedWeights.ALL.value
        optimiser = {"decay": kind, "weight_decay": float(strength), "decayed": decayed}
        path = study(arguments, name, **optimiser)
        workspace = run_stages(path, prepared, (Stage.TRAIN_SOURCE, Stage.COLLECT_FILTERS))
        kept = f"{kept_by_decay(path):.3g}" if kind == Decay.DECOUPLED else "–"
        table += rows(workspace, text.replace(":", " "), kept)
        print("\n".join(f"| {' | '.join(row)} |" for row in table), flush=True)


if __name__ == "__main__":
    main()

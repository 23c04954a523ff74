"""A second source set arrives: BooVAE and its rivals, on held-out filters of both sets.

Compared: the BooVAE update, re-fit on the new set only, elastic weight consolidation (the best of several λ, chosen by
the mean over both sets on these very filters, which favours this rival), a mixture-of-Gaussians latent prior, and the
joint re-fit (the upper bound, which needs the filters of both). Held out is the last half of the source networks of
each workspace, four at most: nats per filter in raw units, last snapshots, no norm threshold. Standard errors are over
these networks; over filters where there is only one.

Run: python benchmarks/incremental_prior.py [WORKSPACE_A WORKSPACE_B] [--group NAME] [--out TABLE.md]
The workspaces have finished `collect-filters` with the same network and grouping. Without them, two synthetic families
of filters are used, smooth blobs and oriented edges with norms that vary: four networks of each to fit, four to score.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from models.filter_bank import FilterBank
from models.priors.filter_vae import FilterVAE
from models.priors.incremental import IncrementalMethod, fit_two_sets
from models.priors.standardisation import Covariance
from models.priors.vae_options import FilterVAEOptions
from pipeline.priors.filter_options import PriorFitOptions
from pipeline.priors.held_out_scores import estimate, score
from pipeline.storage.file_names import BANK
from pipeline.storage.stored_bank import StoredBank

NAMES = {
    IncrementalMethod.BOOSTED: "BooVAE update",
    IncrementalMethod.NEW_ONLY: "re-fit on B only",
    IncrementalMethod.EWC: "EWC",
    IncrementalMethod.MIXTURE: "mixture latent prior",
    IncrementalMethod.JOINT: "joint re-fit (upper bound)",
}
EWC_WEIGHTS = (1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Divided:
    """Filters of one source set to fit to and to score."""

    fitted: FilterBank
    scored: FilterBank


def synthetic(family: str, seed: int) -> Divided:
    """Draws eight networks of one family: Gaussian blobs or oriented edges under noise, log-normal norms."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, 3)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(27, 3)
    banks = []
    for network in range(8):
        count = 1500
        if family == "blobs":
            centre = 0.7 * torch.randn(count, 1, 3, generator=generator)
            shape = torch.exp(-(grid - centre).square().sum(2))
        else:
            direction = torch.nn.functional.normalize(torch.randn(count, 1, 3, generator=generator), dim=2)
            shape = torch.tanh(3 * (grid * direction).sum(2))
        scale = 0.05 * torch.exp(0.5 * torch.randn(count, 1, generator=generator))
        filters = scale * (shape + 0.15 * torch.randn(count, 27, generator=generator))
        rows = torch.arange(count)
        zeros = torch.zeros_like(rows)
        banks.append(FilterBank(filters, zeros, rows // 50, rows % 50, zeros + network, zeros))
    return Divided(FilterBank.concatenate(banks[:4]), FilterBank.concatenate(banks[4:]))


def of_workspace(workspace: Path, group: str, most: int) -> Divided:
    """Divides the filters that a workspace has of a group."""
    bank = StoredBank(workspace / "collect-filters" / group / BANK)
    networks = bank.networks
    if len(networks) < 2:
        raise SystemExit(f"{workspace}: one source network; two or more are needed, so that one can be held out")
    held = set(networks[-min(4, len(networks) // 2) :])
    rest = set(networks) - held
    generator = torch.Generator().manual_seed(0)
    fitted = bank.draw(most, generator, rest, norm_threshold=0.01).bank
    each = [bank.draw(4000, generator, {network}, last_snapshots=True).bank for network in sorted(held)]
    return Divided(fitted, FilterBank.concatenate(each))


def fits(first: Divided, second: Divided, options: FilterVAEOptions) -> Iterator[tuple[str, FilterVAE]]:
    """Fits every method; EWC with every weight."""
    for method, name in NAMES.items():
        for weight in EWC_WEIGHTS if method is IncrementalMethod.EWC else (1.0,):
            start = time.perf_counter()
            vae = fit_two_sets(
                method, options, first.fitted, second.fitted, torch.Generator().manual_seed(1), ewc_weight=weight
            )
            label = f"{name}, λ = {weight:g}" if method is IncrementalMethod.EWC else name
            print(f"  {label}: {time.perf_counter() - start:.0f} s", flush=True)
            yield label, vae


def compare(group: str, first: Divided, second: Divided, options: FilterVAEOptions) -> list[str]:
    """Returns the lines of the table for one group."""
    rows: dict[str, list[dict]] = {}
    for label, vae in fits(first, second, options):
        found = [estimate(score(vae, part.scored, 64, torch.Generator().manual_seed(2))) for part in (first, second)]
        rows[label] = found
    of_ewc = [label for label in rows if label.startswith(NAMES[IncrementalMethod.EWC])]
    best = max(of_ewc, key=lambda label: sum(part["mean"] for part in rows[label]))
    lines = []
    for label, found in rows.items():
        if label in of_ewc and label != best:
            continue
        cells = [f"{part['mean']:.2f} ± {part.get('standard_error', float('nan')):.2f}" for part in found]
        mean = sum(part["mean"] for part in found) / 2
        lines.append(f"| {group} | {label} | {cells[0]} | {cells[1]} | {mean:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("workspaces", nargs="*", type=Path, metavar="WORKSPACE")
    parser.add_argument("--group", action="append", help="group of layers; may be repeated; all by default")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps of each fit and update")
    parser.add_argument("--largest", type=int, default=PriorFitOptions().largest_fit, help="most filters to fit to")
    parser.add_argument("--standardise", type=Covariance, help="what is removed before the networks see a filter")
    arguments = parser.parse_args()
    if len(arguments.workspaces) not in {0, 2}:
        parser.error("name two workspaces, or none for synthetic filters")
    options = FilterVAEOptions(max_steps=arguments.steps, epochs=10_000, standardise=arguments.standardise)
    lines = ["| group | method | held-out A | held-out B | mean |", "|---|---|---|---|---|"]
    if not arguments.workspaces:
        print("synthetic filters: A = blobs, B = edges")
        lines += compare("synthetic", synthetic("blobs", 1), synthetic("edges", 2), options)
    else:
        folder = arguments.workspaces[0] / "collect-filters"
        for group in arguments.group or sorted(path.name for path in folder.iterdir() if path.is_dir()):
            print(group, flush=True)
            first, second = (of_workspace(w, group, arguments.largest) for w in arguments.workspaces)
            lines += compare(group, first, second, options)
    table = "\n".join(lines) + "\n"
    print(table)
    if arguments.out is not None:
        arguments.out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()

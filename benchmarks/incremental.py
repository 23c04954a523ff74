"""Source sets arrive one after the other and are not kept: which VAE still knows all of them?

    python benchmarks/incremental.py digits --output DIR
    python benchmarks/incremental.py patches --dataset DIR --output DIR
    python benchmarks/incremental.py filters WORKSPACE WORKSPACE … --output DIR
    python benchmarks/incremental.py synthetic --output DIR

Compared are the ways of `models.priors.incremental`: the standard VAE (fitted to the newest set alone, or trained on),
elastic weight consolidation, a mixture latent prior, BooVAE, BooVAE with elastic weight consolidation, and the joint
fit, which needs all sets and is the upper bound. After each arrival:

- negative log-likelihood of held-out rows of all sets so far, by the K-sample bound, each set counting alike;
- balance of generated samples: a classifier of the sets says which set each resembles. Their divergence
  KL(shares ‖ uniform) = log T − entropy is 0 if all T sets are generated alike, and log T if only one is. That of
  held-out rows, and the classifier's accuracy on them, say what could have been seen.

λ of elastic weight consolidation and the weight of BooVAE's memory are chosen on the validation part of seed 0, by the
mean over all sets after the last arrival; tests use other rows. A finished sequence is a file in the output, and a run
that was stopped goes on. Workspaces have finished `collect-filters` with the same network and grouping; held out are
the last half of their networks, four at most, and the result is for raw filters of their last snapshots.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import source_sets
import torch
from source_sets import SourceSet

from data.random_streams import stream_seed
from models.filter_bank import FilterBank
from models.priors.filter_vae import FilterVAE
from models.priors.incremental import IncrementalMethod, fit_sets
from models.priors.standardisation import Covariance
from models.priors.vae_options import FilterVAEOptions
from pipeline.priors.filter_options import PriorFitOptions
from pipeline.priors.held_out_scores import estimate, score

Method = IncrementalMethod
NAMES = {
    Method.NEW_ONLY: "standard, fitted to the newest set",
    Method.FINE_TUNED: "standard, trained on",
    Method.EWC: "EWC",
    Method.MIXTURE: "mixture latent prior",
    Method.BOOSTED: "BooVAE",
    Method.BOOSTED_EWC: "BooVAE + EWC",
    Method.JOINT: "joint (upper bound)",
}
Load = Callable[[int], list[SourceSet]]
"""Loads the sets of a seed."""


@dataclass(frozen=True)
class Study:
    """Sequences of one kind of sets, each in a file.

    Attributes:
        name: of the files.
        load: the sets of a seed.
        options: of all VAEs.
        samples: K of the bound.
        draws: generated samples.
        output: folder of the files.
    """

    name: str
    load: Load
    options: FilterVAEOptions
    samples: int
    draws: int
    output: Path

    def sequence(self, method: Method, seed: int, ewc_weight: float, memory_weight: float) -> dict[str, Any]:
        """Returns the record of a sequence, from its file if there is one of the same settings."""
        options = self.options.model_copy(update={"memory_weight": memory_weight})
        settings = {
            "method": method.value, "seed": seed, "ewc_weight": ewc_weight, "samples": self.samples,
            "draws": self.draws, "options": options.model_dump(mode="json"),
        }  # fmt: skip
        path = self.output / f"{self.name}-{method}-{seed}-{ewc_weight:g}-{memory_weight:g}.json"
        if path.is_file():
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if record["settings"] == settings:
                return record
        start = time.process_time()
        arrivals = list(self._arrivals(method, options, seed, ewc_weight))
        record = {"settings": settings, "seconds": time.process_time() - start, "arrivals": arrivals}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")
        last = arrivals[-1]
        print(f"{path.stem}: validation {np.mean(last['validation']):.2f}, {record['seconds']:.0f} s", flush=True)
        return record

    def _arrivals(
        self, method: Method, options: FilterVAEOptions, seed: int, ewc_weight: float
    ) -> Iterator[dict[str, Any]]:
        """Yields, after each arrival, the scores of each set so far and the balance of generated samples."""
        sets = self.load(seed)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(stream_seed(seed, "incremental", method.value))
        vaes = fit_sets(method, options, (one.fitted for one in sets), generator, ewc_weight)
        for number, vae in enumerate(vaes, start=1):
            known = sets[:number]
            found: dict[str, Any] = {
                part: [self._score(vae, getattr(one, part)) for one in known] for part in ("validation", "test")
            }
            if number > 1:
                found["balance"] = self._balance(vae, known, seed)
            yield found

    def _score(self, vae: FilterVAE, bank: FilterBank) -> float:
        generator = torch.Generator().manual_seed(0)
        return -float(estimate(score(vae, bank, self.samples, generator))["mean"])

    def _balance(self, vae: FilterVAE, known: Sequence[SourceSet], seed: int) -> dict[str, Any]:
        """Says which sets the samples of a VAE resemble."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        least = min(len(one.fitted) for one in known)
        generator = torch.Generator().manual_seed(stream_seed(seed, "samples"))
        banks = [one.fitted.subsample(min(least, 1000), generator) for one in known]
        rows = np.concatenate([bank.filters.numpy() for bank in banks])
        classifier = make_pipeline(StandardScaler(), SVC(class_weight="balanced"))
        classifier.fit(rows, np.repeat(np.arange(len(banks)), [len(bank) for bank in banks]))
        drawn = vae.sample(known[-1].fitted[:1].positions[torch.zeros(self.draws, dtype=torch.int64)], generator)
        test = [classifier.predict(one.test.subsample(1000, generator).filters.numpy()) for one in known]
        of_real = np.mean([np.bincount(labels, minlength=len(known)) / len(labels) for labels in test], axis=0)
        shares = np.bincount(classifier.predict(drawn.numpy()), minlength=len(known)) / self.draws
        return {
            "shares": shares.tolist(),
            "divergence": divergence(shares),
            "divergence_of_real": divergence(of_real),
            "accuracy": float(np.mean([np.mean(labels == number) for number, labels in enumerate(test)])),
        }

    def tuned(self, ewc_weights: Sequence[float], memory_weights: Sequence[float]) -> dict[Method, tuple[float, float]]:
        """Chooses λ and the weight of the memory of each method on the validation part of seed 0."""

        def best(method: Method, pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
            def found(pair: tuple[float, float]) -> float:
                return float(np.mean(self.sequence(method, 0, *pair)["arrivals"][-1]["validation"]))

            return min(pairs, key=found)

        boosted = best(Method.BOOSTED, [(0.0, memory) for memory in memory_weights])
        return {
            Method.EWC: best(Method.EWC, [(weight, 0.0) for weight in ewc_weights]),
            Method.BOOSTED: boosted,
            Method.BOOSTED_EWC: best(Method.BOOSTED_EWC, [(weight, boosted[1]) for weight in ewc_weights]),
        }


def divergence(shares: np.ndarray) -> float:
    """Computes KL(shares ‖ uniform) in nats."""
    positive = shares[shares > 0]
    return float(np.log(len(shares)) + (positive * np.log(positive)).sum())


def tables(study: Study, seeds: int, chosen: dict[Method, tuple[float, float]]) -> str:
    """Makes the tables: negative log-likelihood after each arrival, and balance after the last."""
    names = [one.name for one in study.load(0)]
    after = "".join(f" {number} |" for number in range(1, len(names) + 1))
    likelihoods = [f"| method | λ, memory |{after} median set | first set |", f"|---|---|{'---|' * (len(names) + 2)}"]
    balances = ["| method | KL to uniform | smallest share | largest share |", "|---|---|---|---|"]
    instruments = []
    for method, title in NAMES.items():
        pair = chosen.get(method, (0.0, 0.0))
        records = [study.sequence(method, seed, *pair) for seed in range(seeds)]
        arrivals = [record["arrivals"] for record in records]
        means = [[np.mean(arrival["test"]) for arrival in one] for one in arrivals]
        cells = [spread([row[number] for row in means]) for number in range(len(names))]
        settings = ", ".join(f"{value:g}" if value else "–" for value in pair)
        cells += [spread([get(one[-1]["test"]) for one in arrivals]) for get in (np.median, itemgetter(0))]
        likelihoods.append(f"| {title} | {settings} | {' | '.join(cells)} |")
        balance = [one[-1]["balance"] for one in arrivals]
        kl, least, most = (
            spread([get(one) for one in balance], 2)
            for get in (lambda b: b["divergence"], lambda b: min(b["shares"]), lambda b: max(b["shares"]))
        )
        balances.append(f"| {title} | {kl} | {least} | {most} |")
        instruments = [f"{spread([b[key] for b in balance], 3)}" for key in ("divergence_of_real", "accuracy")]
    seen = f"Held-out rows: KL to uniform {instruments[0]}, classifier's accuracy {instruments[1]}."
    return "\n".join([f"{study.name}: {', '.join(names)}", "", *likelihoods, "", *balances, "", seen, ""])


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Formats a mean and, where there are several seeds, its standard error."""
    mean, error = np.mean(values), np.std(values, ddof=min(1, len(values) - 1)) / len(values) ** 0.5
    form = f".{digits}f" if abs(mean) < 10_000 else ".1e"
    return f"{mean:{form}}" + (f" ± {error:{form}}" if len(values) > 1 else "")


OF_IMAGES = {"standardise": Covariance.ISOTROPIC, "norm_input": False, "start_at_gaussian": False}
"""Images stay images: a map that whitens the first set would stretch what is rare in it and frequent in the next."""


def studies(arguments: argparse.Namespace) -> Iterator[Study]:
    """Yields the studies that were asked for."""
    common: dict[str, Any] = {
        "latent": arguments.latent, "max_steps": arguments.steps, "epochs": 10_000, "batch": arguments.batch,
        "components": arguments.components, "component_steps": arguments.component_steps,
        "boost_subset": arguments.boost_subset, "validation_share": arguments.validation_share,
    }  # fmt: skip
    images = FilterVAEOptions(**common, **OF_IMAGES)
    numbers = (arguments.samples, arguments.draws, arguments.output)
    if arguments.sets == "digits":
        yield Study("digits", source_sets.digits, images, *numbers)
    elif arguments.sets == "patches":
        cache = arguments.output / "preprocessed"

        def load(seed: int) -> list[SourceSet]:
            sizes = (arguments.patients, arguments.spacing, arguments.side, arguments.per_case)
            return source_sets.patches(arguments.dataset, seed, *sizes, cache)

        yield Study("patches", load, images, *numbers)
    elif arguments.sets == "synthetic":
        families = [source_sets.synthetic(family) for family in source_sets.FAMILIES]
        yield Study("synthetic", lambda _: families, FilterVAEOptions(**common), *numbers)
    else:
        folder = arguments.workspaces[0] / "collect-filters"
        for group in arguments.group or sorted(path.name for path in folder.iterdir() if path.is_dir()):
            found = source_sets.filters(arguments.workspaces, group, PriorFitOptions().largest_fit)
            yield Study(group, lambda _, found=found: found, FilterVAEOptions(**common), *numbers)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("sets", choices=["digits", "patches", "filters", "synthetic"], help="what arrives")
    parser.add_argument("workspaces", nargs="*", type=Path, metavar="WORKSPACE", help="for filters, in their order")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--dataset", type=Path, help="for patches: scans with labels, each of which is a set")
    parser.add_argument("--patients", type=int, default=100, help="for patches: most patients")
    parser.add_argument("--spacing", type=float, default=2.0, help="for patches: of the preprocessed grid, in mm")
    parser.add_argument("--side", type=int, default=8, help="for patches: voxels along each axis")
    parser.add_argument("--per-case", type=int, default=40, help="for patches: how many of each structure")
    parser.add_argument("--group", action="append", help="for filters: group of layers; may be repeated; or all")
    parser.add_argument("--seeds", type=int, default=3, help="sequences of each method")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps of each fit and update")
    parser.add_argument("--batch", type=int, default=64, help="rows of a step")
    parser.add_argument("--latent", type=int, default=8, help="dimensions of the latent")
    parser.add_argument("--components", type=int, default=5, help="components of a mixture for each set")
    parser.add_argument("--component-steps", type=int, default=30, help="steps for a pseudo-input")
    parser.add_argument("--boost-subset", type=int, default=200, help="rows that stand for a set in boosting")
    parser.add_argument("--validation-share", type=float, default=0.15, help="of fitted units, to keep the best state")
    parser.add_argument("--samples", type=int, default=256, help="K of the bound")
    parser.add_argument("--draws", type=int, default=1000, help="generated samples")
    parser.add_argument("--ewc-weights", type=float, nargs="+", default=[0.1, 1.0, 10.0, 100.0], help="λ to try")
    parser.add_argument("--memory-weights", type=float, nargs="+", default=[1.0, 3.0, 10.0], help="of BooVAE, to try")
    arguments = parser.parse_args()
    if arguments.sets == "filters" and len(arguments.workspaces) < 2:
        parser.error("name two workspaces or more")
    if arguments.sets == "patches" and arguments.dataset is None:
        parser.error("name a dataset")
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    for study in studies(arguments):
        chosen = study.tuned(arguments.ewc_weights, arguments.memory_weights)
        text = tables(study, arguments.seeds, chosen)
        (study.output / f"{study.name}.md").write_text(text, encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()

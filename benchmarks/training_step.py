"""What a training step of Graft costs beside the bare step of the same network and batch.

The bare step is forward, backward and AdamW. Three ratios to it, all from one run with interleaved repetitions
(medians), on random volumes: the loop without augmentation, the loop with the default augmentation, and a DWP step
(sampled filters, KL of a random quarter of them through a VAE, K = 1).

Run: python benchmarks/training_step.py [--channels 16 32 64 128] [--patch 32] [--batch 2] [--steps 8] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from models.bayesian_network import BayesianNetwork
from models.filter_bank import FilterBank, SourceState
from models.filters import FilterGrouping, filter_layers, get_filters, group_layers
from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions
from models.objectives import FilterGroups, SegmentationLoss, SegmentationLossOptions, kl_term
from models.posteriors.mean_field import MeanField, MeanFieldOptions
from models.priors.filter_vae import FilterVAE, FilterVAEOptions
from pipeline.storage.tensors import save_arrays
from pipeline.training.augmentation import Augmentation, AugmentationOptions, no_augmentation
from pipeline.training.cached_case import ARRAYS, CachedCase
from pipeline.training.loop import OptimiserOptions, StepLoss, train
from pipeline.training.patches import PatchOptions, PatchSampler


def write_cases(folder: Path, count: int, size: int) -> list[list[CachedCase]]:
    """Writes preprocessed cases of noise with a cube as label."""
    generator = np.random.default_rng(0)
    patients = []
    for number in range(count):
        case = folder / f"case-{number}"
        case.mkdir()
        label = np.zeros((size,) * 3, dtype=np.int16)
        label[size // 3 : size // 2, size // 3 : size // 2, size // 3 : size // 2] = 1
        image = generator.normal(size=(1, size, size, size)).astype(np.float32)
        about = {"affine": np.eye(4).tolist()}
        save_arrays(case / ARRAYS, {"image": image, "label": label, "mask": np.ones_like(label, np.uint8)}, about)
        patients.append([CachedCase(case.name, case.name, case, {"cube": [1]})])
    return patients


def bare(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    """Forward, backward and AdamW on one batch that is in memory."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    loss = SegmentationLoss(SegmentationLossOptions())
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        loss(network(images), labels).backward()
        optimiser.step()


def in_loop(network: torch.nn.Module, sampler: PatchSampler, steps: int) -> None:
    """The same through the sampler and the loop."""
    loss = SegmentationLoss(SegmentationLossOptions())

    def step_loss(step: int) -> StepLoss:
        images, labels, names = sampler.batch(step)
        return StepLoss(loss(network(images), labels), cases=names)

    groups = [{"params": list(network.parameters())}]
    train(groups, step_loss, steps=steps, rate=lambda step: 1e-4, options=OptimiserOptions())


def bayesian(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[int], None]:
    """Prepares DWP steps on one batch that is in memory: a mean-field posterior and a VAE for each group."""
    groups = group_layers(network, FilterGrouping.CONSECUTIVE)
    layers = filter_layers(network)
    state = SourceState(0, 0, network.state_dict())
    priors = {}
    for name, members in groups.items():
        priors[name] = FilterVAE(FilterVAEOptions(max_steps=20))
        bank = FilterBank.from_state_dicts([state], members, layers)
        priors[name].fit(bank, torch.Generator().manual_seed(0))
        priors[name].freeze_for_target()
    posterior = MeanField.from_options(MeanFieldOptions(), get_filters(network.state_dict(), layers), layers)
    model = BayesianNetwork(network, posterior, layers)
    rows = FilterGroups.of(groups, layers)
    learned = [*model.point_parameters(), *posterior.parameters()]
    learned += [p for prior in priors.values() for p in prior.variational_parameters()]
    loss = SegmentationLoss(SegmentationLossOptions())
    generator = torch.Generator().manual_seed(0)

    def run(steps: int) -> None:
        optimiser = torch.optim.AdamW(learned, lr=1e-4)
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            filters = posterior.sample(generator)
            term = kl_term(posterior, priors, rows, 100_000, 0.01, 1, 0.25, generator, filters)
            (loss(model(images, filters), labels) + term.total).backward()
            optimiser.step()

    return run


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs=4, default=(16, 32, 64, 128))
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network_options = ResidualUNetOptions(channels=tuple(options.channels))
    patch = PatchOptions(size=(options.patch,) * 3, batch=options.batch, foreground_share=0.5)
    with tempfile.TemporaryDirectory() as folder:
        patients = write_cases(Path(folder), 4, options.patch * 2)
        plain = PatchSampler(patients, patch, Augmentation(no_augmentation()), 0)
        augmented = PatchSampler(patients, patch, Augmentation(AugmentationOptions()), 0)
        images, labels, _ = plain.batch(0)
        networks = [build_network(network_options, 1, 2, 0) for _ in range(4)]
        dwp = bayesian(networks[3], images, labels)
        runs: dict[str, Callable[[], None]] = {
            "bare step": lambda: bare(networks[0], images, labels, options.steps),
            "loop, no augmentation": lambda: in_loop(networks[1], plain, options.steps),
            "loop, default augmentation": lambda: in_loop(networks[2], augmented, options.steps),
            "DWP step": lambda: dwp(options.steps),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for round_ in range(options.rounds + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if round_:  # the first round warms up
                    times[name].append((time.perf_counter() - start) / options.steps)
    reference = statistics.median(times["bare step"])
    print("| step | seconds (median) | ratio to the bare step |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {statistics.median(values):.3f} | {statistics.median(values) / reference:.2f} |")


if __name__ == "__main__":
    main()

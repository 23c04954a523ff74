"""What a training step of Graft costs beside the bare step of the same network and batch.

The bare step is forward, backward and AdamW in float32. Ratios to it, all from one run with interleaved repetitions
(medians), on random volumes: the same with the channels last, in bfloat16 and compiled; the loop without augmentation,
with the default augmentation drawn in the training's own process and by background workers (their start counts too);
and a DWP step (sampled filters, KL of a random quarter of them through a VAE, K = 1).

Run: python benchmarks/training_step.py [--channels 16 32 64 128] [--patch 32] [--batch 2] [--steps 8] [--rounds 5]
     [--threads 1] [--workers 1] [--device cpu] [--no-compile]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from models.bayesian_network import BayesianNetwork
from models.filter_bank import FilterBank, SourceState
from models.filters import FilterGrouping, filter_layers, filter_positions, get_filters, group_layers
from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions
from models.objectives import FilterGroups, SegmentationLoss, kl_term
from models.posteriors.mean_field import MeanField, MeanFieldOptions
from models.priors.filter_vae import FilterVAE
from models.priors.vae_options import FilterVAEOptions
from pipeline.storage.cached_case import ARRAYS, CachedCase
from pipeline.storage.tensors import save_arrays
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.background import BackgroundSampler
from pipeline.training.loop import StepLoss, TrainingPlan, train
from pipeline.training.patches import PatchOptions, PatchSampler

Run = Callable[[int], None]
"""Takes a number of steps."""


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


def bare(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, half: bool = False) -> Run:
    """Prepares forward, backward and AdamW on one batch that is in memory."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    loss = SegmentationLoss()

    def run(steps: int) -> None:
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
                logits = network(images)
            loss(logits.float(), labels).backward()
            optimiser.step()

    return run


def compiled(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Run | str:
    """Prepares bare steps of the compiled network, or tells why it cannot be compiled."""
    if images.device.type == "cpu" and not any(map(shutil.which, [os.environ.get("CXX", ""), "g++", "clang++"])):
        return "no C++ compiler"
    run = bare(torch.compile(network), images, labels)  # type: ignore[arg-type]
    try:
        run(1)
    except RuntimeError as error:  # torch's own errors of compilation are subclasses
        return str(error).strip().splitlines()[0]
    return run


def in_loop(network: torch.nn.Module, sampler: PatchSampler, device: str, workers: int = 0) -> Run:
    """Prepares the same through the sampler and the loop."""
    loss = SegmentationLoss()

    def run(steps: int) -> None:
        batches = BackgroundSampler(sampler, steps, workers)

        def step_loss(step: int) -> StepLoss:
            images, labels, names = batches.batch(step)
            return StepLoss(loss(network(images.to(device)), labels.to(device)), cases=names)

        groups = [{"params": list(network.parameters())}]
        train(groups, step_loss, TrainingPlan(steps, lambda step: 1e-4))

    return run


def bayesian(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Run:
    """Prepares DWP steps on one batch that is in memory: a mean-field posterior and a VAE for each group."""
    groups = group_layers(network, FilterGrouping.CONSECUTIVE)
    layers = filter_layers(network)
    state = SourceState(0, 0, network.state_dict())
    priors = {}
    for name, members in groups.items():
        priors[name] = FilterVAE(FilterVAEOptions(max_steps=20))
        bank = FilterBank.from_state(state, members, filter_positions(members, layers))
        priors[name].fit(bank, torch.Generator().manual_seed(0))
        priors[name].to(images.device).freeze_for_target()
    posterior = MeanField.from_options(MeanFieldOptions(), get_filters(network.state_dict(), layers), layers)
    model = BayesianNetwork(network, posterior, layers).to(images.device)
    rows = FilterGroups.of(groups, layers).to(images.device)
    learned = [*model.point_parameters(), *posterior.parameters()]
    learned += [p for prior in priors.values() for p in prior.variational_parameters()]
    loss = SegmentationLoss()
    generator = torch.Generator(images.device).manual_seed(0)

    def run(steps: int) -> None:
        optimiser = torch.optim.AdamW(learned, lr=1e-4, fused=True)
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            filters = posterior.sample(generator)
            kl = kl_term(posterior, priors, rows, filters, share=0.25, generator=generator).kl
            (loss(model(images, filters), labels) + 0.01 / 100_000 * kl).backward()
            optimiser.step()

    return run


def variants(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Run], dict[str, str]]:
    """Prepares what is measured, the bare step first.

    Returns:
        what can be run, and why the others cannot.
    """
    network_options = ResidualUNetOptions(channels=tuple(options.channels))
    patch = PatchOptions(size=(options.patch,) * 3, batch=options.batch, foreground_share=0.5)
    patients = write_cases(folder, 4, options.patch * 2)
    plain = PatchSampler(
        patients,
        patch,
        Augmentation(AugmentationOptions(affine=0, noise=0, blur=0, brightness=0, gamma=0, low_resolution=0)),
        0,
    )
    augmented = PatchSampler(patients, patch, Augmentation(AugmentationOptions()), 0)
    images, labels, _ = plain.batch(0)
    device = options.device
    images, labels = images.to(device), labels.to(device)

    def network() -> torch.nn.Module:
        return build_network(network_options, 1, 2, 0).to(device)

    last = torch.channels_last_3d
    runs = {
        "bare step": bare(network(), images, labels),
        "channels last": bare(network().to(memory_format=last), images.to(memory_format=last), labels),  # type: ignore[call-overload]
        "bfloat16": bare(network(), images, labels, half=True),
        "loop, no augmentation": in_loop(network(), plain, device),
        "loop, default augmentation": in_loop(network(), augmented, device),
        "DWP step": bayesian(build_network(network_options, 1, 2, 0), images, labels),
    }
    if options.workers:
        title = f"loop, default augmentation, workers: {options.workers}"
        runs[title] = in_loop(network(), augmented, device, options.workers)
    made = "left out by --no-compile" if options.no_compile else compiled(network(), images, labels)
    if isinstance(made, str):
        return runs, {"compiled": made}
    return {**runs, "compiled": made}, {}


def measure(runs: dict[str, Run], options: argparse.Namespace) -> dict[str, list[float]]:
    """Runs all in turn, several rounds, and returns the seconds of a step in each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(options.rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(options.steps)
            if options.device == "cuda":
                torch.cuda.synchronize()
            if round_:  # the first round warms up
                times[name].append((time.perf_counter() - start) / options.steps)
        print(f"round {round_} of {options.rounds}", file=sys.stderr)
    return times


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs=4, default=(16, 32, 64, 128))
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw batches; 0: not measured")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which starts slowly")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        runs, left_out = variants(options, Path(folder))
        times = measure(runs, options)
    reference = statistics.median(times["bare step"])
    print("| step | seconds (median) | ratio to the bare step |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {statistics.median(values):.3f} | {statistics.median(values) / reference:.2f} |")
    for name, reason in left_out.items():
        print(f"| {name} | – | {reason} |")


if __name__ == "__main__":
    main()

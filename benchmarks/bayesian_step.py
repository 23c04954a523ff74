"""Cost of variational inference: a Bayesian step against a deterministic one, S draws against S forward passes.

    python benchmarks/bayesian_step.py --channels 16 32 64 128 --patch 64

Everything runs on one network, one batch and one volume, in turn, in one process; ratios are medians over the rounds of
the ratio within a round, and on a CPU the time is that of the process, so that other work on the machine disturbs
little. Asked are at most 1.25 for the step (sampled weights, K = 1, the default share of the filters) and 1.05 for the
draws. What a Bayesian step adds depends on the number of weights alone, so small patches show the largest ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import torch

from models.bayesian_network import BayesianNetwork
from models.deep_supervision import DeepSupervisionLoss
from models.filter_bank import FilterBank, SourceState
from models.filters import FilterGrouping, filter_layers, filter_positions, group_layers
from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions
from models.objectives import SegmentationLoss
from models.priors.factory import build_prior
from models.priors.gaussian_options import GaussianOptions
from models.priors.vae_options import FilterVAEOptions
from pipeline.arms.choices import ArmOptions
from pipeline.arms.learning import parameter_groups
from pipeline.arms.member import assemble_member
from pipeline.arms.prediction import WeightDraws
from pipeline.arms.presets import PRESETS
from pipeline.arms.prior_term import WeightPriors
from pipeline.arms.starting_point import learned_groups
from pipeline.arms.target_loss import TargetLoss
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.prediction.scan_prediction import predict_scan
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.training.patches import PatchSampler

ASKED_STEP, ASKED_DRAWS = 1.25, 1.05
VOXELS = 100_000
Run = Callable[[], None]


class OneBatch:
    """Stands for a sampler: the same batch at every step."""

    voxels = VOXELS

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._batch = images, labels, ["case"]

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Returns the batch."""
        return self._batch


def stepping(groups: list[dict[str, Any]], loss: Callable[[], torch.Tensor], steps: int) -> Run:
    """Forward, backward, clipping and AdamW, as the training loop does them."""
    optimised = [{"params": [p for p in g["params"] if p.requires_grad]} for g in groups]
    learned = [p for group in optimised for p in group["params"]]
    optimiser = torch.optim.AdamW(optimised, lr=1e-5, fused=True)

    def run() -> None:
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            loss().backward()
            torch.nn.utils.clip_grad_norm_(learned, 12.0)
            optimiser.step()

    return run


def deterministic(network: torch.nn.Module, batch: OneBatch, steps: int) -> Run:
    """Steps of the plain network."""
    data_loss = DeepSupervisionLoss(SegmentationLoss())

    def loss() -> torch.Tensor:
        images, labels, _ = batch.batch(0)
        value: torch.Tensor = data_loss(network(images), labels)
        return value

    return stepping([{"params": list(network.parameters())}], loss, steps)


def bayesian(arm: ArmOptions, network: torch.nn.Module, batch: OneBatch, steps: int, device: str) -> Run:
    """Steps of an arm, through the very objective of the target's trainings."""
    model = assemble_member(arm, network, [network.state_dict()]).to(device)
    groups = group_layers(network, FilterGrouping.CONSECUTIVE)
    layers = filter_layers(network)
    state = SourceState(0, 0, {name: tensor.cpu() for name, tensor in network.state_dict().items()})
    fitted = {}
    for name, members in groups.items():
        options = FilterVAEOptions(max_steps=20) if arm.prior == "vae" else GaussianOptions()
        fitted[name] = build_prior(options)
        fitted[name].fit(
            FilterBank.from_state(state, members, filter_positions(members, layers)), torch.Generator().manual_seed(0)
        )
        fitted[name].freeze_for_target()
    priors = WeightPriors(fitted, learned_groups(groups, layers, layers)).to(device)
    options = TargetTrainingOptions(steps=10**9)
    objective = TargetLoss(arm, options, model, priors, cast(PatchSampler, batch), 0, device)
    return stepping(parameter_groups(model, priors, arm), lambda: objective(0).loss, steps)


def predicting(model: BayesianNetwork, image: torch.Tensor, patch: int, draws: int, sampled: bool, device: str) -> Run:
    """S passes over a volume: with S draws of the weights, or S times with the network's own."""
    window = SlidingWindowOptions()
    weights = WeightDraws(model, draws, 0, device)

    def run() -> None:
        passes = (model.with_weights(draw) for draw in weights) if sampled else (model.network for _ in range(draws))
        predict_scan(passes, draws, image, (patch,) * 3, window)

    return run


def measure(runs: dict[str, Run], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every run, all in turn; a first round warms up."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                times[name].append(clock() - start)
    return times


def table(times: dict[str, list[float]], asked: float) -> str:
    """A Markdown table: the first entry is what the others are compared with."""
    reference = next(iter(times.values()))
    rows = ["| run | seconds (median) | ratio (median over rounds) | asked |\n|---|---|---|---|"]
    for position, (name, values) in enumerate(times.items()):
        ratio = statistics.median(value / base for value, base in zip(values, reference, strict=True))
        rows.append(f"| {name} | {statistics.median(values):.3f} | {ratio:.3f} | {f'≤ {asked}' if position else ''} |")
    return "\n".join(rows)


def main() -> None:
    """Measures and prints two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs=4, default=(16, 32, 64, 128))
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--volume", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    device = given.device
    networks = [
        build_network(ResidualUNetOptions(channels=tuple(given.channels)), 1, 2, 0).to(device) for _ in range(4)
    ]
    images = torch.randn(given.batch, 1, *(given.patch,) * 3, device=device)
    batch = OneBatch(images, (images[:, 0] > 1).long())
    runs = {
        "deterministic step": deterministic(networks[0], batch, given.steps),
        "step of `dwp` (VAE)": bayesian(PRESETS["dwp"], networks[1], batch, given.steps, device),
        "step of `gaussian_full`": bayesian(PRESETS["gaussian_full"], networks[2], batch, given.steps, device),
    }
    print(table(measure(runs, given.rounds, device), ASKED_STEP))
    model = assemble_member(PRESETS["gaussian_full"], networks[3], [networks[3].state_dict()]).to(device).eval()
    image = torch.randn(1, *(given.volume,) * 3, device=device)
    runs = {
        f"{given.draws} forward passes": predicting(model, image, given.patch, given.draws, False, device),
        f"{given.draws} draws": predicting(model, image, given.patch, given.draws, True, device),
    }
    print(table(measure(runs, given.rounds, device), ASKED_DRAWS))


if __name__ == "__main__":
    main()

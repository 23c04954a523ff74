"""A training step in bfloat16 beside the same step in float32, on processors with and without bfloat16.

The step is forward, backward and AdamW of the residual U-Net on one batch of noise, through the very `Computing` that
trainings use. Kinds of processors are imitated on this one: oneDNN is told to use no newer instructions than theirs
(`ONEDNN_MAX_CPU_ISA`), in a process of its own for each. Both precisions of a kind take turns; medians and their ratio.

Run: python benchmarks/precision_step.py [--channels 16 32 64 128] [--patch 64] [--batch 2] [--rounds 3] [--threads 1]
     [--isa all avx512_core avx2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch

from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions
from models.objectives import SegmentationLoss
from pipeline.training.computing import Computing, ComputingOptions, Precision

KINDS = {"all": "", "avx512_core_bf16": "AVX512_CORE_BF16", "avx512_core": "AVX512_CORE", "avx2": "AVX2"}
"""Kind of processor → what oneDNN calls it; `all` is this one."""


def step_seconds(precision: Precision, options: ResidualUNetOptions, patch: int, batch: int) -> float:
    """Seconds of one step, after one that is not counted."""
    computing = Computing(ComputingOptions(precision=precision), "cpu")
    network = build_network(options, 1, 2, 0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    loss = SegmentationLoss()
    images = torch.randn(batch, 1, patch, patch, patch)
    labels = (images[:, 0] > 1).long()
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        with computing.autocast():
            logits = network(images)
        computing.backward(loss(logits.float(), labels))
        optimiser.step()
        seconds = time.perf_counter() - start
    return seconds


def measure(arguments: argparse.Namespace) -> None:
    """Prints the medians on the processor that this process sees."""
    torch.set_num_threads(arguments.threads)
    options = ResidualUNetOptions(channels=tuple(arguments.channels), encoder_blocks=(1,) * len(arguments.channels))
    both = (Precision.FLOAT32, Precision.BFLOAT16)
    seconds: dict[Precision, list[float]] = {precision: [] for precision in both}
    for _ in range(arguments.rounds):
        for precision in both:
            seconds[precision].append(step_seconds(precision, options, arguments.patch, arguments.batch))
    single, half = (statistics.median(seconds[precision]) for precision in both)
    print(f"{arguments.here:20} float32 {single:7.2f} s  bfloat16 {half:7.2f} s  ratio {half / single:.2f}", flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", nargs="+", choices=KINDS, default=["all", "avx512_core", "avx2"])
    parser.add_argument("--here", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        measure(arguments)
        return
    for kind in arguments.isa:
        isa = {"ONEDNN_MAX_CPU_ISA": KINDS[kind]} if KINDS[kind] else {}
        subprocess.run([sys.executable, *sys.argv, "--here", kind], env=os.environ | isa, check=True)


if __name__ == "__main__":
    main()

"""How near the memory estimate comes to what a training really takes.

For each network a fresh process trains a few steps on patches of noise; its peak of resident memory (on a GPU: of
allocated memory), less what the process held before, stands beside the estimate. Ratios above one are on the safe side.

Run: python benchmarks/training_memory.py [--networks residual_unet unet dynunet segresnet] [--patch 64] [--batch 1]
     [--precision float32] [--device cpu] [--threads 1] [--steps 3]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import torch
from pydantic import TypeAdapter

from models.deep_supervision import DeepSupervisionLoss
from models.networks.factory import NetworkOptions, build_network
from models.objectives import SegmentationLoss
from pipeline.training.computing import Precision
from pipeline.training.memory_estimate import estimate_training_memory
from pipeline.training.patches import PatchOptions

MEGABYTE = 1e6


def train(options: NetworkOptions, side: int, batch: int, precision: str, device: str, steps: int) -> None:
    """Takes a few AdamW steps on noise."""
    network = build_network(options, 1, 2).to(device)
    optimiser = torch.optim.AdamW(network.parameters())
    loss = DeepSupervisionLoss(SegmentationLoss())
    images = torch.randn(batch, 1, side, side, side, device=device)
    labels = torch.randint(0, 2, (batch, side, side, side), device=device)
    kind = torch.float16 if precision == Precision.FLOAT16 else torch.bfloat16
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, kind, enabled=precision != Precision.FLOAT32):
            outputs = network(images)
        loss(outputs, labels).backward()
        optimiser.step()


def resident(field: str) -> int:
    """Reads `VmRSS` (now) or `VmHWM` (peak) of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(options: NetworkOptions, arguments: argparse.Namespace) -> int:
    """Returns the peak of a training in this process, less what was held before."""
    torch.set_num_threads(arguments.threads)
    small = TypeAdapter(NetworkOptions).validate_python({"name": "unet", "channels": (2, 2)})
    train(small, 8, 1, arguments.precision, arguments.device, 1)  # loads the kernels' libraries
    gc.collect()
    setting = (arguments.patch, arguments.batch, arguments.precision, arguments.device, arguments.steps)
    if arguments.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        train(options, *setting)
        return torch.cuda.max_memory_reserved() - before
    # Memory that was freed but not given back would be used again and not be seen.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    train(options, *setting)
    return resident("VmHWM") - before


def main() -> None:
    """Measures each network in a process of its own and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["residual_unet", "unet", "dynunet", "segresnet"])
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=[p.value for p in Precision], default=Precision.FLOAT32.value)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    options = {name: TypeAdapter(NetworkOptions).validate_python({"name": name}) for name in arguments.networks}
    if arguments.measure:
        print(measure(options[arguments.networks[0]], arguments))
        return
    patches = PatchOptions(size=(arguments.patch,) * 3, batch=arguments.batch)
    print(f"{arguments.batch} patches of {arguments.patch}³, {arguments.precision}, {arguments.device}\n")
    print("| network | estimate, MB | of it activations | measured, MB | estimate / measured |\n|---|---|---|---|---|")
    for name, network in options.items():
        estimate = estimate_training_memory(
            network, 1, 2, patches, precision=arguments.precision, device=arguments.device
        )
        command = [sys.executable, __file__, *sys.argv[1:], "--networks", name, "--measure"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        measured = int(done.stdout)
        numbers = [estimate.total, estimate.activations, measured]
        cells = " | ".join(f"{number / MEGABYTE:.0f}" for number in numbers)
        print(f"| {name} | {cells} | {estimate.total / measured:.2f} |", flush=True)


if __name__ == "__main__":
    main()

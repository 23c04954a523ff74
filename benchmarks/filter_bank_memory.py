"""Filter banks: is writing, reading and drawing linear in time and flat in memory?

Banks of 1×, 4× and 16× the networks are written as snapshots come, read in chunks, and drawn from at random, each size
in a process of its own. Peak memory is that of the process above what it has after its imports (maximum resident size);
beside it stands the peer, which loads the whole bank as one tensor.

Run: python benchmarks/filter_bank_memory.py [--networks 2] [--layer 384] [--snapshots 2]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from models.filter_bank import FilterBank
from pipeline.storage.stored_bank import StoredBank, write_bank

FACTORS = (1, 4, 16)
DRAWN = 20_000


def peak() -> float:
    """Peak resident memory of this process so far, MiB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1024 if sys.platform != "darwin" else 1024**2)


def snapshots(order: list[tuple[int, int]], channels: int) -> Iterator[FilterBank]:
    """Makes the filters of one layer of `channels` × `channels` in each snapshot."""
    rows = torch.arange(channels * channels)
    zeros = torch.zeros_like(rows)
    generator = torch.Generator().manual_seed(0)
    for network, snapshot in order:
        filters = 0.05 * torch.randn(len(rows), 27, generator=generator)
        yield FilterBank(filters, zeros, rows // channels, rows % channels, zeros + network, zeros + snapshot)


def measure(task: str, path: Path, networks: int, cycles: int, channels: int) -> dict[str, float]:
    """Does one task in this process and returns its time in s and peak memory above the start in MiB."""
    order = [(network, snapshot) for network in range(networks) for snapshot in range(cycles)]
    before, start = peak(), time.perf_counter()
    if task == "write":
        write_bank(path, snapshots(order, channels), (len(order), channels**2))
    elif task == "read":
        sum(float(chunk.filters.square().sum()) for chunk in StoredBank(path).chunks())
    elif task == "draw":
        StoredBank(path).draw(DRAWN, torch.Generator().manual_seed(0), norm_threshold=0.01)
    else:
        float(torch.from_numpy(np.load(path)["filters"].copy()).square().sum())
    return {"seconds": time.perf_counter() - start, "memory": peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--networks", type=int, default=2, help="networks of the smallest bank")
    parser.add_argument("--layer", type=int, default=384, help="channels of the layer; its filters are their square")
    parser.add_argument("--snapshots", type=int, default=2)
    parser.add_argument("--child", nargs=3, metavar=("TASK", "PATH", "NETWORKS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        task, path, networks = arguments.child
        print(json.dumps(measure(task, Path(path), int(networks), arguments.snapshots, arguments.layer)))
        return
    print("| task | filters | seconds | ratio | peak memory, MiB | ratio |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for task in ("write", "read", "draw", "load all (peer)"):
            first: dict[str, float] = {}
            for factor in FACTORS:
                networks = arguments.networks * factor
                path = Path(folder) / f"{factor}.npy"
                settings = ["--layer", str(arguments.layer), "--snapshots", str(arguments.snapshots)]
                command = [sys.executable, __file__, *settings, "--child", task, str(path), str(networks)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout)
                first = first or found
                ratios = {key: found[key] / max(first[key], 1e-9) for key in found}
                count = networks * arguments.snapshots * arguments.layer**2
                print(
                    f"| {task} | {count:,} | {found['seconds']:.2f} | {ratios['seconds']:.1f} | "
                    f"{found['memory']:.0f} | {ratios['memory']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

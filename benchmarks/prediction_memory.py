"""What more draws from a posterior cost a prediction: peak memory and time of 10 draws against one.

A scan of 240 × 240 × 155 voxels goes through `graft predict`'s own code with an untrained mean-field network, once with
one draw and once with several, each in a process of its own. Memory is the largest resident size of that process. Time
is that of the passes with all that is accumulated, as a ratio to the bare passes inside the same run (processor time,
because a machine may be shared) and to as many runs of one draw. The default network is small, so that what is
accumulated weighs much.

Run: python benchmarks/prediction_memory.py [--shape 240 240 155] [--channels 4 8] [--samples 10] [--rounds 1]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pipeline.deployment.case_prediction as case_prediction
import pipeline.prediction.scan_prediction as scan_prediction
from data.image_file import write_volume
from data.modality import Modality
from data.volume import Volume
from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions
from models.posteriors.mean_field import MeanFieldOptions
from pipeline.arms.choices import ArmOptions
from pipeline.arms.member import assemble_member
from pipeline.deployment.fingerprint import TrainingFingerprint, case_facts
from pipeline.deployment.model_description import ModelDescription
from pipeline.deployment.model_folder import member_name, write_model
from pipeline.deployment.predict_command import predict
from pipeline.deployment.predict_options import PredictOptions
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.storage.tensors import save_tensors
from preprocessing.chain import default_options


def write_scan(path: Path, shape: tuple[int, ...]) -> None:
    """Writes smooth noise with a bright block."""
    generator = np.random.default_rng(0)
    array = generator.normal(100, 20, shape).astype(np.float32)
    array[tuple(slice(n // 3, n // 2) for n in shape)] += 100
    write_volume(Volume(array, np.eye(4)), path)


def write_untrained(folder: Path, channels: tuple[int, ...], patch: int) -> None:
    """Writes a model with a random network and a posterior around it."""
    options = ResidualUNetOptions(channels=channels, encoder_blocks=tuple(range(len(channels))))
    arm = ArmOptions(prior="vae", posterior=MeanFieldOptions())
    network = build_network(options, 1, 2, 0)
    member = assemble_member(arm, network, [network.state_dict()])
    image = np.random.default_rng(1).normal(size=(1, 8, 8, 8)).astype(np.float32)
    facts = case_facts(image, np.ones((8, 8, 8), dtype=bool), np.eye(4), ["T1"], [])
    description = ModelDescription(
        study="benchmark",
        modality=Modality.MR,
        channels=("T1",),
        preprocessing=default_options(Modality.MR),
        graft_version="0",
        arm_name="dwp",
        arm=arm,
        objective="untrained",
        training_patients=1,
        repeat=0,
        network=options,
        classes={"block": 1},
        patch=(patch,) * 3,
        window=SlidingWindowOptions(),
        flip_axes=(),
        draws=1,
        members=(member_name(0),),
        seeds=(0,),
        fingerprint=TrainingFingerprint.of([facts]),
    )
    trained = folder.with_name("member.safetensors")
    save_tensors(trained, member.state_dict())
    write_model(folder, description, [trained])


def work(folder: Path, samples: int) -> dict[str, float]:
    """Predicts in this process and returns its figures."""
    torch.set_num_threads(1)
    spent: dict[str, float] = {}
    passes = case_prediction.predict_scan

    def timed(*arguments: Any, **named: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = passes(*arguments, **named)
        spent.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
        return result

    bare = scan_prediction.draw_probability

    def timed_pass(*arguments: Any, **named: Any) -> Any:
        cpu = time.process_time()
        result = bare(*arguments, **named)
        spent["bare"] = spent.get("bare", 0.0) + time.process_time() - cpu
        return result

    case_prediction.predict_scan = timed  # type: ignore[assignment]
    scan_prediction.draw_probability = timed_pass  # type: ignore[assignment]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        options = PredictOptions(samples=samples)
        predict(folder / "model", (folder / "scan.nii.gz",), Path(output), options, device="cpu")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {**spent, "whole": time.perf_counter() - start, "peak": peak}


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(240, 240, 155))
    parser.add_argument("--channels", type=int, nargs="+", default=(4, 8))
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        print(json.dumps(work(options.work, options.samples)))
        return
    runs: dict[int, list[dict[str, float]]] = {1: [], options.samples: []}
    with tempfile.TemporaryDirectory() as folder:
        write_scan(Path(folder) / "scan.nii.gz", tuple(options.shape))
        write_untrained(Path(folder) / "model", tuple(options.channels), options.patch)
        for _ in range(options.rounds):
            for samples in runs:
                command = [sys.executable, __file__, "--work", folder, "--samples", str(samples)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs[samples].append(json.loads(done.stdout.splitlines()[-1]))
    one, many = ({k: statistics.median(r[k] for r in runs[s]) for k in runs[s][0]} for s in runs)
    print(f"| | 1 draw | {options.samples} draws | ratio |\n|---|---|---|---|")
    print(
        f"| peak memory, GB | {one['peak'] / 1e9:.2f} | {many['peak'] / 1e9:.2f} | {many['peak'] / one['peak']:.2f} |"
    )
    accumulated = [run["cpu"] / run["bare"] for run in (one, many)]
    print(f"| all passes, as a share of the bare passes | {accumulated[0]:.3f} | {accumulated[1]:.3f} | |")
    for key, name in (("cpu", "passes, processor s"), ("wall", "passes, wall s"), ("whole", "whole command, wall s")):
        ratio = many[key] / (options.samples * one[key])
        print(f"| {name} | {one[key]:.1f} | {many[key]:.1f} | {ratio:.3f} of {options.samples} × one |")


if __name__ == "__main__":
    main()

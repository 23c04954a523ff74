"""Does the gate of a model tell scans that are unlike those of its training? AUROC of each score, and false alarms.

`python benchmarks/gate.py --dataset DATASET --values 1 2` trains a small model with image models on a part of the
dataset, and asks its gates about test scans as they are and spoilt: inverted, with another gamma, cut in half, moved
while the scanner ran, and with noise. `--other NAME=DATASET` (or `NAME=DATASET:CHANNEL`) adds scans of another kind,
such as another contrast or another organ. Without a dataset there is nothing to do.

Printed is, for each kind of scan and each score, the area under the ROC curve against the test scans as they are, and
the share that is flagged at the default percentile. Image models are calibrated by the first 40 of these test scans, so
of these their share of false alarms is no test; that of the features is one, and with `--test` above 40, the row "as
they are, not in a calibration" is one of all. `benchmarks/gate_lesions.py` asks for lesions in heads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import graft
from data.case import Case
from data.errors import GraftError
from data.layouts.detection import detect_layout
from data.random_streams import random_stream
from data.volume import Volume
from pipeline.deployment.image_gate import MOST_SCANS
from pipeline.deployment.model_folder import Model, read_model
from pipeline.deployment.predict_options import GATE_PERCENTILE
from preprocessing.chain import Chain
from preprocessing.subject import Subject

Array = NDArray[np.float32]
AS_THEY_ARE = "as they are"


def _span(image: Array) -> tuple[float, float]:
    low, high = np.percentile(image, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def inverted(image: Array, rng: np.random.Generator) -> Array:
    """Another contrast: bright is dark inside the object; air stays dark."""
    low, high = _span(image)
    return np.where(image > low + 0.1 * (high - low), low + high - image, image)


def _with_gamma(image: Array, gamma: float) -> Array:
    low, high = _span(image)
    return low + (high - low) * np.clip((image - low) / (high - low), 0, 1) ** gamma


def darker(image: Array, rng: np.random.Generator) -> Array:
    """Another contrast: gamma 3."""
    return _with_gamma(image, 3.0)


def brighter(image: Array, rng: np.random.Generator) -> Array:
    """Another contrast: gamma 1/3."""
    return _with_gamma(image, 1 / 3)


def half(image: Array, rng: np.random.Generator) -> Array:
    """Half of the field of view is not there: black."""
    cut = image.copy()
    cut[: image.shape[0] // 2] = image.min()
    return cut


def moved(image: Array, rng: np.random.Generator) -> Array:
    """Strong motion: ten blocks of k-space lines are of the object elsewhere, up to 10 % of the field of view."""
    lines = np.fft.fftn(image)
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij")
    for block in np.array_split(np.fft.fftshift(np.arange(image.shape[1])), 10)[1:]:
        shift = rng.uniform(-0.1, 0.1, 3) * image.shape
        phase = sum(f[:, block] * s for f, s in zip(frequencies, shift, strict=True))
        lines[:, block] *= np.exp(-2j * np.pi * phase)
    return np.abs(np.fft.ifftn(lines))


def noisy(image: Array, rng: np.random.Generator) -> Array:
    """Rician noise of 15 % of the span."""
    low, high = _span(image)
    real, imaginary = rng.normal(0, 0.15 * (high - low), (2, *image.shape))
    return np.hypot(image + real, imaginary)


SPOILT: tuple[Callable[[Array, np.random.Generator], Array], ...] = (inverted, darker, brighter, half, moved, noisy)


def study(dataset: Path, channels: Sequence[str], arguments: argparse.Namespace) -> graft.Study:
    """A study of one arm and, unless they are left out, image models of both kinds that are gates."""
    models = {
        "denoising": {"objective": "denoising", "steps": arguments.image_steps},
        "variational": {"objective": "variational", "steps": arguments.image_steps},
    }
    raw: dict[str, Any] = {
        "name": "gate",
        "seed": arguments.seed,
        "workspace": str(arguments.output / "workspace"),
        "datasets": {
            "target": {
                "path": str(dataset),
                "modality": arguments.modality,
                "channels": list(channels),
                "foreground": {"structure": arguments.values},
            }
        },
        "target": {"dataset": "target", "pool": arguments.patients, "test": arguments.test},
        "preprocessing": {"resampling": {"spacing": arguments.spacing}},
        "patches": {"size": arguments.patch, "batch": 2},
        "augmentation": {"flip_axes": []},
        "priors": {"densities": {}},
        "image_models": models if arguments.image_steps else {},
        "target_training": {
            "arms": ["random"], "sizes": [arguments.patients], "reference_sizes": [], "repeats": 1,
            "steps": arguments.steps,
        },
    }  # fmt: skip
    return graft.Study(raw)


def channels_of(case: Case, channels: Sequence[str]) -> dict[str, Volume]:
    """Reads the channels of a case; a model of one channel takes the first of a case that names it otherwise."""
    names = [name if name in case.channels else next(iter(case.channels)) for name in channels]
    return {name: case.channels[own].read() for name, own in zip(channels, names, strict=True)}


def others(text: str, channels: Sequence[str], count: int) -> tuple[str, list[dict[str, Volume]]]:
    """Scans of another dataset, `NAME=DATASET` or `NAME=DATASET:CHANNEL`, one of each patient."""
    name, _, where = text.partition("=")
    path, _, channel = where.partition(":")
    patients = detect_layout(Path(path)).read(Path(path)).by_patient()
    cases = [own[0] for own in list(patients.values())[:count]]
    if channel:
        return name, [dict.fromkeys(channels, case.channels[channel].read()) for case in cases]
    return name, [channels_of(case, channels) for case in cases]


def scores(model: Model, images: dict[str, Volume]) -> dict[str, tuple[float, bool]]:
    """Score → its value of a scan, and whether it flags the scan."""
    processed, _ = Chain(model.description.preprocessing).apply(Subject("scan", images))
    image, content = torch.from_numpy(processed.image()), torch.from_numpy(processed.content())
    return {own.score: (own.value, own.beyond) for own in model.judgements(image, content, GATE_PERCENTILE)}


def kinds(arguments: argparse.Namespace, tested: Sequence[Case], channels: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yields each kind of scan with its scans, one in memory at a time."""
    yield AS_THEY_ARE, (channels_of(case, channels) for case in tested)
    for change in SPOILT:
        rng = random_stream(arguments.seed, "gate", change.__name__)
        yield (
            change.__name__,
            (
                {
                    name: volume.with_array(change(volume.array.astype(np.float32), rng).astype(np.float32))
                    for name, volume in channels_of(case, channels).items()
                }
                for case in tested
            ),
        )
    for text in arguments.other:
        yield others(text, channels, len(tested))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--values", type=int, nargs="+", default=[1], help="of the structure in the label maps")
    parser.add_argument("--channel", help="of the scans; by default all")
    parser.add_argument("--other", action="append", default=[], help="NAME=DATASET or NAME=DATASET:CHANNEL")
    parser.add_argument("--modality", default="mr")
    parser.add_argument("--spacing", type=float, nargs=3, default=[2.0, 2.0, 2.0])
    parser.add_argument("--patch", type=int, nargs=3, default=[24, 32, 24])
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--test", type=int, default=30)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--image-steps", type=int, default=500, help="of the image models; 0 leaves them out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("gate"))
    arguments = parser.parse_args()
    if arguments.dataset is None:
        print("gate: name --dataset")
        return
    dataset = detect_layout(arguments.dataset).read(arguments.dataset)
    channels = [arguments.channel] if arguments.channel else list(dataset.cases[0].channels)
    own = study(arguments.dataset, channels, arguments)
    own.run(["check", "preprocess", "infer"])
    model = read_model(own.workspace / f"infer/random/n{arguments.patients:02d}/repeat-0/model")
    patients = {case.patient: case for case in own.cases("test")}
    found: dict[str, list[dict[str, tuple[float, bool]]]] = {}
    for kind, scans in kinds(arguments, list(patients.values()), channels):
        found[kind] = []
        for scan in scans:
            try:
                found[kind].append(scores(model, scan))
            except GraftError as error:
                print(f"{kind}: refused before the gate ({error})")
    usual = found.pop(AS_THEY_ARE)
    names = list(usual[0])
    print(f"{arguments.patients} training patients, {len(usual)} test patients, seed {arguments.seed}\n")
    print("| scans | " + " | ".join(f"{name}: AUROC, flagged" for name in names) + " |\n|---|" + "---|" * len(names))
    flagged = [f"–, {np.mean([own[name][1] for own in usual]):.3f}" for name in names]
    print(f"| {AS_THEY_ARE} ({len(usual)}) | " + " | ".join(flagged) + " |")
    for kind, of_kind in found.items():
        if of_kind:
            print(f"| {kind} ({len(of_kind)}) | " + " | ".join(_cell(usual, of_kind, name) for name in names) + " |")
    if rest := usual[MOST_SCANS:]:
        shares = [f"–, {np.mean([own[name][1] for own in rest]):.3f}" for name in names]
        print(f"| {AS_THEY_ARE}, not in a calibration ({len(rest)}) | " + " | ".join(shares) + " |")
    wrong = np.mean([any(beyond for _, beyond in own.values()) for own in usual])
    print(f"\nFlagged by any score among scans as they are: {wrong:.3f}")


def _cell(usual: Sequence[Any], unlike: Sequence[Any], name: str) -> str:
    values = [own[name][0] for own in (*usual, *unlike)]
    area = roc_auc_score([0] * len(usual) + [1] * len(unlike), values)
    return f"{area:.3f}, {np.mean([own[name][1] for own in unlike]):.2f}"


if __name__ == "__main__":
    main()

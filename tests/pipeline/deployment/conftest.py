"""A model that was never trained, and scans with a bright cube: all that predictions need, in seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.image_file import write_volume
from data.modality import Modality
from data.volume import Volume
from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions
from models.posteriors.mean_field import MeanFieldOptions
from pipeline.arms.choices import ArmOptions
from pipeline.arms.member import assemble_member
from pipeline.arms.member_file import read_member
from pipeline.deployment.fingerprint import TrainingFingerprint, case_facts
from pipeline.deployment.gate import FeatureGate
from pipeline.deployment.model_description import ModelDescription
from pipeline.deployment.model_folder import member_name, write_model
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.storage.cached_case import ARRAYS, CachedCase
from pipeline.storage.tensors import save_arrays, save_tensors
from preprocessing.chain import Chain, PreprocessingOptions, default_options
from preprocessing.subject import Subject

SHAPE = (17, 20, 14)
AFFINE = np.array([[2.0, 0, 0, -16], [0, 2.0, 0, -20], [0, 0, 3.0, -21], [0, 0, 0, 1]])
NETWORK = ResidualUNetOptions(channels=(4, 6), encoder_blocks=(0, 1))

MakeModel = Callable[..., Path]
MakeScan = Callable[..., Volume]


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions see one core: their threads follow from it, and the last bits of the results from the threads."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)


@pytest.fixture
def own_scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every bundle has a package `scripts`; none may see that of another."""

    def forget() -> None:
        for name in [n for n in sys.modules if n == "scripts" or n.startswith("scripts.")]:
            del sys.modules[name]

    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    yield
    forget()


def _scan(number: int = 0, shape: tuple[int, int, int] = SHAPE) -> Volume:
    generator = np.random.default_rng(number)
    array = generator.normal(100, 20, shape)
    low = [n // 4 + number % 2 for n in shape]
    array[tuple(slice(a, a + n // 3) for a, n in zip(low, shape, strict=True))] += 150
    return Volume(array.astype(np.float32), AFFINE)


@pytest.fixture(scope="session")
def make_scan() -> MakeScan:
    """Returns a function that makes a scan; the number moves cube and noise."""
    return _scan


def _cached(folder: Path, number: int, chain: PreprocessingOptions, channels: tuple[str, ...]) -> CachedCase:
    """A scan as a study preprocesses it, each of another patient."""
    processed, _ = Chain(chain).apply(Subject("training", dict.fromkeys(channels, _scan(100 + number))))
    own = folder / f"scan-{number}"
    own.mkdir(parents=True)
    arrays = {"image": processed.image(), "mask": processed.content().astype(np.uint8)}
    save_arrays(own / ARRAYS, arrays, {"affine": processed.reference.affine.tolist()})
    return CachedCase(own.name, f"patient-{number}", own, {})


@pytest.fixture(scope="session")
def write_scans() -> Callable[..., list[Path]]:
    """Returns a function that writes scans into a folder."""

    def write(folder: Path, names: list[str]) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}.nii.gz" for name in names]
        for number, path in enumerate(paths):
            write_volume(_scan(number), path)
        return paths

    return write


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Returns a function that writes a model whose first class is what is bright."""

    def make(
        folder: Path,
        *,
        bayesian: bool = True,
        members: int = 1,
        channels: tuple[str, ...] = ("T1",),
        classes: dict[str, int] | None = None,
        preprocessing: PreprocessingOptions | None = None,
        seed: int = 1,
        gate_scans: int = 0,
        **changes: Any,
    ) -> Path:
        arm = (
            ArmOptions(prior="vae", posterior=MeanFieldOptions(initial_log_variance=-3.0)) if bayesian else ArmOptions()
        )
        classes = classes or {"cube": 3}
        files, names = [], []
        for number in range(members):
            network = build_network(NETWORK, len(channels), len(classes) + 1, seed + number)
            member = assemble_member(arm, network, [network.state_dict()])
            names.append(member_name(number))
            files.append(folder.with_name(f"{folder.name}-{names[-1]}"))
            save_tensors(files[-1], member.state_dict())
        chain = preprocessing or default_options(Modality.MR).model_copy(update={"resampling": None})
        scan = _scan()
        processed, records = Chain(chain).apply(Subject("training", dict.fromkeys(channels, scan)))
        image = np.stack([v.array for v in processed.channels.values()])
        everywhere = np.ones(image.shape[1:], dtype=bool)
        facts = case_facts(image, everywhere, processed.reference.affine, channels, records)
        description = {
            "study": "tiny",
            "modality": Modality.MR,
            "channels": channels,
            "preprocessing": chain,
            "graft_version": "0",
            "arm_name": "dwp",
            "arm": arm,
            "objective": "none",
            "training_patients": 1,
            "repeat": 0,
            "network": NETWORK,
            "classes": classes,
            "patch": (16, 16, 8),
            "window": SlidingWindowOptions(),
            "flip_axes": (0,),
            "draws": 3,
            "members": tuple(names),
            "seeds": tuple(range(5, 5 + members)),
            "fingerprint": TrainingFingerprint.of([facts]),
            **changes,
        }
        about = ModelDescription.model_validate(description)
        gate = None
        if gate_scans:
            member = read_member(files[0], arm, about.target_network)
            cases = [_cached(folder.with_name(f"{folder.name}-scans"), n, chain, channels) for n in range(gate_scans)]
            gate = FeatureGate.fit(member, cases, about.patch, about.window, "cpu")
        write_model(folder, about, files, gate)
        for file in files:
            file.unlink()
        return folder

    return make


@pytest.fixture(scope="session")
def model(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bayesian model of one channel and one class, value 3."""
    torch.manual_seed(0)
    return make_model(tmp_path_factory.mktemp("models") / "model")

"""What all tests have in common, and a whole study in miniature: two structures in noise, done in seconds."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before torch is loaded: tests run on small machines, several at a time, and small networks gain nothing from threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import yaml
from filelock import FileLock
from hypothesis import settings

_CLONE = Path(__file__).resolve().parent.parent
_MEMORY = Path("/dev/shm")
_PACKAGES = ("data", "models", "preprocessing", "pipeline", "graft")

SHAPE = (18, 20, 17)
AFFINE = np.array([[-2.0, 0, 0, 18], [0, 2.0, 0, -20], [0, 0, 2.0, -17], [0, 0, 0, 1]])

WriteCohort = Callable[..., Path]
StorePrediction = Callable[..., Path]
WriteStudy = Callable[..., Path]
MadeOnce = Callable[[str, Callable[[Path], None]], Path]


def pytest_configure() -> None:
    """Refuses to test another clone: an editable installation elsewhere would be imported without a word."""
    for package in _PACKAGES:
        found = importlib.util.find_spec(package)
        origin = Path(found.origin).resolve() if found and found.origin else None
        if origin is None or _CLONE not in origin.parents:
            pytest.exit(
                f"the package `{package}` would be imported from {origin}, not from this clone ({_CLONE}); "
                "run `python -m pytest` in the clone's folder, or `make setup` there first",
                returncode=2,
            )
    # A test must not fail because the machine was busy for a moment.
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")
    # Tests leave tens of thousands of small files, and many disks take longer to delete a file than to write it.
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow what starts from the finished study: `make test-fast` does not wait for a whole study."""
    for item in items:
        if "finished_study" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's environment must not change what the tests see."""
    monkeypatch.delenv("GRAFT_DEBUG", raising=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real scans; skips the test where there is none, so that no test passes for want of them."""
    folder = Path(os.environ.get("GRAFT_REAL_DATA", _CLONE / "../shared/real")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real scans in {folder}; set GRAFT_REAL_DATA")
    return folder


def _scan(number: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(number)
    axes = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    label = np.zeros(SHAPE, np.uint8)
    for value, centre in ((1, (6, 6, 8)), (2, (12, 13, 8))):
        place = np.asarray(centre) + generator.uniform(-1, 1, 3)
        distance = sum((axis - c) ** 2 for axis, c in zip(axes, place, strict=True))
        label[distance < generator.uniform(3, 4) ** 2] = value
    image = 100 + 200.0 * (label > 0) + generator.normal(0, 25, SHAPE)
    return image.astype(np.int16), label


@pytest.fixture(scope="session")
def write_cohort() -> WriteCohort:
    """Returns a function that writes a sound MSD dataset into a folder and returns it."""

    # Imported when they are needed, which is after this file has checked whose packages they are.
    from data.image_file import write_volume
    from data.volume import Volume

    def write(root: Path, cases: int = 9) -> Path:
        names = [f"case_{i}" for i in range(cases)]
        for folder in ("imagesTr", "labelsTr"):
            (root / folder).mkdir(parents=True)
        for number, case in enumerate(names):
            image, label = _scan(number)
            write_volume(Volume(image, AFFINE), root / "imagesTr" / f"{case}.nii.gz")
            write_volume(Volume(label, AFFINE), root / "labelsTr" / f"{case}.nii.gz")
        description = {
            "modality": {"0": "T1"},
            "labels": {"0": "background", "1": "left", "2": "right"},
            "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in names],
        }
        (root / "dataset.json").write_text(json.dumps(description))
        rows = [f"{case},P{number}" for number, case in enumerate(names)]
        (root / "patients.csv").write_text("\n".join(["case,patient", *rows]) + "\n")
        return root

    return write


def study(cohort: Path) -> dict[str, Any]:
    """A study whose source is one structure and whose target the other."""
    small = {"max_steps": 15, "hidden": [8], "latent": 2, "batch": 64}
    return {
        "name": "tiny",
        "seed": 4,
        "datasets": {
            "left": {"path": str(cohort), "modality": "mr", "foreground": ["left"]},
            "right": {"path": str(cohort), "modality": "mr", "foreground": ["right"]},
        },
        "source": {"dataset": "left", "patients": 3},
        "target": {"dataset": "right", "pool": 3, "test": 2},
        "preprocessing": {"resampling": {"spacing": [2, 2, 2]}},
        "network": {"name": "residual_unet", "channels": [4, 6], "encoder_blocks": [0, 1]},
        "patches": {"size": [12, 12, 12], "batch": 1},
        "source_training": {"networks": 2, "cycles": 2, "steps_per_cycle": 3, "warm_up": 1, "validation_cases": 1},
        "priors": {"densities": {"vae": small}, "score_samples": 2},
        "target_training": {
            "arms": ["random", "fine_tune", "fine_tune_ends", "dwp"],
            "sizes": [1, 2],
            "reference_sizes": [3],
            "repeats": 1,
            "steps": 4,
        },
        "evaluation": {"resamples": 100},
        # The same on every machine; where it matters what a machine can do, a test says so.
        "computing": {"precision": "float32"},
        # Every section has its picture, and none has more than one of a kind: drawing takes longer than all the rest.
        "report": {
            "overlay_arms": 1, "case_arms": 1, "case_pages": 1, "audited_cases": 1, "filter_groups": 1,
            "filters_shown": 2, "filter_vaes": 1, "quality_cases": 1, "thumbnail_width": 200, "dpi": 50,
            "vector_figures": False,
        },
    }  # fmt: skip


@pytest.fixture(scope="session")
def store_prediction() -> StorePrediction:
    """Returns a function that stores probabilities of the foreground classes as a prediction, and returns its file."""
    import torch

    from pipeline.prediction.stored_prediction import StoredPrediction, prediction_name
    from pipeline.prediction.temperature import log_probability

    def store(
        folder: Path,
        foreground: np.ndarray,
        *,
        case: str = "c",
        affine: np.ndarray | None = None,
        classes: tuple[str, ...] | None = None,
        draws: int = 1,
        information: np.ndarray | None = None,
        volumes_ml: np.ndarray | None = None,
    ) -> Path:
        whole = torch.from_numpy(np.concatenate([1 - foreground.sum(axis=0, keepdims=True), foreground]))
        names = classes or tuple(f"class_{k}" for k in range(1, len(foreground) + 1))
        path = folder / prediction_name(case)
        StoredPrediction(
            case,
            "0",
            names,
            np.eye(4) if affine is None else affine,
            draws,
            log_probability(whole.float()).half(),
            None if information is None else torch.from_numpy(information).half(),
            None if volumes_ml is None else torch.from_numpy(volumes_ml),
        ).write(path)
        return path

    return store


@pytest.fixture(scope="session")
def write_study() -> WriteStudy:
    """Returns a function that writes the study of a cohort, with changed sections, and returns its file."""

    def write(path: Path, cohort: Path, **changes: Any) -> Path:
        raw = study(cohort)
        for key, value in changes.items():
            raw[key] = {**raw[key], **value} if isinstance(value, dict) and key in raw else value
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        return path

    return write


@dataclass(frozen=True)
class FinishedStudy:
    """A study that ran without interruption; tests that change it take a copy.

    Attributes:
        config: its file.
        workspace: its results.
        seconds: how long it took.
    """

    config: Path
    workspace: Path
    seconds: float

    @property
    def cohort(self) -> Path:
        """Its raw scans."""
        return self.config.parent / "cohort"

    def copy(self, folder: Path, write_study: WriteStudy) -> tuple[Path, Path]:
        """Moves it to a place of the test's own (no result knows where it was made): configuration and workspace."""
        shutil.copytree(self.cohort, folder / "cohort")
        shutil.copytree(self.workspace, folder / "workspace")
        return write_study(folder / "tiny.yaml", folder / "cohort"), folder / "workspace"


@contextmanager
def empty_figures() -> Iterator[None]:
    """Leaves figures empty: drawing is a third of the work of a small study, and few tests look at pictures."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw", lambda figure, renderer: None)
        yield


@pytest.fixture
def without_drawing() -> Iterator[None]:
    """For a test that reads the text of a page alone."""
    with empty_figures():
        yield


@pytest.fixture(scope="module")
def module_without_drawing(finished_study: FinishedStudy) -> Iterator[None]:
    """For tests of whole studies; the finished study, whose bytes commands are held against, is drawn before."""
    with empty_figures():
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Returns a function that makes a folder for all processes of the tests; the others wait and find it."""
    root = tmp_path_factory.getbasetemp()
    # Each process of pytest-xdist has its own folder in that of the run.
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder, whole = root / name, root / f"{name}.whole"
        with FileLock(root / f"{name}.lock"):
            if not whole.exists():
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def finished_study(made_once: MadeOnce, write_cohort: WriteCohort, write_study: WriteStudy) -> FinishedStudy:
    """The tiny study, done once for all tests that start from results."""
    from pipeline.cli import main

    def make(folder: Path) -> None:
        config = write_study(folder / "tiny.yaml", write_cohort(folder / "cohort"))
        begin = time.monotonic()
        assert main(["run", str(config), "--workspace", str(folder / "workspace"), "--jobs", "1"]) == 0
        (folder / "seconds").write_text(str(time.monotonic() - begin))

    folder = made_once("finished", make)
    return FinishedStudy(folder / "tiny.yaml", folder / "workspace", float((folder / "seconds").read_text()))


@pytest.fixture(scope="session")
def tiny_pack(finished_study: FinishedStudy, made_once: MadeOnce) -> Path:
    """The source pack of the finished study."""
    from pipeline.cli import main

    def make(folder: Path) -> None:
        words = ["--license", "CC-BY 4.0", "--citation", "Doe 2026", "--title", "Tiny"]
        assert main(["pack", str(finished_study.workspace), "--output", str(folder / "tiny.pack"), *words]) == 0

    return made_once("pack", make) / "tiny.pack"

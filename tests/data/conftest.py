"""Small cohorts on the disk, for the tests of layouts and checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from data.image_file import write_volume
from data.volume import Volume

SHAPE = (12, 14, 10)
AFFINE = np.array([[-1.0, 0, 0, 6], [0, 1.5, 0, -8], [0, 0, 2.0, -9], [0, 0, 0, 1]])


def image_array(number: int, shape: tuple[int, int, int] = SHAPE) -> NDArray:
    """Smooth noise, another one for each number."""
    generator = np.random.default_rng(number)
    texture = gaussian_filter(generator.normal(size=shape), 1.5)
    return np.round(500 + 150 * texture / texture.std() + generator.normal(0, 10, shape)).astype(np.int16)


def label_array(shape: tuple[int, int, int] = SHAPE) -> NDArray:
    """Two cubes, labelled 1 and 2."""
    label = np.zeros(shape, np.uint8)
    label[3:6, 4:8, 3:6] = 1
    label[7:9, 4:8, 3:6] = 2
    return label


@pytest.fixture
def msd_folder(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes a sound MSD dataset of one channel and returns its folder."""

    def write(cases: int = 4, patients: bool = True, name: str = "msd") -> Path:
        root = tmp_path / name
        names = [f"case_{i}" for i in range(cases)]
        for folder in ("imagesTr", "labelsTr"):
            (root / folder).mkdir(parents=True)
        for number, case in enumerate(names):
            write_volume(Volume(image_array(number), AFFINE), root / "imagesTr" / f"{case}.nii.gz")
            write_volume(Volume(label_array(), AFFINE), root / "labelsTr" / f"{case}.nii.gz")
        content = {
            "modality": {"0": "T1"},
            "labels": {"0": "background", "1": "anterior", "2": "posterior"},
            "training": [
                {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in names
            ],
        }
        (root / "dataset.json").write_text(json.dumps(content))
        if patients:
            lines = [f"{case},P{number}" for number, case in enumerate(names)]
            (root / "patients.csv").write_text("\n".join(["case,patient", *lines]) + "\n")
        return root

    return write

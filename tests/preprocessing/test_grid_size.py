"""A wrong spacing is a sentence with the sizes, never a grid that fills the memory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from data.case import Case, ImageSource
from data.checks.battery import check_case
from data.checks.finding import Level
from data.errors import DataError, PreprocessingError
from data.image_file import write_volume
from data.volume import Volume
from preprocessing.chain import Chain, Modality, default_options
from preprocessing.grid import LARGEST_GRID, isotropic_grid, respaced_grid
from preprocessing.subject import load_subject

SHAPE = (9, 10, 11)


def scan(spacing: float) -> Volume:
    array = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    return Volume(array, np.diag([spacing, spacing, spacing, 1.0]))


@pytest.mark.parametrize("spacing", [150.0, 1e5, 1e30])
def test_a_grid_that_cannot_be_made_is_refused_with_its_size(spacing: float) -> None:
    fine = np.array([1.0, 1.0, 1.0])
    for make in (lambda v: respaced_grid(v, fine), lambda v: isotropic_grid(v, 1.0)):
        with pytest.raises(
            PreprocessingError, match=f"9×10×11 voxels of {re.escape(f'{spacing:g}')} × .*voxels of 1 × 1 × 1 mm"
        ):
            make(scan(spacing))
    with pytest.raises(PreprocessingError, match="1,350×1,500×1,650 voxels"):
        respaced_grid(scan(150.0), fine)


def test_as_many_voxels_as_the_scan_has_are_allowed() -> None:
    large = Volume(np.broadcast_to(np.float32(0), (1024, 1024, 1024)), np.eye(4))
    assert large.array.size > LARGEST_GRID
    assert respaced_grid(large, np.ones(3))[0] == large.shape


@pytest.mark.parametrize("spacing", [500.0, 1e30, 1e-3, 1e-6, 1e-30])
def test_an_impossible_size_is_an_error_in_checks_and_preprocessing(tmp_path: Path, spacing: float) -> None:
    write_volume(scan(spacing).with_array(scan(1).array * 1), tmp_path / "a.nii.gz")
    write_volume(scan(spacing).with_array((scan(1).array > 100).astype(np.uint8)), tmp_path / "l.nii.gz")
    case = Case("a", "a", {"T1": ImageSource(tmp_path / "a.nii.gz")}, tmp_path / "l.nii.gz")
    _, findings = check_case(case, ("T1",), (0, 1))
    wrong = [finding for finding in findings if finding.level is Level.ERROR]
    assert "implausible_spacing" in {finding.check for finding in wrong}
    with pytest.raises(DataError, match=r"a\.nii\.gz has a spacing of .* mm large"):
        load_subject(case)


def test_a_scan_of_the_right_size_goes_through_the_chain(tmp_path: Path) -> None:
    write_volume(scan(2.0), tmp_path / "a.nii.gz")
    case = Case("a", "a", {"T1": ImageSource(tmp_path / "a.nii.gz")})
    processed, _ = Chain(default_options(Modality.MR)).apply(load_subject(case))
    assert processed.reference.shape == (18, 20, 22) or min(processed.reference.shape) >= 18

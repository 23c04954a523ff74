"""A check that fails is a finding about that check: nothing else is lost, and no image is too odd to be checked."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import data.checks.battery as battery
from data.case import Case, ImageSource
from data.checks.battery import check_case, check_dataset
from data.checks.finding import Finding, Level
from data.checks.observation import CaseObservation
from data.checks.report import Presence
from data.checks.summary import intensity_step
from data.image_file import read_volume, write_volume
from data.layouts.detection import read_dataset
from data.volume import Volume

Write = Callable[..., Path]


def check_that_fails(case: CaseObservation) -> Iterator[Finding]:
    yield Finding(Level.INFO, case.case.name, "said_before", "half of it", "nothing")
    raise ZeroDivisionError("a bug")


def test_a_failing_check_is_a_warning_and_the_rest_is_kept(
    msd_folder: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = msd_folder()
    (root / "imagesTr" / "case_1.nii.gz").write_bytes(b"text")
    monkeypatch.setattr(battery, "CASE_CHECKS", (check_that_fails, *battery.CASE_CHECKS))
    caplog.set_level(logging.DEBUG)
    report = check_dataset(read_dataset(root))
    failures = [finding for finding in report.findings if finding.check == "internal_error"]
    assert [finding.case for finding in failures] == [f"case_{i}" for i in range(4)]
    assert {finding.level for finding in failures} == {Level.WARNING}
    assert failures[0].found == "internal error in check that_fails (ZeroDivisionError: a bug)"
    assert "--debug" in failures[0].fix
    assert "trace" not in failures[0].as_json()
    assert [f.case for f in report.findings if f.check == "unreadable_file"] == ["case_1"]
    assert report.table["case_2"]["T1"] is Presence.PRESENT
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("name", ["summarise", "check_near_duplicates", "check_spacing"])
def test_a_failing_summary_or_cohort_check_costs_itself_alone(
    msd_folder: Write, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fails(*arguments: object) -> object:
        raise ValueError("a bug")

    fails.__name__ = name
    monkeypatch.setattr(battery, name, fails)
    report = check_dataset(read_dataset(msd_folder()))
    assert {finding.check for finding in report.findings} == {"internal_error"}
    assert report.exit_code() == 0
    assert report.table["case_2"] == {
        "T1": Presence.PRESENT,
        "label": Presence.PRESENT,
        "brain_mask": Presence.ABSENT,
    }


@pytest.mark.parametrize("padding", [-1024, -2000, -2048, -3024, -32768])
def test_padding_far_below_the_other_values_is_no_grey_value_step(padding: int) -> None:
    values = np.random.default_rng(0).integers(-1024, 3072, 5000).astype(np.float32)
    assert intensity_step(np.append(values, padding)) is None
    # An unusual step is still seen beside such a value.
    scaled = np.append(values * np.float32(1.37), np.float32(1.37 * padding * 3))
    assert intensity_step(scaled) == pytest.approx(1.37, rel=1e-5)
    assert intensity_step(np.append(np.arange(300, 3000, 300), 0.0)) is None


def odd_images() -> dict[str, np.ndarray]:
    shape = (9, 10, 11)
    generator = np.random.default_rng(0)
    noise = generator.normal(size=shape)
    stripped = np.zeros(shape, np.int16)
    stripped[2:7, 2:7, 2:7] = generator.integers(300, 10000, (5, 5, 5))
    huge = np.where(noise > 0, 1e38, -1e38).astype(np.float32)
    return {
        "isolated minimum": stripped,
        "constant": np.full(shape, 5.0, np.float32),
        "all NaN": np.full(shape, np.nan, np.float32),
        "all infinite": np.full(shape, np.inf, np.float32),
        "one finite voxel": np.where(np.arange(990).reshape(shape) == 5, 1.0, np.nan).astype(np.float32),
        "one voxel": np.ones((1, 1, 1), np.float32),
        "one bright voxel": (np.arange(990).reshape(shape) == 500).astype(np.float32),
        "two values": (noise > 0).astype(np.uint8),
        "±1e38": huge,
        "1e38 noise": (np.clip(noise, -3, 3) * 1e38).astype(np.float32),
        "1e-38 noise": (noise * 1e-38).astype(np.float32),
        "beyond float32": noise * 1e300,
        "int32 extremes": np.where(noise > 0, 2**31 - 1, -(2**31)).astype(np.int32),
        "one slice": noise[:, :, :1].astype(np.float32),
        "two slices": noise[:, :, :2].astype(np.float32),
        "bool-like": (noise > 3).astype(np.uint8),
    }


@pytest.mark.parametrize("kind", odd_images())
def test_no_odd_image_makes_a_check_fail(tmp_path: Path, kind: str) -> None:
    array = odd_images()[kind]
    for name in ("T1", "T2"):
        write_volume(Volume(array if name == "T1" else array[::-1].copy(), np.eye(4)), tmp_path / f"{name}.nii.gz")
    write_volume(Volume(np.arange(array.size).reshape(array.shape) % 2, np.eye(4)), tmp_path / "label.nii.gz")
    channels = {name: ImageSource(tmp_path / f"{name}.nii.gz") for name in ("T1", "T2")}
    case = Case("a", "a", channels, tmp_path / "label.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary, findings = check_case(case, ("T1", "T2"), (0, 1))
        duplicates = list(battery.check_near_duplicates([summary] * 6))
    assert not [finding for finding in findings if finding.check in ("internal_error", "unreadable_file")]
    assert isinstance(duplicates, list)
    if kind in ("constant", "all NaN", "all infinite", "one voxel", "one slice", "beyond float32"):
        assert any(finding.level is Level.ERROR for finding in findings)


def test_the_padded_cohort_has_no_finding(msd_folder: Write) -> None:
    root = msd_folder()
    for number, padding in enumerate((-1024, -2000, -2048, -3024)):
        path = root / "imagesTr" / f"case_{number}.nii.gz"
        volume = read_volume(path)
        array = np.round(volume.array).astype(np.int16)
        array[:, :2] = padding
        write_volume(volume.with_array(array), path)
    assert [f for f in check_dataset(read_dataset(root)).findings if f.level is not Level.INFO] == []

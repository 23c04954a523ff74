"""Grey values of another scale than their modality's: told of each case, and of a case among others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.checks.battery import check_dataset
from data.checks.finding import Finding, Level
from data.checks.stripped_head import stripped_brain_ml
from data.hounsfield import hounsfield_fault, looks_like_ct, range_fault
from data.image_file import write_volume
from data.layouts.detection import read_dataset
from data.modality import Modality
from data.plain_number import plain_duration, plain_number, plain_span
from data.volume import Volume

Scale = Callable[[np.ndarray], np.ndarray]
SHAPE = (24, 28, 20)


def body(number: int = 0) -> np.ndarray:
    """A trunk in air, in Hounsfield units: fat around soft tissue around bone."""
    generator = np.random.default_rng(number)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    radius = (grid**2).sum(axis=0) + generator.normal(0, 0.02, SHAPE)
    tissue = np.select([radius < 0.05, radius < 0.5, radius < 0.7], [700, 60, -90], -1000)
    return (tissue + generator.normal(0, 15, SHAPE)).round()


def mr(number: int = 0) -> np.ndarray:
    return np.where(body(number) > -500, body(number) * 2 + 400, 20).clip(0)


def grey_levels(array: np.ndarray) -> np.ndarray:
    return ((array + 1024) / 3000 * 255).round().clip(0, 255)


WRONG: dict[str, tuple[Scale, str]] = {
    "1024 added": (lambda a: a + 1024, "with 1,024 added"),
    "1000 added": (lambda a: a + 1000, "with 1,000 added"),
    "1024 added, cut at 0": (lambda a: (a + 1024).clip(0), "with 1,024 added"),
    "32768 added": (lambda a: a + 32768, "with 32,768 added"),
    "1024 taken away twice": (lambda a: a - 1024, "with -1,024 added"),
    "1000 taken away twice": (lambda a: a - 1000, "with -1,000 added"),
    "times 10": (lambda a: a * 10, "10 × Hounsfield units"),
    "0 to 255": (grey_levels, "grey levels from 0 to 255"),
    "0 to 1": (lambda a: grey_levels(a) / 255, "grey levels from 0 to 1"),
    "standard scores": (lambda a: (a - a.mean()) / a.std(), "not a CT in Hounsfield units"),
    "counts of PET": (lambda a: (a + 1024).clip(0) * 7 + 9000, "not a CT in Hounsfield units"),
}
RIGHT: dict[str, Scale] = {
    "whole": lambda a: a,
    "padded with -2000": lambda a: np.pad(a, 3, constant_values=-2000),
    "padded with -3024": lambda a: np.pad(a, 3, constant_values=-3024),
    "crop without air": lambda a: a[5:19, 6:22, 5:15],
    "windowed": lambda a: a.clip(-160, 240),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_ct_on_another_scale_is_told(name: str) -> None:
    scale, words = WRONG[name]
    fault = hounsfield_fault(scale(body()))
    assert fault is not None
    assert words in fault.text
    assert range_fault(scale(body()), Modality.CT) == fault
    assert not range_fault(mr(), Modality.MR)


@pytest.mark.parametrize("name", RIGHT)
def test_hounsfield_units_are_no_fault(name: str) -> None:
    assert hounsfield_fault(RIGHT[name](body())) is None


@pytest.mark.slow
@pytest.mark.parametrize("value", [0, -1024, -3024, 5000])
@pytest.mark.parametrize("name", [*WRONG, *RIGHT])
def test_wide_padding_changes_nothing_of_what_is_said(name: str, value: int) -> None:
    array = WRONG[name][0](body()) if name in WRONG else RIGHT[name](body())
    padded = np.pad(array, ((70, 40), (0, 90), (55, 60)), constant_values=value)
    assert hounsfield_fault(padded) == hounsfield_fault(array)
    assert looks_like_ct(padded) == looks_like_ct(array)


def test_mr_and_ct_are_told_apart() -> None:
    assert looks_like_ct(body())
    assert not looks_like_ct(mr())
    assert not looks_like_ct(mr() - mr().mean())
    assert hounsfield_fault(mr()) is not None
    fault = range_fault(body(), Modality.MR_HEAD)
    assert fault is not None
    assert "looks like CT in Hounsfield units" in fault.text


def findings(
    folder: Path, arrays: dict[str, np.ndarray], modality: Modality | None = None, channel: str = "image"
) -> list[Finding]:
    lines = [f"case,{channel}"]
    for name, array in arrays.items():
        write_volume(Volume(array.astype(np.float32), np.eye(4)), folder / f"{name}.nii.gz")
        lines.append(f"{name},{name}.nii.gz")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    found = check_dataset(read_dataset(folder / "manifest.csv"), modality=modality).findings
    return [finding for finding in found if finding.check in ("value_range", "stripped_head")]


def test_two_of_five_with_1024_added_stand_out_without_a_modality(tmp_path: Path) -> None:
    found = findings(tmp_path, {f"c{i}": body(i) + (1024 if i in (1, 3) else 0) for i in range(5)})
    assert [(f.level, f.case) for f in found] == [(Level.WARNING, "c1"), (Level.WARNING, "c3")]
    assert all("1,024 added" in f.found and "3 of the 5 cases hold Hounsfield units" in f.found for f in found)


def test_all_of_them_are_told_where_ct_is_known(tmp_path: Path) -> None:
    arrays = {f"c{i}": body(i) + 1024 for i in range(3)}
    assert findings(tmp_path, arrays) == []
    assert [f.case for f in findings(tmp_path, arrays, Modality.CT)] == ["c0", "c1", "c2"]
    assert [f.case for f in findings(tmp_path, arrays, channel="CT")] == ["c0", "c1", "c2"]


@pytest.mark.parametrize("scale", [lambda a: a + 500, lambda a: a / 10, lambda a: a.clip(-160, 240)])
def test_a_ct_without_air_is_odd_among_those_with_air(tmp_path: Path, scale: Scale) -> None:
    arrays = {f"c{i}": scale(body(i)) if i == 2 else body(i) for i in range(5)}
    (found,) = findings(tmp_path, arrays, Modality.CT)
    assert (found.level, found.case) == (Level.WARNING, "c2")
    assert "4 of the 5 cases hold air" in found.found
    # Where that is usual, it is nothing to tell.
    assert findings(tmp_path, arrays | {"c1": scale(body(1))}, Modality.CT) == []


def test_one_ct_among_mr_is_the_odd_one(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, {f"c{i}": body(i) if i == 2 else mr(i) for i in range(4)})
    assert (found.case, "3 of the 4 cases do not" in found.found) == ("c2", True)
    assert [f.case for f in findings(tmp_path, {f"c{i}": mr(i) for i in range(4)})] == []


def ball(radius: float, neck: bool = False, background: float = 0.0, noise: float = 0.0) -> Volume:
    """A ball of a radius in mm on a 3 mm grid, with a cylinder down to the lower face for a neck."""
    generator = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(3.0 * (np.arange(80) - 39.5) for _ in range(3)), indexing="ij"))
    inside = (grid**2).sum(axis=0) < radius**2
    if neck:
        inside |= ((grid[:2] ** 2).sum(axis=0) < (0.8 * radius) ** 2) & (grid[2] < 0)
    array = np.where(
        inside, generator.normal(500, 60, inside.shape), background + noise * generator.random(inside.shape)
    )
    return Volume(array.astype(np.float32), np.diag([3.0, 3, 3, 1]))


def test_a_stripped_brain_is_told_from_a_head() -> None:
    assert stripped_brain_ml(ball(70)) == pytest.approx(4 / 3 * np.pi * 7.0**3, rel=0.02)
    assert stripped_brain_ml(ball(70, background=-1.7)) is not None
    for head in (ball(70, noise=5), ball(70, neck=True), ball(95), ball(40)):
        assert stripped_brain_ml(head) is None


def test_a_stripped_brain_given_as_a_head_is_said(tmp_path: Path) -> None:
    arrays = {"stripped": ball(70).array, "raw": ball(95, noise=5).array}
    for name, array in arrays.items():
        write_volume(Volume(array.astype(np.float32), np.diag([3.0, 3, 3, 1])), tmp_path / f"{name}.nii.gz")
    (tmp_path / "manifest.csv").write_text("case,T1\nraw,raw.nii.gz\nstripped,stripped.nii.gz\n")
    dataset = read_dataset(tmp_path / "manifest.csv")

    def told(modality: Modality) -> list[str | None]:
        found = check_dataset(dataset, modality=modality).findings
        return [finding.case for finding in found if finding.check == "stripped_head"]

    assert told(Modality.MR_HEAD) == ["stripped"]
    assert told(Modality.MR_BRAIN) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(1754.3, "1,754"), (2.236, "2.24"), (0.03567, "0.0357"), (2.0, "2"), (151.4, "151"), (-1024, "-1,024"), (0, "0")],
)
def test_numbers_are_written_for_people(value: float, text: str) -> None:
    assert plain_number(value) == text
    assert plain_span(1750, 2240.4) == "1,750 to 2,240"
    assert plain_span(0.9999, 1) == "1"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.24, "4.2 s"),
        (59.96, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (7504, "2 h 05 min"),
    ],
)
def test_durations_are_printed_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert plain_duration(seconds) == text

"""What a plan reads from the scans: modality, structures, channels, sizes, and the best Dice of a grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.case import Case
from data.dataset import Dataset
from data.errors import ConfigError, DataError
from data.image_file import write_volume
from data.layouts.detection import read_dataset
from data.modality import Modality
from data.volume import Volume
from pipeline.planning.fingerprint import fingerprint
from pipeline.planning.grid_dice import best_dice
from pipeline.planning.scan_kind import modality_of
from pipeline.planning.structures import as_label, chosen_channels, drawn_structures, named_structures


@pytest.fixture
def cohort(write_cohort: Callable, tmp_path: Path) -> Dataset:
    return read_dataset(write_cohort(tmp_path / "cohort", cases=3))


def test_mr_is_asked_for_in_a_sentence(cohort: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"mr_head \(whole heads\), mr_brain .*, mr .* or ct"):
        modality_of(cohort, ["T1"], None, "--modality")
    assert modality_of(cohort, ["T1"], Modality.MR, "--modality")[0] is Modality.MR


def test_ct_is_known_by_its_values_or_its_name(cohort: Dataset) -> None:
    assert modality_of(cohort, ["CT"], None, "--modality")[0] is Modality.CT
    for case in cohort.cases:
        volume = case.channels["T1"].read()
        tissue = np.where(np.arange(volume.shape[0])[:, None, None] < 8, -1000.0, 40.0) + 10 * np.sin(volume.array)
        write_volume(volume.with_array(tissue.astype(np.float32)), case.channels["T1"].path)
    assert modality_of(cohort, ["T1"], None, "--modality") == (
        Modality.CT,
        "the values are Hounsfield units with air",
    )


def test_structures_are_the_labels_that_were_drawn_or_those_that_are_named(cohort: Dataset) -> None:
    assert drawn_structures(cohort, {0, 2}) == {"right": (2,)}
    assert drawn_structures(cohort, {0, 1, 2}, without={"x": (2,)}) == {"left": (1,)}
    assert named_structures("right, both=left+2", cohort) == {"right": (2,), "both": (1, 2)}
    for text in ("left,left", "left,", "=left", "both=left+"):
        with pytest.raises(ConfigError, match="--foreground"):
            named_structures(text, cohort)
    with pytest.raises(DataError, match="not declared"):
        named_structures("middle", cohort)
    with pytest.raises(DataError, match="nothing is labelled"):
        drawn_structures(cohort, {0})


def test_voxels_without_annotation_are_no_structure(cohort: Dataset) -> None:
    assert drawn_structures(cohort, {0, 1, 2}, ignored=[1]) == {"right": (2,)}
    assert [as_label(text) for text in ("255", "left", "-1", "²", "9" * 5000)] == [255, "left", "-1", "²", "9" * 5000]
    assert cohort.ignored_label_values([255, "LEFT"]) == [255, 1]
    with pytest.raises(DataError, match="'left' of `ignore` belongs to the foreground"):
        cohort.ignored_label_values(["left"], used={1})


def test_channels_are_those_that_both_have_unless_each_has_one(cohort: Dataset) -> None:
    other = Dataset(Path("other"), "msd", (), ("FLAIR",), {}, True)
    both = Dataset(Path("both"), "msd", (), ("FLAIR", "T2", "T1"), {}, True)
    assert chosen_channels(None, cohort, other) == (["T1"], ["FLAIR"])
    assert chosen_channels(None, both, other) == (["FLAIR"], ["FLAIR"])
    assert chosen_channels(("T1",), both, cohort) == (["T1"], ["T1"])
    with pytest.raises(DataError, match="no channel 'T2'"):
        chosen_channels(("T2",), both, cohort)
    with pytest.raises(DataError, match="a channel that both have"):
        chosen_channels(None, both, Dataset(Path("pd"), "msd", (), ("PD", "MT"), {}, True))


def drawn(folder: Path, label: np.ndarray, spacing: tuple[float, float, float]) -> Case:
    from data.case import ImageSource

    image = np.random.default_rng(0).normal(100, 10, label.shape).astype(np.float32)
    affine = np.diag([*spacing, 1.0])
    write_volume(Volume(image, affine), folder / "image.nii.gz")
    write_volume(Volume(label.astype(np.uint8), affine), folder / "label.nii.gz")
    return Case("a", "a", {"T1": ImageSource(folder / "image.nii.gz")}, folder / "label.nii.gz")


def test_a_fingerprint_measures_scan_and_structures_in_mm(tmp_path: Path) -> None:
    label = np.zeros((20, 24, 12))
    label[2:8, 3:13, 4:6] = 1
    label[10:12, 3:5, 4:9] = 2
    found = fingerprint([drawn(tmp_path, label, (1.0, 2.0, 5.0))], "T1", {"x": (1,), "y": (2,)}, Modality.MR)
    assert found.spacings.tolist() == [[1.0, 2.0, 5.0]]
    assert found.extent.tolist() == [20.0, 48.0, 60.0]
    assert {name: box.tolist() for name, box in found.cases[0].boxes.items()} == {
        "x": [6.0, 20.0, 10.0],
        "y": [2.0, 4.0, 25.0],
    }
    assert found.structure.tolist() == [6.0, 20.0, 25.0]
    assert 70 < found.foreground_range[0] < found.foreground_range[1] < 130


def test_the_grid_of_the_scans_keeps_every_voxel_and_a_coarse_one_does_not(tmp_path: Path) -> None:
    label = np.zeros((24, 24, 24))
    label[4:20, 4:20, 4:20] = 1
    # One voxel thick: no grid of twice the spacing can show it.
    label[2, 4:20, 4:20] = 2
    case, structures = drawn(tmp_path, label, (1.0, 1.0, 1.0)), {"cube": (1,), "sheet": (2,)}
    same = best_dice([case], structures, (1.0, 1.0, 1.0))
    assert {name: (dice.median, dice.worst) for name, dice in same.items()} == {"cube": (1.0, 1.0), "sheet": (1.0, 1.0)}
    coarse = best_dice([case], structures, (2.0, 2.0, 2.0))
    assert coarse["cube"].median > 0.9
    assert coarse["sheet"].median < 0.7
    assert coarse["sheet"].too_coarse

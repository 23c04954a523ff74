"""Which scans a user means, and what is said of those that do not fit the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.image_file import write_frames, write_volume
from data.volume import Volume
from pipeline.deployment.case_files import CaseFiles, require_apart
from pipeline.deployment.class_words import file_words
from pipeline.deployment.input_cases import collect_cases

WriteScans = Callable[[Path, list[str]], list[Path]]


def paths(case) -> list[tuple[str, str, int | None]]:
    return [(name, source.path.name, source.frame) for name, source in case.case.channels.items()]


def test_files_and_folders_of_one_channel(write_scans: WriteScans, tmp_path: Path) -> None:
    files = write_scans(tmp_path / "in", ["b", "a", ".hidden"])
    (tmp_path / "in" / "notes.txt").write_text("no scan")
    for inputs in ([tmp_path / "in"], files[:2]):
        found = collect_cases(inputs, ["T1"])
        assert [case.name for case in found] == ["a", "b"]
        assert paths(found[0]) == [("T1", "a.nii.gz", None)]


def test_numbered_channels_are_one_case(write_scans: WriteScans, tmp_path: Path) -> None:
    files = write_scans(tmp_path / "in", ["x_0000", "x_0001", "y_0001", "y_0000"])
    for inputs in ([tmp_path / "in"], [files[0], files[2]]):
        found = collect_cases(inputs, ["T1", "FLAIR"])
        assert [case.name for case in found] == ["x", "y"]
        assert paths(found[1]) == [("T1", "y_0000.nii.gz", None), ("FLAIR", "y_0001.nii.gz", None)]
    one_channel = collect_cases([tmp_path / "in"], ["T1"])
    assert all(case.case is None and "has 2 channels; expected 1" in case.fault for case in one_channel)


def test_numbers_that_start_elsewhere_are_names(write_scans: WriteScans, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", ["vol_0001", "vol_0002"])
    assert [case.name for case in collect_cases([tmp_path / "in"], ["T1"])] == ["vol_0001", "vol_0002"]


def test_frames_of_a_file_are_channels(make_scan: Callable[..., Volume], tmp_path: Path) -> None:
    write_frames([make_scan(0), make_scan(1)], tmp_path / "both.nii.gz")
    (case,) = collect_cases([tmp_path / "both.nii.gz"], ["T1", "T2"])
    assert paths(case) == [("T1", "both.nii.gz", 0), ("T2", "both.nii.gz", 1)]
    (other,) = collect_cases([tmp_path / "both.nii.gz"], ["T1", "T2", "FLAIR"])
    assert "has 2 channels; expected 3" in other.fault


def test_a_manifest_names_channels_and_masks(write_scans: WriteScans, tmp_path: Path) -> None:
    write_scans(tmp_path, ["f", "t", "m"])
    table = tmp_path / "cases.csv"
    table.write_text("case,flair,T1w,label,brain_mask\none,f.nii.gz,t.nii.gz,gone.nii.gz,m.nii.gz\ntwo,f.nii.gz,,,\n")
    one, two = collect_cases([table], ["T1", "FLAIR"])
    assert paths(one) == [("T1", "t.nii.gz", None), ("FLAIR", "f.nii.gz", None)]
    # A label is of no use to a prediction, and a broken one must not stop it; a brain mask is used.
    assert one.case.label is None
    assert one.case.brain_mask.name == "m.nii.gz"
    assert two.case is None
    assert "channels flair; expected the model's: T1, FLAIR; to fix it, add T1" in two.fault


def test_a_dataset_of_another_channel_is_refused(write_scans: WriteScans, tmp_path: Path) -> None:
    write_scans(tmp_path / "imagesTr", ["a"])
    description = {"modality": {"0": "T2"}, "labels": {"0": "background"}, "training": [{"image": "imagesTr/a.nii.gz"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    (case,) = collect_cases([tmp_path], ["T1"])
    assert "has the channels T2; expected the model's: T1" in case.fault
    assert collect_cases([tmp_path], ["T2"])[0].case is not None


def test_bids_sessions_keep_their_names(make_scan: Callable[..., Volume], tmp_path: Path) -> None:
    for stem in ("sub-1/ses-a/anat/sub-1_ses-a_acq-fast_T1w", "sub-2/anat/sub-2_acq-fast_T1w"):
        path = tmp_path / f"{stem}.nii.gz"
        path.parent.mkdir(parents=True)
        write_volume(make_scan(0), path)
    one, two = (CaseFiles.of(case) for case in collect_cases([tmp_path], ["T1"]))
    assert (one.key, one.mask) == ("sub-1/ses-a/anat", "sub-1_ses-a_acq-fast_desc-graft_dseg.nii.gz")
    assert (two.key, two.facts) == ("sub-2/anat", "sub-2_acq-fast_desc-graft_dseg.json")
    assert two.probabilities(["left core"]) == {"left core": "sub-2_acq-fast_label-leftcore_desc-graft_probseg.nii.gz"}


def test_a_bids_scan_keeps_its_datatype_and_what_is_no_scan_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "sub-1" / "ct"
    folder.mkdir(parents=True)
    for name in ("sub-1_ct", "sub-1_label-lesion_roi"):
        (folder / f"{name}.nii.gz").touch()
    (folder / "sub-1_swi.nii.gz").touch()
    (case,) = collect_cases([tmp_path], ["CT"])
    assert CaseFiles.of(case).key == "sub-1/ct"
    assert CaseFiles.of(case).sources == ("bids:raw:sub-1/ct/sub-1_ct.nii.gz",)
    assert ["sub-1_swi.nii.gz is not used" in message for message in caplog.messages] == [True]


def test_labels_of_a_dataset_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "a_0000.nii.gz").touch()
    labels = {"background": 0, "whole": [1, 2], "ignore": 3}
    content = {"channel_names": {"0": "T1"}, "labels": labels, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    (case,) = collect_cases([tmp_path], ["T1"])
    assert case.case is not None


def test_what_cannot_be_read_later_is_still_a_case(tmp_path: Path) -> None:
    missing = tmp_path / "gone.nii.gz"
    (case,) = collect_cases([missing], ["T1"])
    assert case.case is not None
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"nothing")
    (case,) = collect_cases([broken], ["T1", "T2"])
    assert "broken.nii.gz: cannot be read" in case.fault


def test_names_must_differ_and_folders_must_hold_scans(write_scans: WriteScans, tmp_path: Path) -> None:
    (one,), (two,) = write_scans(tmp_path / "1", ["a"]), write_scans(tmp_path / "2", ["a"])
    with pytest.raises(DataError, match="two inputs are both named 'a'"):
        collect_cases([one, two], ["T1"])
    assert len(collect_cases([one, one], ["T1"])) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not in a known layout"):
        collect_cases([tmp_path / "empty"], ["T1"])
    np.testing.assert_equal(len(collect_cases([tmp_path / "1"], ["T1"])), 1)


@pytest.mark.parametrize("name", [".", "..", "-x", "a\x1b[31m", "a\udcff", "x" * 200, "predictions.csv"])
def test_an_odd_file_name_is_the_fault_of_its_case(write_scans: WriteScans, tmp_path: Path, name: str) -> None:
    write_scans(tmp_path / "in", ["fine", name])
    files = [tmp_path / "in" / f"{stem}.nii.gz" for stem in ("fine", name)]
    odd, fine = sorted(collect_cases(files, ["T1"]), key=lambda case: case.name == "fine")
    assert fine.case is not None
    assert odd.case is None
    assert ": the file name " in odd.fault


def test_names_must_differ_in_more_than_capitals(write_scans: WriteScans, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", ["a", "A"])
    with pytest.raises(DataError, match="two inputs are named 'A' and 'a'"):
        collect_cases([tmp_path / "in"], ["T1"])


def test_no_case_lies_in_the_folder_of_another(write_scans: WriteScans, tmp_path: Path) -> None:
    write_scans(tmp_path / "bids" / "sub-1" / "ses-a" / "anat", ["sub-1_ses-a_T1w"])
    write_scans(tmp_path / "in", ["sub-1", "sub-2"])
    bids, one, two = collect_cases([tmp_path / "bids", tmp_path / "in"], ["T1"])[::-1]
    assert sorted(case.name for case in (bids, one, two)) == ["sub-1", "sub-1_ses-a", "sub-2"]
    files = {case.name: CaseFiles.of(case) for case in (bids, one, two)}
    require_apart([files["sub-1_ses-a"], files["sub-2"]])
    with pytest.raises(DataError, match="'sub-1/ses-a/anat' would lie inside the results of 'sub-1'"):
        require_apart(files.values())


@pytest.mark.parametrize(
    ("names", "plain", "bids"),
    [
        (["left core", "T1+C"], ["left-core", "T1+C"], ["leftcore", "T1C"]),
        (["Läsion", "肿瘤", "опухоль"], ["Läsion", "肿瘤", "опухоль"], ["Lasion", "structure2", "structure3"]),
        (["a b", "a-b", "a/b"], ["a-b-1", "a-b-2", "a-b-3"], ["ab1", "ab2", "ab3"]),
        (["A", "a"], ["A-1", "a-2"], ["A1", "a2"]),
        (["a", "a ", "a-1"], ["a-1", "a-2", "a-1-3"], ["a1", "a2", "a13"]),
        (["+", "!"], ["+", "structure2"], ["structure1", "structure2"]),
        (["../x", "$(y)"], ["x", "y"], ["x", "y"]),
    ],
)
def test_classes_have_words_of_their_own_in_file_names(names: list[str], plain: list[str], bids: list[str]) -> None:
    assert list(file_words(names).values()) == plain
    assert list(file_words(names, bids=True).values()) == bids


def test_long_classes_fit_into_file_names() -> None:
    names = [f"{'肿' * 50}{number}" for number in range(3)]
    words = file_words(names)
    assert len({*words.values()}) == 3
    assert all(len(word.encode()) < 50 for word in words.values())

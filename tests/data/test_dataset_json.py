"""`dataset.json` of MSD and nnU-Net: regions and ignored labels are read, and every wrong entry is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from data.checks.battery import check_dataset
from data.checks.finding import Level
from data.dataset import Dataset
from data.errors import DataError
from data.ignored_labels import ignored_values
from data.layouts.detection import read_dataset

LABELS = {"background": 0, "one": 1, "two": 2}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_nnunet(root: Path, ending: str = ".nii.gz", **changes: Any) -> Path:
    """Three cases of two channels; a change to `None` takes the key away."""
    for case in ("a", "b", "c"):
        touch(*(root / "imagesTr" / f"{case}_{i:04d}{ending}" for i in range(2)), root / "labelsTr" / f"{case}{ending}")
    content = {"channel_names": {"0": "T1", "1": "T2"}, "labels": LABELS, "numTraining": 3, "file_ending": ending}
    return write(root, content | changes)


def write_msd(root: Path, **changes: Any) -> Path:
    """Three cases of one channel; a change to `None` takes the key away."""
    entries = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in ("a", "b", "c")]
    for entry in entries:
        touch(root / entry["image"], root / entry["label"])
    labels = {"0": "background", "1": "one", "2": "two"}
    return write(root, {"modality": {"0": "T1"}, "labels": labels, "training": entries} | changes)


def write(root: Path, content: Mapping[str, Any]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def refused(root: Path, message: str) -> DataError:
    """Reading fails with one sentence that names the file and what to do."""
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(root)
    assert str(root / "dataset.json") in caught.value.found
    assert caught.value.expected
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    return caught.value


def checks(dataset: Dataset) -> dict[str, str]:
    return {finding.check: finding.found for finding in dataset.findings}


WRITERS: dict[str, Callable[..., Path]] = {"nnunet": write_nnunet, "msd": write_msd}


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("name", ["ignore", "Ignore", "IGNORED", "ignore_label", "Ignore region", "ignore-index"])
def test_a_label_to_ignore_is_no_structure(tmp_path: Path, layout: str, name: str) -> None:
    labels = LABELS | {name: 3} if layout == "nnunet" else {"0": "background", "1": "one", "3": name}
    dataset = read_dataset(WRITERS[layout](tmp_path, labels=labels))
    assert dataset.ignored == (3,)
    for label in (name, 3):
        with pytest.raises(DataError, match="is that of voxels without annotation"):
            dataset.label_values([label])
    assert dataset.label_values(["one"]) == [1]


@pytest.mark.parametrize(
    ("table", "text", "value"),
    [
        ("labels.csv", "value,name\n1,one\n255,Ignore\n", 255),
        ("derivatives/m/dseg.tsv", "index\tname\n1\tone\n3\tignore\n", 3),
    ],
)
def test_a_table_of_labels_is_held_to_the_same_rule(tmp_path: Path, table: str, text: str, value: int) -> None:
    touch(tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz", tmp_path / "derivatives/m/sub-1/anat/sub-1_dseg.nii.gz")
    (tmp_path / table).write_text(text)
    assert read_dataset(tmp_path).ignored == (value,)


def test_the_background_cannot_be_ignored(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the label value 0 has the name 'ignore'"):
        read_dataset(write_nnunet(tmp_path, labels={"ignore": 0, "one": 1}))


def test_labels_that_only_sound_like_it_are_labels() -> None:
    assert ignored_values(dict(enumerate(["background", "ignorance", "signore", "not ignored", "ignoreme"]))) == ()


def test_regions_are_read_as_nnunet_writes_them(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    dataset = read_dataset(write_nnunet(tmp_path, labels=labels, regions_class_order=[1, 2, 3]))
    assert dataset.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert dict(dataset.label_names) == {0: "background", 1: "label 1", 2: "label 2", 3: "enhancing", 4: "ignore"}
    assert dataset.ignored == (4,)
    assert dataset.label_values(["Whole"]) == [1, 2, 3]
    assert dataset.label_values(["core", 1]) == [2, 3, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "whole": []}, r"label 'whole' has the value \[\]"),
        ({"background": 0, "whole": [[1, 2]]}, r"label 'whole' has the value \[1, 2\]"),
        ({"background": 0, "whole": [0, 1]}, "label 'whole' is a region of the values 0, 1"),
        ({"background": 0, "whole": [1, 1]}, "label 'whole' is a region of the values 1, 1"),
        ({"background": 0, "whole": [1, "x"]}, "label 'whole' has the value 'x'"),
        (
            {"background": 0, "whole": [1, 3], "ignore": 3},
            "label 'whole' holds the value 3, which marks voxels without",
        ),
        ({"background": 0, "whole": [1, 2], "core": 2, "rim": [2]}, "label value 2 has two names"),
    ],
)
def test_a_wrong_region_is_refused(tmp_path: Path, labels: dict[str, Any], message: str) -> None:
    refused(write_nnunet(tmp_path, labels=labels, regions_class_order=[1, 2]), message)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "one": [1], "two": [2]},
        {"two": 2, "one": 1, "background": 0},
        {"one": 1, "two": "2"},
        {"0": "background", "1": "one", "2": "two"},
        {"2": "two", "1": "one"},
    ],
)
@pytest.mark.parametrize("layout", WRITERS)
def test_every_way_to_write_plain_labels_is_read(tmp_path: Path, layout: str, labels: dict[str, Any]) -> None:
    root = WRITERS[layout](
        tmp_path, labels=labels, regions_class_order=[1, 2], overwrite_image_reader_writer="SimpleITKIO"
    )
    assert dict(read_dataset(root).label_names) == {0: "background", 1: "one", 2: "two"}


def test_channels_are_ordered_by_number_not_by_text(tmp_path: Path) -> None:
    names = {str(i): f"channel {i}" for i in (10, 9, 0, 11, 1, 2, 8, 3, 7, 4, 6, 5)}
    touch(*(tmp_path / "imagesTr" / f"a_{i:04d}.nii.gz" for i in range(12)))
    root = write(tmp_path, {"channel_names": names, "labels": LABELS, "file_ending": ".nii.gz"})
    dataset = read_dataset(root)
    assert dataset.channel_names == tuple(f"channel {i}" for i in range(12))
    assert dataset.cases[0].channels["channel 10"].path.name == "a_0010.nii.gz"


@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd"])
def test_other_file_endings_are_read(tmp_path: Path, ending: str) -> None:
    dataset = read_dataset(write_nnunet(tmp_path, ending))
    assert [case.name for case in dataset.cases] == ["a", "b", "c"]
    assert all(case.label is not None and case.label.name.endswith(ending) for case in dataset.cases)


WRONG_FOR_BOTH = [
    ("labels", None, "`labels` is missing"),
    ("labels", [], "`labels` is not an object"),
    ("labels", {}, "`labels` is empty"),
    ("labels", "liver", "`labels` is not an object"),
    ("labels", {"liver": None}, "label 'liver' has the value None"),
    ("labels", {"liver": 1.5}, "label 'liver' has the value 1.5"),
    ("labels", {"liver": True}, "label 'liver' has the value True"),
    ("labels", {"liver": -1}, "label 'liver' has the value -1"),
    ("labels", {"liver": 40000}, "label 'liver' has the value 40000"),
    ("labels", {"liver": 10**30}, "label 'liver' has the value 1000000000"),
    ("labels", {"Background": 1, "liver": 2}, "label 'Background' has the value 1; expected the value 0"),
    ("labels", {"liver": {"value": 1}}, "label 'liver' has the value"),
    ("labels", {"0": "background", "1": None}, "label value 1 has the name None"),
    ("labels", {"liver": 1, "spleen": 1}, "label value 1 has two names"),
    ("labels", {"1": "liver", "01": "spleen"}, "label value 1 has two names"),
]
WRONG = {
    "msd": [
        *WRONG_FOR_BOTH,
        ("modality", None, "`modality` is missing"),
        ("modality", {}, "`modality` is empty"),
        ("modality", "MRI", "`modality` is not an object"),
        ("modality", 3, "`modality` is not an object"),
        ("modality", {"0": 1}, "`modality` gives channel 0 the name 1"),
        ("modality", {"0": None}, "`modality` gives channel 0 the name None"),
        ("modality", {"0": " "}, "`modality` gives channel 0 the name ' '"),
        ("modality", ["T1", ""], "`modality` gives channel 1 the name ''"),
        ("modality", {"1": "T1"}, "`modality` has the keys 1"),
        ("modality", {"T1": "0"}, "`modality` has the keys T1"),
        ("training", {}, "`training` is not a list of images"),
        ("training", "imagesTr", "`training` is not a list of images"),
        ("training", [], "`training` is not a list of images"),
        ("training", [None], "`training` has the entry None"),
        ("training", [["a", "b"]], "`training` has the entry"),
        ("training", [{"image": ["imagesTr/a.nii.gz"]}], "`training` has the entry"),
        ("training", [{"image": "imagesTr/a.nii.gz", "label": 3}], "`training` has the entry"),
        ("training", [{"image": ""}], "`training` has the entry"),
        ("training", [""], "`training` has the entry"),
        ("training", ["/etc/hosts"], "`training` names '/etc/hosts', which is outside the dataset's folder"),
        ("training", ["../other/a.nii.gz"], "`training` names '../other/a.nii.gz', which is outside"),
        ("training", ["imagesTr/../../a.nii.gz"], "which is outside the dataset's folder"),
        ("training", ["imagesTr/a\0.nii.gz"], "which is outside the dataset's folder"),
        (
            "training",
            [{"image": "imagesTr/a.nii.gz", "label": "../l.nii.gz"}],
            r"names '\.\./l\.nii\.gz', which is outside",
        ),
    ],
    "nnunet": [
        *WRONG_FOR_BOTH,
        ("channel_names", {}, "`channel_names` is empty"),
        ("channel_names", "T1", "`channel_names` is not an object"),
        ("channel_names", {"0": "T1", "2": "T2"}, "`channel_names` has the keys 0, 2"),
        ("channel_names", {"0": "T1", "1": ["T2"]}, "`channel_names` gives channel 1 the name"),
        ("file_ending", 3, "`file_ending` is 3"),
        ("file_ending", "nii.gz", "`file_ending` is 'nii.gz'"),
        ("file_ending", ".png", "`file_ending` is '.png'"),
        ("file_ending", [".nii.gz"], "`file_ending` is"),
        ("dataset", {}, "`dataset` is empty"),
        ("dataset", ["a"], "`dataset` is not an object"),
        ("dataset", {"a": None}, "`dataset` has the entry 'a'"),
        ("dataset", {"a": {"images": "imagesTr/a_0000.nii.gz"}}, "`dataset` has the entry 'a'"),
        ("dataset", {"a": {"images": ["x.nii", 3]}}, "`dataset` has the entry 'a'"),
        ("dataset", {"a": {"images": ["x.nii"]}}, "`dataset` has the entry 'a'"),
        ("dataset", {"a": {"images": ["x.nii", "y.nii"], "label": 3}}, "`dataset` has the entry 'a'"),
        ("dataset", {"a": {"images": ["x.nii", "/y.nii"]}}, "`dataset` names '/y.nii', which is outside"),
        (
            "dataset",
            {"a": {"images": ["x.nii", "y.nii"], "label": "../z.nii"}},
            "`dataset` names '../z.nii', which is outside",
        ),
    ],
}


@pytest.mark.parametrize(
    ("layout", "key", "value", "message"),
    [(layout, *case) for layout, cases in WRONG.items() for case in cases],
)
def test_every_wrong_entry_is_one_sentence_with_file_and_key(
    tmp_path: Path, layout: str, key: str, value: Any, message: str
) -> None:
    root = WRITERS[layout](tmp_path / "set")
    content = json.loads((root / "dataset.json").read_text()) | {key: value}
    if value is None:
        del content[key]
    refused(write(root, content), message)


def test_links_in_the_folder_may_lead_anywhere(tmp_path: Path) -> None:
    store = tmp_path / "store"
    root = write_msd(tmp_path / "set")
    touch(store / "x.nii.gz")
    (root / "imagesTr" / "a.nii.gz").unlink()
    (root / "imagesTr" / "a.nii.gz").symlink_to(store / "x.nii.gz")
    (tmp_path / "link").symlink_to(root)
    for folder in (root, tmp_path / "link"):
        assert [case.name for case in read_dataset(folder).cases] == ["a", "b", "c"]
    write(root, json.loads((root / "dataset.json").read_text()) | {"training": [str(root / "imagesTr" / "a.nii.gz")]})
    assert [case.name for case in read_dataset(root).cases] == ["a"]


def test_only_bids_has_kinds_of_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the layout msd, which has no kinds of labels to choose 'manual' from"):
        read_dataset(write_msd(tmp_path), label_kind="manual")


def test_a_dataset_json_of_no_layout_is_named(tmp_path: Path) -> None:
    refused(write(tmp_path, {"labels": LABELS}), "has neither `channel_names` nor `training`")


def test_version_1_is_found_by_any_of_its_cases(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path)
    training = [
        {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in ("a", "b", "c")
    ]
    for image in (root / "imagesTr").glob("a_*"):
        image.unlink()
    labels = {"0": "background", "1": "one", "2": "two"}
    write(root, {"modality": {"0": "T1", "1": "T2"}, "labels": labels, "training": training})
    dataset = read_dataset(root)
    assert dataset.layout == "nnunet"
    assert dict(dataset.label_names) == {0: "background", 1: "one", 2: "two"}


@pytest.mark.parametrize("layout", WRITERS)
def test_files_that_no_case_uses_are_named_and_those_of_other_programs_passed_over(tmp_path: Path, layout: str) -> None:
    root = WRITERS[layout](tmp_path)
    before = read_dataset(root)
    for name in ("._a_0000.nii.gz", "._a.nii.gz", ".DS_Store", "Thumbs.db", "desktop.ini", "readme.txt"):
        touch(root / "imagesTr" / name, root / "labelsTr" / name)
    assert read_dataset(root) == before
    assert before.findings == ()
    touch(root / "imagesTr" / "z_0000.nii", root / "labelsTr" / "z.mha")
    dataset = read_dataset(root)
    assert [case.name for case in dataset.cases] == ["a", "b", "c"]
    assert checks(dataset)["unused_files"] == "no case uses imagesTr/z_0000.nii, labelsTr/z.mha"


@pytest.mark.parametrize("ending", [".hdr", ".img"])
def test_both_files_of_a_pair_are_used(tmp_path: Path, ending: str) -> None:
    root = write_nnunet(tmp_path, ending)
    for file in [*root.rglob(f"*{ending}")]:
        touch(file.with_suffix(".img" if ending == ".hdr" else ".hdr"))
    assert read_dataset(root).findings == ()


def test_images_without_label_and_labels_without_image_are_found(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path)
    (root / "labelsTr" / "a.nii.gz").unlink()
    for image in (root / "imagesTr").glob("b_*"):
        image.unlink()
    (root / "imagesTr" / "c_0001.nii.gz").unlink()
    dataset = read_dataset(root)
    assert [(case.name, case.label is None) for case in dataset.cases] == [("a", True), ("b", False), ("c", False)]
    found = [(f.check, f.case) for f in check_dataset(dataset).findings if f.check in ("missing_file", "missing_label")]
    assert found == [("missing_file", "b"), ("missing_file", "b"), ("missing_file", "c"), ("missing_label", None)]


def test_an_empty_image_folder_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, {"channel_names": {"0": "T1"}, "labels": LABELS, "file_ending": ".nii.gz"})
    (root / "imagesTr").mkdir()
    touch(root / "imagesTr" / ".DS_Store", root / "imagesTr" / "a_0000.nii")
    with pytest.raises(DataError, match=r"imagesTr: holds no image CASE_0000\.nii\.gz"):
        read_dataset(root)


def test_undeclared_labels_are_one_finding_of_the_check(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    (tmp_path / "manifest.csv").write_text("case,T1\na,a.nii.gz\n")
    assert read_dataset(tmp_path).findings == ()
    (tmp_path / "manifest.csv").write_text("case,T1,label\na,a.nii.gz,a.nii.gz\n")
    assert read_dataset(tmp_path, labels=False).findings == ()
    assert all(finding.level is not Level.ERROR for finding in read_dataset(tmp_path).findings)

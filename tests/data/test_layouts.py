"""One cohort in every layout reads as one dataset; what describes a dataset wrongly is refused by name."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.dataset import Dataset
from data.errors import DataError
from data.image_file import write_frames, write_volume
from data.layouts.detection import LAYOUTS, detect_layout, read_dataset
from data.volume import Volume

AFFINE = np.diag([-1.0, 1.5, 2.0, 1.0])
CHANNELS = ("FLAIR", "T1w")
CASES = ("sub-01", "sub-02", "sub-03")
UNLABELLED = "sub-03"


def channel_volume(case: str, channel: str) -> Volume:
    seed = CASES.index(case) * 10 + CHANNELS.index(channel)
    return Volume(np.random.default_rng(seed).integers(0, 1000, (5, 6, 7)).astype(np.int16), AFFINE)


def label_volume(case: str) -> Volume:
    array = np.zeros((5, 6, 7), np.uint8)
    array[1, 2, CASES.index(case)], array[3, 3, 3] = 1, 2
    return Volume(array, AFFINE)


MASK = Volume(np.ones((5, 6, 7), np.uint8), AFFINE)


def put(volume: Volume, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(volume, path)
    return path


def write_msd(root: Path) -> Path:
    training: list[Any] = []
    (root / "imagesTr").mkdir(parents=True)
    for case in CASES:
        write_frames([channel_volume(case, c) for c in CHANNELS], root / "imagesTr" / f"{case}.nii.gz")
        put(MASK, root / "masksTr" / f"{case}.nii.gz")
        training.append({"image": f"./imagesTr/{case}.nii.gz"})
        if case != UNLABELLED:
            put(label_volume(case), root / "labelsTr" / f"{case}.nii.gz")
            training[-1]["label"] = f"./labelsTr/{case}.nii.gz"
    labels = {"0": "background", "1": "lesion", "2": "core"}
    write_json(root, modality={"0": "FLAIR", "1": "T1w"}, labels=labels, training=training)
    return root


def write_nnunet(root: Path, version: int = 2) -> Path:
    for case in CASES:
        for i, channel in enumerate(CHANNELS):
            put(channel_volume(case, channel), root / "imagesTr" / f"{case}_{i:04d}.nii.gz")
        put(MASK, root / "masksTr" / f"{case}.nii.gz")
        if case != UNLABELLED:
            put(label_volume(case), root / "labelsTr" / f"{case}.nii.gz")
    if version == 2:
        labels = {"background": 0, "lesion": 1, "core": 2}
        write_json(root, channel_names={"0": "FLAIR", "1": "T1w"}, labels=labels, file_ending=".nii.gz", numTraining=3)
    else:
        training = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in CASES]
        labels = {"0": "background", "1": "lesion", "2": "core"}
        write_json(root, modality={"0": "FLAIR", "1": "T1w"}, labels=labels, training=training)
    return root


def write_bids(root: Path) -> Path:
    for case in CASES:
        for channel in CHANNELS:
            put(channel_volume(case, channel), root / case / "anat" / f"{case}_{channel}.nii.gz")
        derivatives = root / "derivatives" / "manual" / case / "anat"
        put(MASK, derivatives / f"{case}_desc-brain_mask.nii.gz")
        put(MASK, derivatives / f"{case}_space-MNI152NLin6Asym_desc-brain_mask.nii.gz")
        if case != UNLABELLED:
            put(label_volume(case), derivatives / f"{case}_dseg.nii.gz")
    lines = ["index\tname", "0\tbackground", "1\tlesion", "2\tcore"]
    (root / "derivatives" / "manual" / "dseg.tsv").write_text("\n".join(lines) + "\n")
    return root


def write_csv_manifest(root: Path) -> Path:
    rows = [["case", *CHANNELS, "label", "brain_mask"]]
    for case in CASES:
        paths = [put(channel_volume(case, c), root / "any" / case / f"{c}.nii.gz") for c in CHANNELS]
        label = "" if case == UNLABELLED else put(label_volume(case), root / "labels" / f"{case}.nii").relative_to(root)
        mask = put(MASK, root / "masks" / f"{case}.mha")
        rows.append([case, str(paths[0].relative_to(root)), str(paths[1]), str(label), str(mask.relative_to(root))])
    with (root / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    (root / "labels.csv").write_text("value,name\n1,lesion\n2,core\n")
    return root


def write_json(root: Path, **content: Any) -> None:
    (root / "dataset.json").write_text(json.dumps(content))


def edit_json(root: Path, **changes: Any) -> None:
    content = json.loads((root / "dataset.json").read_text()) | changes
    write_json(root, **{key: value for key, value in content.items() if value is not None})


WRITERS = {"msd": write_msd, "nnunet": write_nnunet, "bids": write_bids, "csv": write_csv_manifest}


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, WRITERS[request.param](tmp_path / "cohort")


def test_every_layout_has_a_writer_here() -> None:
    assert {layout.name for layout in LAYOUTS} == set(WRITERS)


def test_one_cohort_reads_the_same_from_every_layout(written: tuple[str, Path]) -> None:
    name, root = written
    dataset = read_dataset(root)
    assert dataset.layout == detect_layout(root).name == name
    assert dataset.root == root
    assert tuple(case.name for case in dataset.cases) == CASES
    assert dataset.channel_names == CHANNELS
    assert dataset.label_names == {0: "background", 1: "lesion", 2: "core"}
    for case in dataset.cases:
        assert tuple(case.channels) == CHANNELS
        for channel, source in case.channels.items():
            volume = source.read()
            np.testing.assert_array_equal(volume.array, channel_volume(case.name, channel).array)
            np.testing.assert_allclose(volume.affine, AFFINE)
        assert case.brain_mask is not None
        assert case.brain_mask.is_file()
        if case.name == UNLABELLED:
            assert case.label is None
            with pytest.raises(DataError, match="'sub-03' has no label"):
                case.read_label()
        else:
            np.testing.assert_array_equal(case.read_label().array, label_volume(case.name).array)


def test_patients_csv_groups_the_cases_of_every_layout(written: tuple[str, Path]) -> None:
    name, root = written
    dataset = read_dataset(root)
    assert dataset.has_patients is (name == "bids")
    assert [case.patient for case in dataset.cases] == list(CASES)
    (root / "patients.csv").write_text("case,patient\nsub-01,Ada\nsub-02,Bob\nsub-03,Ada\nsub-04,Eve\n")
    dataset = read_dataset(root)
    assert dataset.has_patients
    assert {p: [c.name for c in cases] for p, cases in dataset.by_patient().items()} == {
        "Ada": ["sub-01", "sub-03"],
        "Bob": ["sub-02"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,patient\nsub-01,Ada\n", r"'sub-02' and 1 more is not listed"),
        ("case,who\nsub-01,Ada\n", r"no column `patient`"),
        ("case,patient\nsub-01,Ada\nsub-01,Bob\n", r"line 3 gives case 'sub-01' the patient 'Bob'"),
        ("case,patient\nsub-01,\n", r"line 2 has an empty cell"),
        ("case,patient\nsub-01,Ada,3\n", r"line 2 has 3 cells"),
        ("", r"no column `case`"),
    ],
)
def test_a_broken_patients_csv_is_refused_in_every_layout(written: tuple[str, Path], text: str, message: str) -> None:
    path = written[1] / "patients.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(written[1])
    assert str(path) in str(caught.value)
    assert caught.value.fix


def test_a_listed_file_that_does_not_exist_stays_listed(written: tuple[str, Path]) -> None:
    root = written[1]
    victim = read_dataset(root).case("sub-02").channels["FLAIR"].path
    victim.unlink()
    dataset = read_dataset(root)
    if written[0] == "bids":  # BIDS lists nothing: what is not there was never named.
        assert "FLAIR" not in dataset.case("sub-02").channels
        return
    assert dataset.case("sub-02").channels["FLAIR"].path == victim
    with pytest.raises(DataError, match="no such file"):
        dataset.case("sub-02").channels["FLAIR"].read()


def test_a_missing_folder_and_an_unknown_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match="not in a known layout") as caught:
        read_dataset(tmp_path)
    assert all(layout.description in str(caught.value) for layout in LAYOUTS)
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "IM0001").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataError, match="dcm2niix"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": []}, "`training` is not a list of images"),
        ({"training": [{"label": "a"}]}, "`training` has the entry"),
        ({"modality": None}, "`modality` is missing"),
        ({"modality": {"1": "T1"}}, "`modality` has the keys 1"),
        ({"labels": None}, "`labels` is missing"),
        ({"labels": {"liver": "x"}}, "label 'liver' has the value 'x'"),
        ({"labels": {"liver": 1, "spleen": 1}}, "label value 1 has two names"),
    ],
)
def test_a_wrong_dataset_json_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    root = write_msd(tmp_path / "msd")
    edit_json(root, **changes)
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(root)
    assert str(root / "dataset.json") in str(caught.value)
    assert caught.value.expected
    assert caught.value.fix


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_dataset_json_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"dataset\.json"):
        read_dataset(tmp_path)


def test_msd_names_channels_that_share_a_name_by_number(tmp_path: Path) -> None:
    root = write_msd(tmp_path / "msd")
    edit_json(root, modality={"0": "MR", "1": "MR"})
    assert read_dataset(root).channel_names == ("MR_0", "MR_1")


def test_nnunet_version_1_is_told_from_msd(tmp_path: Path) -> None:
    dataset = read_dataset(write_nnunet(tmp_path / "Task501", version=1))
    assert dataset.layout == "nnunet"
    assert dataset.label_names == {0: "background", 1: "lesion", 2: "core"}
    assert dataset.channel_names == CHANNELS


@pytest.mark.parametrize("also", [{"channel_names": {"0": "MR", "1": "MR2"}}, {"channel_names": ["MR", "MR2"]}])
def test_the_listed_images_tell_msd_from_nnunet_where_the_keys_do_not(tmp_path: Path, also: dict[str, Any]) -> None:
    root = write_msd(tmp_path / "msd")
    edit_json(root, **also)
    assert (read_dataset(root).layout, read_dataset(root).channel_names) == ("msd", CHANNELS)
    edit_json(root, modality=None)
    assert (read_dataset(root).layout, read_dataset(root).channel_names) == ("msd", ("MR", "MR2"))
    root = write_nnunet(tmp_path / "Dataset001")
    edit_json(root, training=[{"image": f"./imagesTr/{case}_0000.nii.gz"} for case in CASES])
    assert read_dataset(root).layout == "nnunet"


@pytest.mark.parametrize("name", ["nnunet", "csv"])
def test_hidden_files_are_not_taken_for_cases(tmp_path: Path, name: str) -> None:
    root = WRITERS[name](tmp_path / "cohort")
    for file in [*root.rglob("*.nii.gz"), *root.glob("*.csv")]:
        shutil.copy(file, file.with_name(f"._{file.name}"))
    assert [case.name for case in read_dataset(root).cases] == list(CASES)


def test_nnunet_keeps_a_label_whose_images_are_gone(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "Dataset001")
    for image in (root / "imagesTr").glob("sub-02_*"):
        image.unlink()
    case = read_dataset(root).case("sub-02")
    assert not any(source.path.exists() for source in case.channels.values())


def test_nnunet_listed_files_and_wrong_names(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "Dataset001")
    images = [f"imagesTr/sub-01_{i:04d}.nii.gz" for i in range(2)]
    edit_json(root, dataset={"first": {"images": images, "label": "labelsTr/sub-01.nii.gz"}})
    dataset = read_dataset(root)
    assert [case.name for case in dataset.cases] == ["first"]
    np.testing.assert_array_equal(dataset.cases[0].read_label().array, label_volume("sub-01").array)
    edit_json(root, dataset={"first": {"images": images[:1]}})
    with pytest.raises(DataError, match="entry 'first'"):
        read_dataset(root)
    edit_json(root, dataset=None, channel_names={"0": "FLAIR"})
    with pytest.raises(DataError, match=r"sub-\d+_0001.nii.gz: the name does not end in the number of a channel"):
        read_dataset(root)
    edit_json(root, file_ending=".png")
    with pytest.raises(DataError, match=r"`file_ending` is '.png'"):
        read_dataset(root)


def test_bids_sessions_contrasts_and_repeats(tmp_path: Path) -> None:
    root = tmp_path / "bids"
    volume = channel_volume("sub-01", "T1w")
    for session in ("a", "b"):
        stem = root / "sub-01" / f"ses-{session}" / "anat" / f"sub-01_ses-{session}"
        put(volume, Path(f"{stem}_T1w.nii.gz"))
        put(volume, Path(f"{stem}_ce-gadolinium_T1w.nii"))
        put(volume, Path(f"{stem}_run-1_T2w.nii.gz"))
        put(volume, Path(f"{stem}_run-2_T2w.nii.gz"))
        put(volume, Path(f"{stem}_acq-mpr_FLAIR.nii.gz"))
        put(volume, Path(f"{stem}_mod-T1w_defacemask.nii.gz"))
    mask = root / "derivatives" / "raters" / "sub-01" / "ses-b" / "anat" / "sub-01_ses-b_label-lesion_mask.nii.gz"
    put(label_volume("sub-01"), mask)
    dataset = read_dataset(root)
    assert dataset.channel_names == ("FLAIR", "T1w", "T2w", "ce-gadolinium_T1w")
    assert dataset.cases[0].channels["T2w"].path.name == "sub-01_ses-a_run-1_T2w.nii.gz"
    assert [(case.name, case.patient) for case in dataset.cases] == [
        ("sub-01_ses-a", "sub-01"),
        ("sub-01_ses-b", "sub-01"),
    ]
    assert dataset.case("sub-01_ses-b").label == mask
    assert dataset.case("sub-01_ses-a").label is None
    assert dataset.label_names == {0: "background", 1: "lesion"}
    second = root / "derivatives" / "other" / "sub-01" / "ses-b" / "anat" / "sub-01_ses-b_dseg.nii.gz"
    put(label_volume("sub-01"), second)
    with pytest.raises(
        DataError, match=r"raters: label-lesion_mask.*other: dseg|other: dseg.*raters: label-lesion_mask"
    ):
        read_dataset(root)


def test_csv_patients_separators_and_several_manifests(tmp_path: Path) -> None:
    root = write_csv_manifest(tmp_path / "cohort")
    text = (root / "manifest.csv").read_text()
    (root / "manifest.csv").unlink()
    lines = text.splitlines()
    semicolons = [f"{line};{'patient' if i == 0 else 'Ada'}" for i, line in enumerate(lines)]
    table = root / "table.csv"
    table.write_text("\ufeff" + "\n".join(line.replace(",", ";") for line in semicolons), encoding="utf-8")
    for path in (root, table):
        dataset = read_dataset(path)
        assert dataset.has_patients
        assert list(dataset.by_patient()) == ["Ada"]
        assert dataset.root == root
    shutil.copy(table, root / "again.csv")
    with pytest.raises(DataError, match=r"several manifests \(again.csv, table.csv\)"):
        read_dataset(root)


def test_undeclared_labels_are_found_in_the_label_maps(tmp_path: Path) -> None:
    root = write_csv_manifest(tmp_path / "cohort")
    (root / "labels.csv").unlink()
    dataset = read_dataset(root)
    assert dataset.label_names == {0: "background", 1: "label 1", 2: "label 2"}
    dataset.case("sub-01").label.write_bytes(b"broken")
    assert read_dataset(root).label_names == dataset.label_names
    (root / "labels.csv").write_text("value,name\none,lesion\n")
    with pytest.raises(DataError, match="line 2 gives the label value 'one'"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,label\na,b.nii\n", "no column for a channel"),
        ("case,T1\n", "no case"),
        ("case,T1\n,a.nii\n", "line 2: the case name '' is empty"),
        ("case,T1\na,\n", "line 2 has no image"),
        ("case,T1\na,x.nii\na,y.nii\n", "line 3 lists case 'a' again"),
        ("name,T1\na,x.nii\n", "no column `case`"),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_dataset(path)


def test_a_dataset_finds_cases_and_labels(msd_folder: Callable[..., Path]) -> None:
    dataset = read_dataset(msd_folder())
    assert dataset.label_values(["Posterior", 1, "posterior"]) == [2, 1]
    for wrong in ("liver", 3, 0, "background"):
        with pytest.raises(DataError, match=r"is not declared; expected one of 1 \(anterior\), 2 \(posterior\)"):
            dataset.label_values([wrong])
    with pytest.raises(DataError, match="no case 'x'; expected one of its 4 cases, such as 'case_0'"):
        dataset.case("x")
    with pytest.raises(DataError, match="its 0 cases;"):
        Dataset(dataset.root, "msd", (), ("T1",), {0: "background"}, False).case("x")
    assert [path.name for path in dataset.cases[0].files()] == ["case_0.nii.gz"] * 2

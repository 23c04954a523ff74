"""The one rule for names, and that every layout holds to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data.dataset import Dataset
from data.errors import DataError
from data.layouts.detection import read_dataset
from data.names import LONGEST, RESERVED, alike, check_label_names, check_names, label_name_fault, name_fault, printable
from data.natural_order import natural
from pipeline.execution.unit import MARKER
from pipeline.storage.file_names import CONFIG, FILE_DIGESTS, FILES, INDEX, PREDICTION, PREDICTION_TABLE, PROVENANCE

HOSTILE = [
    "",
    ".",
    "..",
    "../victim",
    "a/../../b",
    "/abs/olute",
    "a\\b",
    "-rf",
    ".lock",
    ".tmp-a",
    ".partial-a",
    " a",
    "a ",
    "a\n",
    "a\nb",
    "a\x00b",
    "\x1b[31mred",
    "a\u202eb",
    "a\u200bb",
    "\udcff",
    "x" * (LONGEST + 1),
    "肿" * 51,
    "predictions.csv",
    "Prediction.JSON",
]
FINE = [
    "case_1",
    "Läsion",
    "肿瘤",
    "a b",
    "T1+C",
    "x.y",
    "$HOME",
    "50%",
    "a@b",
    "=cmd()",
    "+1",
    "Ж-2",
    "a\u00a0b",
    "x" * LONGEST,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_have_a_fault_that_can_be_printed(name: str) -> None:
    fault = name_fault(name)
    assert fault
    assert printable(fault) == fault
    with pytest.raises(DataError, match="/data: the arm name") as caught:
        check_names("arm", [name], "/data")
    assert printable(str(caught.value)) == str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", FINE)
def test_other_names_are_fine(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize("name", FINE)
def test_a_label_may_have_a_slash_between_words(name: str) -> None:
    assert label_name_fault(name) is None
    assert label_name_fault(f"a/{name}") is None or len(name) == LONGEST
    assert name_fault(f"a/{name}")


@pytest.mark.parametrize("name", [*HOSTILE, "a/", "/a", "a//b", "a/./b", "a/-b", "a/ b", "x" * 100 + "/" + "x" * 100])
def test_hostile_names_of_labels_have_a_fault(name: str) -> None:
    assert label_name_fault(name)
    with pytest.raises(DataError, match="/data: the label name"):
        check_label_names(["fine", name], "/data")


def test_names_that_a_file_system_may_take_for_one_are_told() -> None:
    assert alike(["a", "b", "c"]) is None
    assert alike(["case_A", "b", "case_a"]) == ("case_A", "case_a")
    assert alike(["L\u00e4sion", "La\u0308sion"]) == ("L\u00e4sion", "La\u0308sion")
    with pytest.raises(DataError, match="'a' is given twice"):
        check_names("case", ["a", "a"], "/data")
    with pytest.raises(DataError, match="'a' and 'A' differ only"):
        check_names("case", ["a", "A"], "/data")


def test_what_graft_writes_beside_named_folders_is_reserved() -> None:
    assert {CONFIG, FILE_DIGESTS, FILES, INDEX, PREDICTION, PREDICTION_TABLE, PROVENANCE, MARKER} <= RESERVED
    assert all(name == name.lower() for name in RESERVED)


def test_control_characters_are_shown_as_escapes() -> None:
    assert printable("a\x1b[31m\nb\udcff\u202e Läsion 肿瘤") == "a\\x1b[31m\\nb\\xff\\u202e Läsion 肿瘤"


def _renamed(root: Path, change: Callable[[dict], object]) -> Path:
    path = root / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("name", ["../victim", "/tmp/victim", "", ".", "..", "a\x00", "\ud800", "x" * 300, "-x"])
def test_case_names_in_nnunets_json(msd_folder: Callable[..., Path], name: str) -> None:
    entry = {"images": ["imagesTr/case_0.nii.gz"], "label": "labelsTr/case_0.nii.gz"}

    def change(content: dict) -> None:
        content["channel_names"] = content.pop("modality")
        content["labels"] = {"background": 0, "left": 1}
        content["dataset"] = {name: entry}

    with pytest.raises(DataError, match="the case name"):
        read_dataset(_renamed(msd_folder(patients=False), change))


@pytest.mark.parametrize("image", [".", "imagesTr/..", "imagesTr/.nii.gz", "imagesTr/-x.nii.gz", "a\nb.nii", "x" * 300])
def test_case_names_from_msd_file_names(msd_folder: Callable[..., Path], image: str) -> None:
    root = msd_folder(patients=False, name=".hidden")
    with pytest.raises(DataError, match="the case name"):
        read_dataset(_renamed(root, lambda content: content["training"].insert(0, {"image": image})))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("channel", lambda content: content.update(modality={"0": "../T1"})),
        ("label", lambda content: content["labels"].update({"1": "\x1b[31m"})),
        ("channel", lambda content: content.update(modality={"0": "T1", "1": "t1"})),
    ],
)
def test_channel_and_label_names(msd_folder: Callable[..., Path], kind: str, change: Callable) -> None:
    with pytest.raises(DataError, match=f"the {kind} name"):
        read_dataset(_renamed(msd_folder(), change))


def test_patient_names(msd_folder: Callable[..., Path]) -> None:
    root = msd_folder()
    table = root / "patients.csv"
    text = table.read_text()
    table.write_text(text.replace("P1", "../P1"))
    with pytest.raises(DataError, match=r"the patient name '\.\./P1' contains `/`"):
        read_dataset(root)
    table.write_text(text.replace("P1", "p0"))
    with pytest.raises(DataError, match="patient names 'P0' and 'p0' differ only"):
        read_dataset(root)


@pytest.mark.parametrize("name", [".", "..", "../x", "-x", "=1\x07"])
def test_csv_manifests_name_the_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "manifest.csv").write_text(f"case,T1\nfine,a.nii\n{name},b.nii\n")
    for path in (tmp_path, tmp_path / "manifest.csv"):
        with pytest.raises(DataError, match=r"manifest\.csv, line 3: the case name"):
            read_dataset(path)


def test_two_cases_that_differ_only_in_case(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("case,T1\na,a.nii\nA,b.nii\n")
    with pytest.raises(DataError, match="case names 'A' and 'a' differ only"):
        read_dataset(tmp_path)


def test_a_label_name_of_two_values_is_refused_where_it_is_used(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path, "msd", (), ("T1",), {0: "background", 1: "lesion", 2: "Lesion"}, False)
    assert dataset.label_values([1, 2]) == [1, 2]
    with pytest.raises(DataError, match="'lesion' is the name of several values"):
        dataset.label_values(["lesion"])


def test_numbers_in_names_are_ordered_as_numbers_and_raised_ones_are_letters() -> None:
    assert sorted(["run-10", "run-2", "x²", "1"], key=natural) == ["1", "run-2", "run-10", "x²"]

"""Manifests and tables as spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import DataError
from data.layouts.csv_table import read_table
from data.layouts.detection import read_dataset
from data.layouts.patients import read_patients

CELLS = [["case", "patient", "T1", "label"], ["a", "P1", "a.nii.gz", ""], ["b", "P2", "b.nii.gz", "bl.nii.gz"]]


def lines(separator: str, ending: str = "\r\n") -> str:
    return ending.join(separator.join(row) for row in CELLS) + ending


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (lines(","), "utf-8"),
        (lines(",", "\n"), "utf-8-sig"),
        (lines(";"), "utf-8"),
        ("sep=;\r\n" + lines(";"), "utf-8-sig"),
        ('"sep=,"\r\n' + lines(","), "utf-8"),
        ("SEP=\t\n" + lines("\t"), "utf-8"),
        ("sep=|\n" + lines("|"), "utf-8"),
        (lines("\t"), "utf-16"),
        (lines(","), "utf-16-le"),
        ("sep=;\r\n" + lines(";"), "utf-16-be"),
        ("sep=;\r\n" + lines(";"), "utf-16"),
        (lines(",").replace("case,patient", "Case,PATIENT").replace("label", "Label"), "utf-8"),
        (lines(",").replace("\r\n", ",,\r\n"), "utf-8"),
        (lines(",").replace("T1", ",T1").replace("P1,", "P1,,").replace("P2,", "P2,,"), "utf-8"),
        (lines(",").replace(",", " , "), "utf-8"),
        (lines(",") + ",,,\r\n\r\n", "utf-8"),
        (lines(",").replace("a.nii.gz", '"a.nii.gz\n"'), "utf-8"),
        (lines(";").replace("case", '"case"'), "utf-8"),
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(text.encode(encoding))
    (tmp_path / "labels.csv").write_text("Value;Name\n1;lesion\n")
    for place in (path, tmp_path):
        dataset = read_dataset(place)
        assert [(case.name, case.patient) for case in dataset.cases] == [("a", "P1"), ("b", "P2")]
        assert dataset.channel_names == ("T1",)
        assert [case.label for case in dataset.cases] == [None, tmp_path / "bl.nii.gz"]
        assert dataset.case("a").files() == [tmp_path / "a.nii.gz"]
        assert dataset.label_names == {0: "background", 1: "lesion"}


def test_the_table_of_patients_is_read_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_bytes("sep=;\r\nCASE;Patient;\r\na;P1;\r\n".encode("utf-16"))
    assert read_patients(path) == {"a": "P1"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (lines(",").replace("case,", "name,").encode(), "no column `case` "),
        (b"case;T1\nx;" + b"y" * 200_000, "line 2 cannot be read"),
        (lines(",").replace("b,P2", "b,P2,P3").encode(), "line 3 has 5 cells"),
        (lines(",").replace("\r\n", ",\r\n").replace("bl.nii.gz,", "bl.nii.gz,x").encode(), "line 3 .*'x'"),
        (b"case,T1,Case\na,b,c\n", "names a column twice"),
        (b"sep=;\n" + lines(";").replace("b;P2", "b").encode(), "line 4 has 3 cells"),
        (b"PK\x03\x04\0\0\0\x08workbook", "no column `case`"),
        (b"case,T1\na,\xff\xfe\n", "UTF-8"),
    ],
)
def test_a_fault_is_named_for_the_folder_as_for_the_file(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    for place in (path, tmp_path):
        with pytest.raises(DataError, match=rf"manifest\.csv.*{found}"):
            read_dataset(place)


def test_a_folder_of_images_with_another_table_is_no_manifest(tmp_path: Path) -> None:
    from data.layouts.detection import LAYOUTS

    (tmp_path / "participants.csv").write_text("id,age\n1,2\n")
    assert not any(layout.matches(tmp_path) for layout in LAYOUTS)


def test_lines_are_counted_over_quoted_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('sep=,\na,b\n"1\n2",3\n4,5\n')
    assert read_table(path, ("a",)).rows == ((4, {"a": "1\n2", "b": "3"}), (5, {"a": "4", "b": "5"}))

"""Files that one part writes for others: every one says its version, and that of a newer program is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest

from data.errors import WorkspaceError
from data.stored_record import ListRecord, StoredRecord, read_record
from pipeline.arms.arm_record import ArmRecord, read_arm
from pipeline.arms.choices import ArmOptions
from pipeline.execution.provenance import start_provenance
from pipeline.storage.atomic import write_record
from pipeline.storage.workspace import Workspace


class Second(StoredRecord):
    FORMAT: ClassVar[int] = 2
    name: str


class Listed(ListRecord):
    names: tuple[str, ...]


def test_a_written_record_says_its_version_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_record(path, Second(name="x"))
    assert json.loads(path.read_text()) == {"format": 2, "name": "x"}
    assert read_record(path, Second) == Second(name="x")


@pytest.mark.parametrize("written", [{}, {"format": 1}, {"format": 2, "later": "passed over"}])
def test_versions_up_to_the_own_are_read(written: dict, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"name": "x", **written}))
    assert read_record(path, Second).name == "x"


def test_a_newer_version_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"format": 3}')  # what else it holds need not make sense to this version
    with pytest.raises(WorkspaceError) as error:
        read_record(path, Second)
    assert f"{path}: was written by a newer version of Graft (format 3)" in str(error.value)
    assert "format 2 or lower" in str(error.value)
    assert "update Graft" in str(error.value)


def test_a_bare_list_is_the_first_version_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('["x"]')
    assert read_record(path, Listed).names == ("x",)
    write_record(path, Listed(names=("y",)))
    assert json.loads(path.read_text()) == {"format": 2, "names": ["y"]}
    assert read_record(path, Listed).names == ("y",)


def test_options_are_written_with_every_default(tmp_path: Path) -> None:
    record = ArmRecord(
        arm="a", n=2, repeat=0, patients=("p",), steps=1, choices=ArmOptions(), objective="", trainings=("t",),
        predictions=("t",),
    )  # fmt: skip
    record.write(tmp_path)
    written = json.loads((tmp_path / "unit.json").read_text())
    assert written["choices"] == ArmOptions().model_dump(mode="json")
    assert read_arm(tmp_path) == record
    assert written["format"] == 2
    # What was written before there was cross-validation is read, too.
    earlier = {key: value for key, value in written.items() if key not in {"format", "predictions"}}
    (tmp_path / "unit.json").write_text(json.dumps({**earlier, "prediction": "t"}))
    assert read_arm(tmp_path) == record


def test_what_a_newer_version_recorded_of_a_study_is_not_written_over(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.provenance.write_text('{"format": 9, "seed": 3}')
    with pytest.raises(WorkspaceError, match="newer version of Graft"):
        start_provenance(workspace, seed=1, device="cpu")
    assert json.loads(workspace.provenance.read_text())["seed"] == 3

"""In a folder that Graft fills, only what it wrote itself is ever replaced or removed."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from data.errors import WorkspaceError
from pipeline.storage import owned_folder
from pipeline.storage.atomic import temporary_room, write_json
from pipeline.storage.owned_folder import Changed, require_ours, require_unchanged

LIST = "files.json"


def fill(folder: Path, changed: Changed = Changed.REFUSE, **texts: str) -> None:
    """Fills a folder as a command does; `a__b` is the file `b` in the folder `a`."""
    owned_folder.remove_temporaries_of(folder)
    require_ours(folder, LIST, changed)
    with temporary_room(folder) as room:
        for name, text in texts.items():
            path = room / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        write_json(room / LIST, owned_folder.contents(room, LIST))
        owned_folder.settle(room, folder, LIST, changed)


def texts(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != LIST)
    return {p.relative_to(folder).as_posix(): p.read_text() for p in files}


def test_own_files_are_replaced_and_those_of_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    fill(folder, page="1", cases__a="1", cases__b="1", old__c="1")
    (folder / "LICENSE").write_text("mine")
    (folder / "cases" / "notes").write_text("mine")
    fill(folder, page="2", cases__a="2")
    assert texts(folder) == {"page": "2", "cases/a": "2", "LICENSE": "mine", "cases/notes": "mine"}
    assert not (folder / "old").exists()
    assert set(json.loads((folder / LIST).read_text())["files"]) == {"page", "cases/a"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["page", "cases/a", "stale"])
def test_a_changed_file_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    fill(folder, page="1", cases__a="1", stale="1")
    (folder / name).write_text("2")
    before = texts(folder)
    with pytest.raises(WorkspaceError, match=rf"out/{name}: has been changed since Graft wrote it.*move or rename it"):
        fill(folder, page="1", cases__a="1")
    assert texts(folder) == before
    (folder / name).rename(folder / "mine")
    fill(folder, page="3", cases__a="3")
    assert texts(folder) == {"page": "3", "cases/a": "3", "mine": "2"}


def test_a_missing_file_is_no_change(tmp_path: Path) -> None:
    fill(tmp_path / "out", page="1", other="1")
    (tmp_path / "out" / "page").unlink()
    fill(tmp_path / "out", page="2", other="2")
    assert texts(tmp_path / "out") == {"page": "2", "other": "2"}


@pytest.mark.parametrize("changed", [Changed.REFUSE, Changed.REPLACE])
def test_a_file_of_somebody_else_is_never_written_over(tmp_path: Path, changed: Changed) -> None:
    folder = tmp_path / "out"
    fill(folder, page="1")
    (folder / "new").write_text("mine")
    (folder / "cases").mkdir()
    for name in ("new", "cases"):
        with pytest.raises(WorkspaceError, match=rf"out/{name}: was not written by Graft"):
            fill(folder, changed, page="2", **{name: "2"})
    assert texts(folder) == {"page": "1", "new": "mine"}


def test_a_folder_of_something_else_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("three years")
    (tmp_path / "file").write_text("")
    for name, found in (("thesis", "holds files but no files.json"), ("file", "is a file")):
        with pytest.raises(WorkspaceError, match=found):
            require_ours(tmp_path / name, LIST)
        with pytest.raises(WorkspaceError, match=found):
            fill(tmp_path / name, page="1")
    assert texts(tmp_path) == {"thesis/text": "three years", "file": ""}


def test_an_empty_folder_a_link_and_a_shared_one_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o2775)
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "nothing").symlink_to("made")
    for _ in range(2):
        fill(tmp_path / "link", page="1", cases__a="1")
        fill(tmp_path / "nothing", page="1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "nothing").is_symlink()
    assert texts(tmp_path / "there") == {"page": "1", "cases/a": "1"}
    assert texts(tmp_path / "made") == {"page": "1"}
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o2775


def test_what_is_kept_and_what_is_made_again(tmp_path: Path) -> None:
    for changed, page in ((Changed.KEEP, "mine"), (Changed.REPLACE, "2")):
        folder = tmp_path / changed.value
        fill(folder, page="1", other="1")
        (folder / "page").write_text("mine")
        fill(folder, changed, page="2", other="2")
        assert texts(folder) == {"page": page, "other": "2"}
    # What was kept once is still somebody's.
    with pytest.raises(WorkspaceError, match="page: has been changed"):
        require_unchanged(tmp_path / "keep", LIST, ["page"])
    require_unchanged(tmp_path / "keep", LIST, ["other", "none"])


@pytest.mark.parametrize("text", ["{", "[]", '{"files": 3}', ""])
def test_a_damaged_list_proves_nothing(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "out"
    fill(folder, page="1")
    (folder / LIST).write_text(text)
    with pytest.raises(WorkspaceError, match=r"files.json: is damaged.*move or rename the folder"):
        fill(folder, page="2")
    assert texts(folder) == {"page": "1"}
    fill(folder, Changed.REPLACE, page="2")
    assert texts(folder) == {"page": "2"}


@pytest.mark.parametrize("moves", range(3))
def test_killed_while_files_are_replaced_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    folder = tmp_path / "out"
    fill(folder, a="1", b="1", old="1")
    (folder / "notes").write_text("mine")
    move, done = shutil.move, []

    def dies(source: Path, target: Path) -> None:
        if len(done) == moves:
            raise RuntimeError("killed")
        done.append(move(source, target))

    with monkeypatch.context() as patched:
        patched.setattr(owned_folder.shutil, "move", dies)
        with pytest.raises(RuntimeError, match="killed"):
            fill(folder, a="2", b="2")
    assert "files" not in json.loads((folder / LIST).read_text()), "counts as finished"
    (folder / "b").write_text("mine")
    with pytest.raises(WorkspaceError, match="b: has been changed"):
        fill(folder, a="3", b="3")
    (folder / "b").unlink()
    fill(folder, a="3", b="3")
    assert texts(folder) == {"a": "3", "b": "3", "notes": "mine"}


def fill_beside_others(folder: Path, **texts: str) -> None:
    with owned_folder.owned_files(folder, LIST, of_before=("a.csv", "old.csv")) as room:
        for name, text in texts.items():
            (room / f"{name}.csv").write_text(text)


def test_own_files_among_others_are_replaced_until_somebody_changes_one(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "case").write_text("other")
    (tmp_path / "notes.csv").write_text("mine")
    fill_beside_others(tmp_path, a="1", old="1")
    fill_beside_others(tmp_path, a="2")
    assert texts(tmp_path) == {"dataset/case": "other", "notes.csv": "mine", "a.csv": "2"}
    (tmp_path / "a.csv").write_text("2, corrected")
    with pytest.raises(WorkspaceError, match=r"a.csv: has been changed since Graft wrote it.*move or rename it"):
        fill_beside_others(tmp_path, a="3")
    assert (tmp_path / "a.csv").read_text() == "2, corrected"
    (tmp_path / "a.csv").rename(tmp_path / "mine.csv")
    fill_beside_others(tmp_path, a="3")
    assert (tmp_path / "a.csv").read_text() == "3"


def test_files_of_a_version_without_a_list_are_replaced_and_those_of_others_are_not(tmp_path: Path) -> None:
    for name in ("a", "old", "b"):
        (tmp_path / f"{name}.csv").write_text("of before")
    with pytest.raises(WorkspaceError, match=r"b.csv: was not written by Graft"):
        fill_beside_others(tmp_path, a="1", b="1")
    fill_beside_others(tmp_path, a="1")
    assert texts(tmp_path) == {"a.csv": "1", "b.csv": "of before"}

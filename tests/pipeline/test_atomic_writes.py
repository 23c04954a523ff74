"""A file or folder is either whole under its name or not there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pipeline.storage.atomic import (
    TEMPORARY,
    new_folder,
    remove_temporaries,
    remove_temporaries_of,
    temporary_room,
    temporary_sibling,
    write_json,
    write_text,
)

ROOT = Path(__file__).parents[2]


def fail_half_way(writing: AbstractContextManager[Path]) -> None:
    with writing as temporary:
        (temporary / "new" if temporary.is_dir() else temporary).write_text("ne")
        raise RuntimeError("half way")


def test_a_text_is_written_with_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "Größe\n")
    assert path.read_text(encoding="utf-8") == "Größe\n"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_writer_that_raises_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way(temporary_sibling(path))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_a_writer_that_raises_leaves_nothing_under_a_new_name(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way(temporary_sibling(tmp_path / "new"))
    assert not list(tmp_path.iterdir())


def test_the_name_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with temporary_sibling(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent  # another file system could not be renamed from
    assert path.read_text() == "whole"


def test_files_get_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "")
        with new_folder(tmp_path / "folder") as temporary:
            (temporary / "x").write_text("")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_equal_values_give_equal_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "a": [1.5, "é"]})
    write_json(tmp_path / "b", {"a": [1.5, "é"], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"x": 1, "a": [1.5, "é"]}


def test_json_without_a_meaning_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way(new_folder(folder))
    assert not list(tmp_path.iterdir())
    with new_folder(folder) as temporary:
        (temporary / "new").write_text("new")
        assert not folder.exists()
    assert [p.name for p in folder.iterdir()] == ["new"]
    with pytest.raises(OSError, match="not empty"), new_folder(folder) as temporary:
        (temporary / "other").write_text("other")
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_in_a_shared_one_belongs_to_its_group(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    with new_folder(tmp_path / "folder") as temporary:
        (temporary / "x").write_text("")
    assert (tmp_path / "folder").stat().st_mode & stat.S_ISGID
    assert (tmp_path / "folder").stat().st_gid == tmp_path.stat().st_gid


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text() == "new"


def test_long_names_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("a" * 250), "")
    with new_folder(tmp_path / ("b" * 250)):
        pass
    assert sorted(p.name[0] for p in tmp_path.iterdir()) == ["a", "b"]


def test_names_that_are_no_utf8_are_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"scan\xff.nii")
    write_json(tmp_path / "a", {"name": name})
    assert json.loads((tmp_path / "a").read_text()) == {"name": name}


def test_what_interrupted_writes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    arm = tmp_path / "arm"
    (arm / f"{TEMPORARY}17-0123abcd-abcd_123" / "deep").mkdir(parents=True)
    (arm / f"{TEMPORARY}17-0123abcd-abcd_124").write_text("")
    mine = [".tmp-notes", f"{TEMPORARY}notes", "kept"]
    for name in mine:
        (arm / name).write_text("")
    remove_temporaries(tmp_path)
    assert {p.name for p in arm.iterdir()} == set(mine)
    remove_temporaries(tmp_path / "missing")


_WRITER = """
import os, sys
from pathlib import Path
from pipeline.storage.atomic import temporary_room
with temporary_room(Path(sys.argv[1])) as room:
    (room / "half").write_text("half")
    os._exit(9)
"""


def test_what_a_killed_command_left_of_a_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        subprocess.run([sys.executable, "-c", _WRITER, str(tmp_path / name)], check=False, cwd=ROOT)
    with temporary_room(tmp_path / "new") as room:
        assert len(list(tmp_path.rglob("half"))) == 2
        remove_temporaries_of(tmp_path / "new")
        assert room.is_dir(), "that of a process that lives"
        assert [p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("half")] == ["there"]
    remove_temporaries_of(tmp_path / "there")
    assert not list(tmp_path.rglob("half"))

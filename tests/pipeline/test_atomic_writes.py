"""A file or folder is either whole under its name or not there."""

from __future__ import annotations

import json
import os
import stat
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pipeline.storage.atomic import (
    TEMPORARY,
    remove_temporaries,
    temporary_folder,
    temporary_sibling,
    write_json,
    write_text,
)


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
        with temporary_folder(tmp_path / "folder") as temporary:
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


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    folder = tmp_path / "unit"
    folder.mkdir()
    (folder / "old").write_text("old")
    with temporary_folder(folder) as temporary:
        (temporary / "new").write_text("new")
        assert [p.name for p in folder.iterdir()] == ["old"]
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["unit"]


def test_a_folder_whose_writer_raises_stays_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "unit"
    folder.mkdir()
    (folder / "old").write_text("old")
    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way(temporary_folder(folder))
    assert [p.name for p in folder.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["unit"]


def test_what_interrupted_writes_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "arm" / f"{TEMPORARY}unit-x" / "deep").mkdir(parents=True)
    (tmp_path / "arm" / f"{TEMPORARY}file-x").write_text("")
    (tmp_path / "arm" / "kept").write_text("")
    remove_temporaries(tmp_path)
    assert [p.name for p in (tmp_path / "arm").iterdir()] == ["kept"]
    remove_temporaries(tmp_path / "missing")

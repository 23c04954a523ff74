"""The output folder of `graft predict`: what is in it, and that nobody's work in it is lost."""

from __future__ import annotations

import csv
import json
import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from data.errors import GraftError
from data.image_file import write_volume
from data.volume import Volume
from pipeline.deployment.predict_command import predict
from pipeline.deployment.predict_options import PredictOptions
from pipeline.execution.stage import StageError

MakeScan = Callable[..., Volume]
WriteScans = Callable[[Path, list[str]], list[Path]]


def run(model: Path, *inputs: Path, output: Path, resume: bool = True, **options: Any) -> list[dict[str, str]]:
    chosen = PredictOptions(**{"pictures": False, **options})
    return predict(model, inputs, output, chosen, device="cpu", resume=resume)


def table(output: Path) -> dict[str, str]:
    """Case → state."""
    with (output / "predictions.csv").open() as stream:
        return {row["case"]: row["state"] for row in csv.DictReader(stream)}


@pytest.mark.parametrize("resume", [True, False])
def test_a_corrected_mask_is_never_overwritten(
    model: Path, write_scans: WriteScans, tmp_path: Path, resume: bool
) -> None:
    write_scans(tmp_path / "in", ["a", "b"])
    out = tmp_path / "out"
    run(model, tmp_path / "in", output=out)
    mask = out / "a" / "a.nii.gz"
    mask.write_bytes(b"hours of work")
    with pytest.raises(StageError, match=r"1 of 2 units failed.*a\.nii\.gz: has been changed since Graft wrote.*move"):
        run(model, tmp_path / "in", output=out, resume=resume, samples=2)
    assert mask.read_bytes() == b"hours of work"
    assert table(out) == {"a": "failed", "b": "done"}
    assert json.loads((out / "b" / "b.json").read_text())["draws"] == 2, "the others go on"
    mask.rename(out / "a" / "a_corrected.nii.gz")
    run(model, tmp_path / "in", output=out, resume=resume, samples=2)
    assert table(out) == {"a": "done", "b": "done"}
    assert (out / "a" / "a_corrected.nii.gz").read_bytes() == b"hours of work"


def test_a_corrected_mask_is_kept_where_nothing_has_to_be_done(
    model: Path, write_scans: WriteScans, tmp_path: Path
) -> None:
    write_scans(tmp_path / "in", ["a", "b"])
    out = tmp_path / "out"
    run(model, tmp_path / "in", output=out)
    mask = out / "a" / "a.nii.gz"
    mask.write_bytes(b"hours of work")
    rows = {row["case"]: row for row in run(model, tmp_path / "in", output=out)}
    assert mask.read_bytes() == b"hours of work"
    assert {name: row["state"] for name, row in rows.items()} == {"a": "done", "b": "done"}
    assert "kept: a.nii.gz" in rows["a"]["message"]
    assert rows["b"]["message"] == ""
    # The table cannot be made of numbers that somebody else wrote.
    (out / "a" / "a.json").write_text("{}")
    with pytest.raises(StageError, match=r"a\.json: has been changed since Graft wrote it"):
        run(model, tmp_path / "in", output=out)
    assert table(out) == {"a": "failed", "b": "done"}


def test_a_changed_option_removes_what_graft_wrote_and_nothing_else(
    model: Path, write_scans: WriteScans, tmp_path: Path
) -> None:
    (path,) = write_scans(tmp_path / "in", ["a"])
    out = tmp_path / "out"
    run(model, path, output=out, probabilities=True)
    own = {p.name for p in (out / "a").iterdir()}
    mine = ["a/notes.txt", "a/.tmp-mine", "notes.txt", ".tmp-mine"]
    for name in mine:
        (out / name).write_text("mine")
    run(model, path, output=out)
    assert own - {p.name for p in (out / "a").iterdir()} == {"a_probability-cube.nii.gz"}
    assert all((out / name).read_text() == "mine" for name in mine)


def test_a_second_batch_keeps_the_rows_of_the_first(model: Path, write_scans: WriteScans, tmp_path: Path) -> None:
    first, second = write_scans(tmp_path / "in", ["b", "bad"]), write_scans(tmp_path / "more", ["a", "c"])
    first[1].write_bytes(b"no image")
    out = tmp_path / "out"
    with pytest.raises(StageError, match="bad"):
        run(model, *first, output=out)
    before = (out / "predictions.csv").read_text().splitlines()
    assert [row["case"] for row in run(model, *second, output=out)] == ["a", "c"]
    assert list(table(out).items()) == [("a", "done"), ("b", "done"), ("bad", "failed"), ("c", "done")]
    assert set(before) <= set((out / "predictions.csv").read_text().splitlines())
    # What a person did to the mask does not take its row.
    (out / "b" / "b.nii.gz").write_bytes(b"corrected")
    run(model, *second, output=out)
    assert table(out)["b"] == "done"


def test_a_changed_table_is_not_overwritten(model: Path, write_scans: WriteScans, tmp_path: Path) -> None:
    (path,) = write_scans(tmp_path / "in", ["a"])
    out = tmp_path / "out"
    run(model, path, output=out)
    (out / "predictions.csv").write_text("case,mine\na,good\n")
    with pytest.raises(GraftError, match=r"predictions.csv: has been changed since Graft wrote it"):
        run(model, path, output=out)
    assert "good" in (out / "predictions.csv").read_text()
    (out / "predictions.csv").rename(out / "reviewed.csv")
    run(model, path, output=out)
    assert table(out) == {"a": "done"}


def test_a_description_that_the_user_completed_is_kept(
    model: Path, make_scan: MakeScan, write_scans: WriteScans, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bids/sub-1/anat/sub-1_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    write_volume(make_scan(0), path)
    out = tmp_path / "out"
    run(model, tmp_path / "bids", output=out)
    description = out / "dataset_description.json"
    text = description.read_text().replace("{", '{"Authors": ["Anna"],', 1)
    description.write_text(text)
    with caplog.at_level(logging.WARNING):
        run(model, *write_scans(tmp_path / "in", ["a"]), output=out)
    assert description.read_text() == text
    assert f"{description} has been changed since Graft wrote it, and is kept" in caplog.text
    assert (out / "desc-graft_dseg.tsv").is_file()
    assert table(out) == {"a": "done", "sub-1": "done"}


def test_the_folder_holds_results_and_nothing_of_the_work(model: Path, write_scans: WriteScans, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o2775)
    (tmp_path / "link").symlink_to("out")
    run(model, *write_scans(tmp_path / "in", ["a"]), output=tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert {p.name for p in out.iterdir()} == {"a", "predictions.csv", "prediction.json", "file-digests.json"}
    assert (out / "a").stat().st_mode & stat.S_ISGID
    assert str(tmp_path) not in (out / "file-digests.json").read_text()


def test_a_scan_that_may_not_be_read_does_not_stop_the_others(
    model: Path, write_scans: WriteScans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests may run as root, who may read everything.
    paths = write_scans(tmp_path / "in", ["a", "secret"])
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == paths[1]:
            raise PermissionError(13, os.strerror(13), str(path))
        return opened(path, *arguments, **options)

    paths[1].write_bytes(b"")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StageError, match="1 of 2 units failed"):
        run(model, tmp_path / "in", output=tmp_path / "out")
    assert table(tmp_path / "out") == {"a": "done", "secret": "failed"}


def test_a_folder_that_may_not_be_read_does_not_stop_the_others(
    model: Path, write_scans: WriteScans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_scans(tmp_path / "in", ["a"])
    (tmp_path / "closed").mkdir()
    listed = Path.iterdir

    def refuse(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, os.strerror(13), str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(StageError, match=r"1 of 2 units failed.*closed: cannot be read \(Permission denied\)"):
        run(model, path, tmp_path / "closed", output=tmp_path / "out")
    assert table(tmp_path / "out") == {"a": "done", "closed": "failed"}


def test_names_that_are_no_utf8_do_not_stop_a_batch(model: Path, write_scans: WriteScans, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", ["a"])
    os.rename(tmp_path / "in" / "a.nii.gz", os.fsencode(tmp_path) + b"/in/b\xff.nii.gz")
    write_scans(tmp_path / "in", ["a", "c"])
    # Whether such a name is accepted is not decided here.
    with suppress(StageError):
        run(model, tmp_path / "in", output=tmp_path / "out")
    states = table(tmp_path / "out")
    assert len(states) == 3
    assert (states["a"], states["c"]) == ("done", "done")

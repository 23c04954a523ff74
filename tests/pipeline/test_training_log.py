"""The log of a training and its trackers; a resumed training ends with the same bytes."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from data.errors import ConfigError
from pipeline.report.study_files import read_history
from pipeline.training import training_log
from pipeline.training.tracking import TRACKING, TrackingOptions, Use, open_trackers
from pipeline.training.training_log import SpeedMeter, TrainingLog


def row(step: int) -> dict[str, float]:
    extra = {"out_of_bag_dice": 1 / 3} if step == 6 else {}
    return {"step": step, "loss": 0.1 * step, "rate": 1e-3 / step, **extra}


class Memory:
    """A tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def log(self, step, values) -> None:
        self.kept.append((step, dict(values)))

    def close(self) -> None:
        self.closed = True


def test_a_row_is_in_the_file_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    log.add(row(2))
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [row(2)]
    log.add(row(6))
    assert log.rows == [row(2), row(6)]
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 2
    assert not (tmp_path / "history.csv").exists()


def test_the_table_has_the_columns_of_all_rows_and_the_report_reads_it(tmp_path: Path) -> None:
    with TrainingLog(tmp_path) as log:
        for step in (2, 4, 6):
            log.add(row(step))
        log.finish()
    with (tmp_path / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["step", "loss", "rate", "out_of_bag_dice"]
    assert [r["out_of_bag_dice"] for r in rows] == ["", "", repr(1 / 3)]
    history = read_history(tmp_path / "history.csv")
    np.testing.assert_array_equal(history["loss"], [row(step)["loss"] for step in (2, 4, 6)])
    assert np.isnan(history["out_of_bag_dice"][:2]).all()


@pytest.mark.parametrize("torn", ["", '{"step": 7, "lo', '{"step": 7, "loss": 1.0}'])
def test_a_training_that_goes_on_ends_with_the_same_bytes(tmp_path: Path, torn: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    log = TrainingLog(whole)
    for step in range(1, 9):
        log.add(row(step))
    log.finish()
    first = TrainingLog(cut)
    for step in range(1, 7):
        first.add(row(step))
    # Killed: neither closed nor finished, perhaps in the middle of a line. The checkpoint is of step 4.
    with (cut / "log.jsonl").open("a") as stream:
        stream.write(torn)
    second = TrainingLog(cut, start=4)
    assert [r["step"] for r in second.rows] == [1, 2, 3, 4]
    for step in range(5, 9):
        second.add(row(step))
    second.finish()
    for name in ("log.jsonl", "history.csv"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_a_training_that_starts_anew_forgets_the_rows_of_another_try(tmp_path: Path) -> None:
    TrainingLog(tmp_path).add(row(2))
    assert TrainingLog(tmp_path).rows == []
    assert (tmp_path / "log.jsonl").read_bytes() == b""


def test_what_is_not_finite_is_null_and_an_empty_field_also_after_going_on(tmp_path: Path) -> None:
    tables = []
    for name, start in (("a", None), ("b", 1)):
        folder = tmp_path / name
        folder.mkdir()
        log = TrainingLog(folder)
        log.add({"step": 1, "loss": float("nan"), "rate": np.float32(0.5)})
        if start is not None:
            log.close()
            log = TrainingLog(folder, start=start)
        log.finish()
        tables.append((folder / "history.csv").read_bytes())
    assert '"loss": null' in (tmp_path / "a" / "log.jsonl").read_text()
    assert tables[0] == tables[1] == b"step,loss,rate\r\n1,,0.5\r\n"


def test_speed_goes_to_a_file_of_its_own(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    log.add(row(2))
    log.write_speed(2, patches_per_second=3.5, seconds_left=60.0)
    log.finish()
    expected = {"step": 2, "patches_per_second": 3.5, "seconds_left": 60.0}
    assert json.loads((tmp_path / "speed.jsonl").read_text()) == expected
    for name in ("log.jsonl", "history.csv"):
        assert "second" not in (tmp_path / name).read_text()


def test_speed_is_patches_over_seconds_since_the_last_time(monkeypatch) -> None:
    now = iter([100.0, 110.0, 112.0])
    monkeypatch.setattr(training_log.time, "monotonic", lambda: next(now))
    meter = SpeedMeter(patches=4, steps=100, start=20)
    assert meter.measure(40) == pytest.approx((8.0, 30.0))
    assert meter.measure(60) == pytest.approx((40.0, 4.0))


def test_trackers_see_every_row_once_also_when_a_training_goes_on(tmp_path: Path) -> None:
    first = TrainingLog(tmp_path, [Memory()])
    for step in (2, 4, 6):
        first.add(row(step))
    first.write_speed(4, 1.0, 9.0)
    first.close()
    tracker = Memory()
    log = TrainingLog(tmp_path, [tracker], start=4)
    log.add({"step": 5, "loss": float("inf"), "rate": 0.25})
    log.finish()
    assert [step for step, _ in tracker.kept] == [2, 4, 4, 5]
    assert tracker.kept[0] == (2, {"loss": 0.2, "rate": 5e-4})
    assert tracker.kept[2] == (4, {"patches_per_second": 1.0, "seconds_left": 9.0})
    assert tracker.kept[3] == (5, {"rate": 0.25})
    assert tracker.closed


def test_tensorboard_gets_the_rows_and_its_files_lie_apart(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start in (0, 2):
        log = TrainingLog(tmp_path, open_trackers(TrackingOptions(), tmp_path), start=start)
        for step in (start + 1, start + 2):
            log.add(row(step))
        log.finish()
    events = EventAccumulator(str(tmp_path / TRACKING / "tensorboard"))
    events.Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3, 4]
    assert [event.value for event in losses] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert {p.name for p in tmp_path.iterdir()} == {"log.jsonl", "speed.jsonl", "history.csv", TRACKING}


def test_mlflow_gets_the_rows_in_a_store_of_files(tmp_path: Path, monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # must not be used
    options = TrackingOptions(tensorboard=Use.OFF, mlflow=Use.ON)
    # The second training takes the place of the first, in the same process, whose stores mlflow keeps open.
    for steps in ((2, 4), (2, 6)):
        log = TrainingLog(tmp_path, open_trackers(options, tmp_path))
        for step in steps:
            log.add(row(step))
        log.finish()
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / TRACKING / "mlflow").as_uri())
    (experiment,) = [e for e in client.search_experiments() if e.name == "training"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(2, 0.2), (6, 0.1 * 6)]


@pytest.mark.parametrize("package", ["tensorboard", "mlflow"])
def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch, package: str) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == package or n.startswith(f"torch.utils.{package}")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    off = {"tensorboard": Use.OFF, "mlflow": Use.OFF}
    assert open_trackers(TrackingOptions(**{**off, package: Use.AUTO}), tmp_path) == []
    with pytest.raises(ConfigError, match=rf"tracking\.{package}: on.*\.\[tracking\]"):
        open_trackers(TrackingOptions(**{**off, package: Use.ON}), tmp_path)


def test_trackers_that_are_off_are_not_opened(tmp_path: Path) -> None:
    assert open_trackers(TrackingOptions(tensorboard=Use.OFF, mlflow=Use.OFF), tmp_path) == []
    assert TrackingOptions().mlflow is Use.AUTO
    assert not (tmp_path / TRACKING).exists()

"""What the report tells of the KL of each arm."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.arms.arm_record import ArmRecord
from pipeline.arms.choices import ArmOptions
from pipeline.arms.kl_trend import KLTrend
from pipeline.arms.training_unit import TRAINING, TrainingRecord
from pipeline.report.prior_use import gradient_share, prior_lines
from pipeline.report.study_files import InferredUnit
from pipeline.training.training_log import History

SETTLED, FALLING = KLTrend(level=2.0, drift=0.01, settled=True), KLTrend(level=2.0, drift=-0.1, settled=False)
OUTSIDE = ({"left_prior_a": 0.5, "left_prior_b": 0.5}, {"left_prior_a": 0.0, "left_prior_b": 0.3})
ROWS = [
    {"step": 10, "loss": 3.0, "kl": 2.5, "gradient_data": 9.0, "gradient_kl": 1.0, **OUTSIDE[0]},
    {"step": 20, "loss": 3.0, "kl": 2.0, "gradient_data": 3.0, "gradient_kl": 1.0, **OUTSIDE[1]},
]


def unit(
    root: Path, arm: str, repeat: int = 0, kl: Sequence[KLTrend] = (), rows: Sequence[Mapping[str, float]] = ROWS
) -> InferredUnit:
    key = f"{arm}-{repeat}"
    record = ArmRecord(
        arm=arm, n=5, repeat=repeat, patients=("p",), steps=20, choices=ArmOptions(), objective="none",
        trainings=(key,), predictions=(key,),
    )  # fmt: skip
    own = InferredUnit(root, record)
    [folder] = own.training_folders()
    folder.mkdir(parents=True)
    History([dict(row) for row in rows]).write(folder / "history.csv")
    trained = TrainingRecord(
        arm=ArmOptions(), member=0, n=5, repeat=repeat, patients=("p",), steps=20, kl=tuple(kl), about={}
    )
    (folder / TRAINING).write_text(json.dumps(trained.as_json()))
    return own


def test_one_line_for_each_arm_that_has_a_kl(tmp_path: Path) -> None:
    plain = [{key: row[key] for key in ("step", "loss")} for row in ROWS]
    units = [unit(tmp_path, "random", rows=plain), unit(tmp_path, "dwp", kl=[SETTLED])]
    [line] = prior_lines(units)
    assert line == {
        "arm": "dwp", "n": 5, "kl": "2.000", "settled": "yes", "share": "17.5\N{NO-BREAK SPACE}%",
        "left": "15.0\N{NO-BREAK SPACE}%", "note": "",
    }  # fmt: skip


def test_all_repeats_and_components_count(tmp_path: Path) -> None:
    units = [unit(tmp_path, "dwp", 0, [SETTLED, FALLING]), unit(tmp_path, "dwp", 1, [FALLING])]
    [line] = prior_lines(units)
    assert line["settled"] == "2 of 3: −5.0\N{NO-BREAK SPACE}%"
    assert "The KL of dwp at n = 5 was still moving" in line["note"]
    assert "in 2 of 3 trainings" in line["note"]


def test_a_single_training_is_not_counted(tmp_path: Path) -> None:
    [line] = prior_lines([unit(tmp_path, "dwp", 0, [FALLING])])
    assert line["settled"] == "no: −5.0\N{NO-BREAK SPACE}%"
    assert "ended: its posterior" in line["note"]


def test_what_was_not_logged_is_a_dash(tmp_path: Path) -> None:
    bare = [{key: row[key] for key in ("step", "loss", "kl")} for row in ROWS]
    [line] = prior_lines([unit(tmp_path, "dwp", 0, [], bare)])
    assert [line[key] for key in ("kl", "settled", "share", "left", "note")] == ["–", "–", "–", "–", ""]
    # A training of which only the table of its log was kept.
    own = unit(tmp_path, "map", 0, [SETTLED])
    (own.training_folders()[0] / TRAINING).unlink()
    assert prior_lines([own])[0]["settled"] == "–"


def test_the_share_is_that_of_both_gradients() -> None:
    history = {"gradient_data": np.array([3.0, 0.0, math.nan]), "gradient_kl": np.array([1.0, 0.0, 1.0])}
    assert gradient_share(history)[0] == pytest.approx(0.25)
    assert np.isnan(gradient_share(history)[1:]).all()
    assert len(gradient_share({"kl": np.ones(3)})) == 0

"""A study that tunes the peak rates of its arms on inner folds of their own training patients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.execution.unit import MARKER

RATES = [1e-3, 0.02]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(write_cohort: Callable, write_study: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    arms = {
        "random": {"peak_rate": 0.5},
        "calibrated": {"preset": "random", "peak_rate": 0.5, "fit_reading": True, "members": 2},
    }
    training = {"arms": arms, "sizes": [2, 3], "steps": 6, "repeats": 1, "tune": "inner_folds", "tuned_rates": RATES}
    return write_study(folder / "tiny.yaml", write_cohort(folder / "cohort"), target_training=training)


@pytest.fixture(scope="module")
def workspace(config: Path) -> Path:
    root = config.parent / "workspace"
    assert main(["run", str(config), "--workspace", str(root), "--jobs", "1"]) == 0
    return root


def trained(workspace: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in (workspace / "train-target").rglob("training.json")]


def test_the_rate_with_the_best_dice_is_that_of_the_arm(workspace: Path) -> None:
    found = [json.loads(path.read_text()) for path in (workspace / "tune-rates").rglob("rate.json")]
    assert found
    for own in found:
        assert own["tried"] == RATES
        assert own["rate"] == RATES[own["dice"].index(max(own["dice"]))]
        assert own["patients"] == 3
    for arm in ("random", "calibrated"):
        records = {n: json.loads((workspace / f"infer/{arm}/n{n:02d}/repeat-0/unit.json").read_text()) for n in (2, 3)}
        assert records[3]["choices"]["peak_rate"] in {own["rate"] for own in found}
        # Of two patients, nothing is tuned.
        assert records[2]["choices"]["peak_rate"] == 0.5
        (model,) = (workspace / f"infer/{arm}/n03/repeat-0/model").glob("model.json")
        assert json.loads(model.read_text())["arm"]["peak_rate"] == records[3]["choices"]["peak_rate"]


def test_nobody_is_tuned_on_patients_that_a_model_learned_from(workspace: Path) -> None:
    of_folds = [own for own in trained(workspace) if own["n"] == 3 and len(own["patients"]) == 2]
    assert {own["arm"]["peak_rate"] for own in of_folds} == set(RATES)
    # Three folds at two rates; the second member only at the rate that was chosen.
    assert sum(own["member"] == 0 for own in of_folds) == 6
    assert len({own["arm"]["peak_rate"] for own in of_folds if own["member"] == 1}) == 1


def test_the_reading_is_fitted_at_the_rate_of_the_arm(workspace: Path) -> None:
    record = json.loads((workspace / "infer/calibrated/n03/repeat-0/unit.json").read_text())
    assert (record["reading_patients"], len(record["reading_predictions"])) == (3, 3)
    for key in record["reading_predictions"]:
        recipe = json.loads((workspace / "predict-test" / key / MARKER).read_text())["recipe"]
        markers = (json.loads(path.read_text()) for path in (workspace / "train-target").rglob(MARKER))
        of_these = [m["recipe"]["arm"]["peak_rate"] for m in markers if m["digest"] in recipe["trainings"]]
        assert set(of_these) == {record["choices"]["peak_rate"]}
        assert len(of_these) == 2


def test_a_second_run_does_nothing_and_another_rate_trains_what_is_new(workspace: Path, config: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in workspace.glob("train-target/**/training.json")}
    run = ["run", str(config), "--workspace", str(workspace), "--jobs", "1"]
    assert main(run) == 0
    assert {path: path.stat().st_mtime_ns for path in workspace.glob("train-target/**/training.json")} == before
    assert main([*run, "--set", f"target_training.tuned_rates={[*RATES, 0.03]}"]) == 0
    after = {path: path.stat().st_mtime_ns for path in workspace.glob("train-target/**/training.json")}
    assert before.items() <= after.items()
    added = [json.loads(path.read_text()) for path in after.keys() - before.keys()]
    assert {own["arm"]["peak_rate"] for own in added} == {0.03}
    text = (workspace / "report/index.html").read_text()
    assert "the one with the highest mean Dice of out-of-fold predictions" in text


def test_in_cross_validation_every_fold_tunes_its_own(
    write_cohort: Callable, write_study: Callable, tmp_path: Path
) -> None:
    config = write_study(
        tmp_path / "folds.yaml",
        write_cohort(tmp_path / "cohort"),
        source={"patients": None, "cases": ["case_0", "case_1"]},
        target={
            "pool": None, "test": None, "folds": 2,
            "pool_cases": ["case_2", "case_3", "case_4", "case_5", "case_6", "case_7"],
        },
        target_training={
            "arms": {"random": {"fit_reading": True}}, "sizes": [], "reference_sizes": [], "repeats": 1, "steps": 3,
            "inner_folds": 3, "tune": "inner_folds", "tuned_rates": RATES,
        },
    )  # fmt: skip
    root = tmp_path / "workspace"
    for stage in ("check", "preprocess", "train-source", "collect-filters", "fit-priors", "infer"):
        assert main([stage, str(config), "--workspace", str(root), "--jobs", "1"]) == 0
    tuned = [json.loads(path.read_text()) for path in root.glob("tune-rates/*/*/*/rate.json")]
    # Those of two folds, and of the final model on all patients.
    assert sorted(own["patients"] for own in tuned) == [3, 3, 6]
    record = json.loads((root / "infer/random/n06/repeat-0/unit.json").read_text())
    # The final reading is fitted on the folds' predictions, each at its fold's own rate.
    assert record["reading_predictions"] == record["predictions"]
    for key in record["predictions"]:
        held_out = {path.stem for path in (root / "predict-test" / key).glob("*.safetensors")}
        marker = json.loads((root / "predict-test" / key / MARKER).read_text())
        units = ((path, json.loads(path.read_text())) for path in root.glob(f"train-target/*/*/*/{MARKER}"))
        (folder,) = (path.parent for path, own in units if own["digest"] in marker["recipe"]["trainings"])
        learned_from = json.loads((folder / "training.json").read_text())["patients"]
        assert len(learned_from) == 3
        assert not held_out & {f"case_{patient[1:]}" for patient in learned_from}

"""One trained arm from its predictions to the tables, and the tables of the study to the sections of the report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import WorkspaceError
from pipeline.config.report_options import ReportOptions
from pipeline.evaluation.calibration_tables import CalibrationRow, ReliabilityRow
from pipeline.evaluation.case_evaluation import TrainedArm
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.empty_mask_counts import EmptyMaskCount
from pipeline.evaluation.label_audit import AUDIT, AuditRow
from pipeline.evaluation.label_efficiency import LabelEfficiency
from pipeline.evaluation.options import CalibrationOptions, EvaluationOptions
from pipeline.evaluation.study_results import TABLES, write_study_results
from pipeline.evaluation.tables import CaseRow, SummaryRow
from pipeline.execution.progress import ProgressFile
from pipeline.execution.unit import MARKER
from pipeline.prediction.boundary_band import possible_voxels
from pipeline.prediction.correlated_volume import correlated_volume_interval
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import load_prediction, prediction_name
from pipeline.report.calibration_section import calibration_section
from pipeline.report.figure_style import figure_style
from pipeline.report.label_efficiency_section import label_efficiency_section
from pipeline.report.measures_section import measures_section
from pipeline.report.page import page_environment
from pipeline.report.picture import PictureFolder
from pipeline.report.section import Material
from pipeline.report.study_files import StudyFiles
from pipeline.stages.evaluate import ReadPrediction, evaluate_predictions
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.owned_folder import owned_files

MakeCase = Callable[..., CachedCase]
Predict = Callable[..., Path]
PLAIN = ReadingOptions()
VOXEL_ML = 2 * 2 * 3 / 1000
DRAWS = 39


@pytest.fixture
def cases(make_case: MakeCase) -> list[CachedCase]:
    """Six cases of five patients."""
    patients = ["p0", "p0", "p1", "p2", "p3", "p4"]
    return [make_case(f"case-{i}", corner=(4 + i % 3, 5, 4), patient=p) for i, p in enumerate(patients)]


@pytest.fixture
def predict(store_prediction: Callable[..., Path]) -> Predict:
    """Returns a function that writes predictions which are right with probability `skill` near the boundary.

    Several draws have volumes.
    """

    def write(folder: Path, cases: Sequence[CachedCase], *, skill: float, draws: int, sharp: float = 1.0) -> Path:
        generator = np.random.default_rng(round(1000 * skill))
        for case in cases:
            truth = case.label().numpy() > 0
            logit = sharp * (2 * (skill * 6 - 2) * (truth - 0.5) + generator.normal(0, 1.5, truth.shape))
            probability = np.where(truth | (generator.random(truth.shape) < 0.02), 1 / (1 + np.exp(-logit)), 0.001)
            several: dict[str, np.ndarray] = {}
            if draws > 1:
                several["information"] = 0.1 * probability * (1 - probability)
                volume = int((probability > 0.5).sum()) * VOXEL_ML
                several["volumes_ml"] = volume * (1 + 0.2 * generator.normal(size=(draws, 1)))
            store_prediction(
                folder, probability[None], case=case.name, affine=case.affine, classes=tuple(case.classes),
                draws=draws, **several,
            )  # fmt: skip
        return folder

    return write


@pytest.fixture
def evaluate(predict: Predict) -> Callable[..., Path]:
    """Returns a function that writes predictions of an arm and measures them."""

    def run(
        tmp_path: Path, arm: str, n: int, cases: Sequence[CachedCase], options: EvaluationOptions,
        reading: ReadingOptions = PLAIN, **how: Any,
    ) -> Path:  # fmt: skip
        predictions = predict(tmp_path / "infer" / f"{arm}-{n}", cases, **how)
        folder = tmp_path / "evaluate" / f"{arm}-{n}"
        return measure(folder, predictions, TrainedArm(arm, n, 0), cases, options, reading)

    return run


def measure(
    folder: Path, predictions: Path, trained: TrainedArm, cases: Sequence[CachedCase], options: EvaluationOptions,
    reading: ReadingOptions = PLAIN,
) -> Path:  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    evaluate_predictions(
        folder, ProgressFile(folder.parent / "progress"),
        tested=[(ReadPrediction("fold", predictions, reading), case) for case in cases],
        inner_folds=[], learned_from=[], trained=trained, native={}, options=options, seed=0,
    )  # fmt: skip
    return folder


def test_a_lost_prediction_of_a_patient_that_was_learned_from_is_missed(
    tmp_path: Path, cases: list[CachedCase], predict: Predict
) -> None:
    tested, *learned = cases
    folder = predict(tmp_path / "fold", learned, skill=0.7, draws=1)
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    recipe = {"images": dict.fromkeys((case.name for case in learned), "0")}
    (folder / MARKER).write_text(json.dumps({"files": files, "digest": "0", "recipe": recipe}))
    predictions = predict(tmp_path / "test", [tested], skill=0.7, draws=1)

    def evaluate() -> list[str]:
        evaluate_predictions(
            tmp_path, ProgressFile(tmp_path / "progress"),
            tested=[(ReadPrediction("test", predictions, PLAIN), tested)],
            # Of all cases that the arm learned from, a fold has predicted some.
            inner_folds=[ReadPrediction("fold", folder, PLAIN)], learned_from=cases,
            trained=TrainedArm("random", 5, 0), native={}, options=EvaluationOptions(), seed=0,
        )  # fmt: skip
        return [row.case for row in read_rows(tmp_path / AUDIT, AuditRow)]

    assert evaluate() == [case.name for case in cases]
    (folder / prediction_name(learned[0].name)).unlink()
    with pytest.raises(WorkspaceError, match=r"fold: this prediction .* is missing.*run `graft infer CONFIG`"):
        evaluate()


def test_rows_of_an_arm_with_draws(tmp_path: Path, cases: list[CachedCase], evaluate: Callable[..., Path]) -> None:
    folder = evaluate(tmp_path, "dwp", 5, cases, EvaluationOptions(), skill=0.7, draws=DRAWS)
    rows = {r.case: r for r in read_rows(folder / "calibration.csv", CalibrationRow)}
    measured = {r.case: r for r in read_rows(folder / "cases.csv", CaseRow)}
    assert set(rows) == set(measured) == {c.name for c in cases}
    for name, row in rows.items():
        volumes = load_prediction(tmp_path / "infer/dwp-5" / f"{name}.safetensors").volumes_ml
        assert volumes is not None
        ordered = np.sort(volumes.numpy()[:, 0])
        assert (row.volume_low_ml, row.volume_high_ml) == (ordered[1], ordered[37])
        assert row.covered == float(ordered[1] <= row.reference_ml <= ordered[37])
        assert row.dice == measured[name].dice
        assert row.draws == DRAWS
        assert row.mutual_information < row.entropy
        assert math.isnan(row.temperature)
    # One calibration error for each patient, not for each case.
    assert rows["case-0"].ece == rows["case-1"].ece != rows["case-2"].ece
    assert rows["case-0"].nll != rows["case-1"].nll
    curve = read_rows(folder / "reliability.csv", ReliabilityRow)
    assert sum(b.share for b in curve) == pytest.approx(1)
    assert {b.arm for b in curve} == {"dwp"}


def test_a_single_network_has_a_volume_interval_where_it_is_scaled_as_a_rival(
    tmp_path: Path, cases: list[CachedCase], evaluate: Callable[..., Path]
) -> None:
    folder = evaluate(tmp_path, "fine_tune", 5, cases, EvaluationOptions(), skill=0.7, draws=1, sharp=12.0)
    rows = read_rows(folder / "calibration.csv", CalibrationRow)
    raw, scaled = ({r.case: r for r in rows if r.arm == arm} for arm in ("fine_tune", "fine_tune+temperature"))
    assert len(raw) == len(scaled) == len(cases)
    for row in rows:
        assert math.isnan(row.mutual_information)
    for row in raw.values():
        assert math.isnan(row.volume_low_ml)
        assert math.isnan(row.covered)
    for row in scaled.values():
        assert 0 < row.voxel_correlation < 1
        assert row.covered == float(row.volume_low_ml <= row.reference_ml <= row.volume_high_ml)
    assert all(row.temperature > 1 for row in scaled.values())
    assert np.mean([r.nll for r in scaled.values()]) < np.mean([r.nll for r in raw.values()])
    only = EvaluationOptions(calibration=CalibrationOptions(temperature_scaled=()))
    folder = evaluate(tmp_path, "fine_tune", 10, cases, only, skill=0.7, draws=1)
    assert {r.arm for r in read_rows(folder / "calibration.csv", CalibrationRow)} == {"fine_tune"}


def test_how_an_arm_reads_its_probabilities_is_followed(
    tmp_path: Path, cases: list[CachedCase], evaluate: Callable[..., Path]
) -> None:
    how = {"skill": 0.7, "draws": 1}
    plain = evaluate(tmp_path / "plain", "fine_tune", 5, cases, EvaluationOptions(), **how)
    reading = ReadingOptions(logit_temperature=3.0, mask=MaskRule.EXPECTED_DICE, voxel_correlation=0.2)
    read = evaluate(tmp_path / "read", "fine_tune", 5, cases, EvaluationOptions(), reading, **how)
    errors = [
        {row.case: row.relative_volume_error for row in read_rows(folder / "cases.csv", CaseRow)}
        for folder in (plain, read)
    ]
    assert errors[0] != errors[1]
    rows = [row for row in read_rows(read / "calibration.csv", CalibrationRow) if row.arm == "fine_tune"]
    raw = {row.case: row for row in read_rows(plain / "calibration.csv", CalibrationRow) if row.arm == "fine_tune"}
    for row in rows:
        assert 0 < row.volume_low_ml < row.volume_high_ml
        assert row.volume_nominal == 0.9
        assert row.entropy > raw[row.case].entropy
        (case,) = (c for c in cases if c.name == row.case)
        stored = load_prediction(tmp_path / "read/infer/fine_tune-5" / f"{case.name}.safetensors")
        own = stored.read(reading).foreground[0].numpy()
        # Where the structure may be does not depend on the mask that the arm makes of its probabilities.
        possible = possible_voxels(own > 0.5, case.spacing.tolist())
        ends = correlated_volume_interval(own[possible], 0.2, float(np.prod(case.spacing)) / 1000)
        assert (row.volume_low_ml, row.volume_high_ml) == pytest.approx(ends, rel=1e-5)
        assert row.covered == float(row.volume_low_ml <= row.reference_ml <= row.volume_high_ml)


def test_calibration_can_be_switched_off(
    tmp_path: Path, cases: list[CachedCase], evaluate: Callable[..., Path]
) -> None:
    folder = evaluate(tmp_path, "dwp", 5, cases, EvaluationOptions(calibration=None), skill=0.7, draws=1)
    assert {p.name for p in folder.iterdir()} == {"cases.csv", "audit.csv"}


def test_an_empty_prediction_is_scored_and_reviewed_first(
    tmp_path: Path, cases: list[CachedCase], predict: Predict, store_prediction: Callable[..., Path]
) -> None:
    predictions = predict(tmp_path / "infer", cases, skill=0.8, draws=1)
    nothing = np.full((1, *cases[0].shape), 0.01, np.float32)
    store_prediction(predictions, nothing, case=cases[0].name, affine=cases[0].affine)
    measure(tmp_path / "out", predictions, TrainedArm("random", 5, 0), cases, EvaluationOptions())
    row = next(r for r in read_rows(tmp_path / "out/calibration.csv", CalibrationRow) if r.case == cases[0].name)
    assert (row.dice, row.expected_dice) == (0.0, 0.0)
    assert row.nll > 1
    assert math.isnan(row.entropy)


@pytest.fixture
def study(tmp_path: Path, cases: list[CachedCase], evaluate: Callable[..., Path]) -> Path:
    """Results of three arms at two sizes."""
    options = EvaluationOptions(resamples=200)
    skills = {("random", 5): 0.5, ("random", 10): 0.7, ("fine_tune", 5): 0.6, ("fine_tune", 10): 0.75, ("dwp", 5): 0.65,
              ("dwp", 10): 0.8}  # fmt: skip
    folders = [
        evaluate(tmp_path, arm, n, cases, options, skill=skill, draws=DRAWS if arm == "dwp" else 1)
        for (arm, n), skill in skills.items()
    ]
    write_study_results(
        tmp_path / "study/results",
        [row for f in folders for row in read_rows(f / "cases.csv", CaseRow)],
        [row for f in folders for row in read_rows(f / "calibration.csv", CalibrationRow)],
        [row for f in folders for row in read_rows(f / "reliability.csv", ReliabilityRow)],
        [row for f in folders for row in read_rows(f / "audit.csv", AuditRow)],
        options=options,
        rivals=("random", "fine_tune"),
        seed=0,
    )
    return tmp_path / "study"


def test_tables_of_a_study(study: Path) -> None:
    results = study / "results"
    summary = {(r.arm, r.n, r.metric): r for r in read_rows(results / "calibration_summary.csv", SummaryRow)}
    coverage = summary["dwp", 5, "volume_coverage"]
    covered = [r for r in read_rows(results / "calibration.csv", CalibrationRow) if (r.arm, r.n) == ("dwp", 5)]
    by_patient: dict[str, list[float]] = {}
    for row in covered:
        by_patient.setdefault(row.patient, []).append(row.covered)
    assert coverage.mean == pytest.approx(np.mean([np.mean(v) for v in by_patient.values()]))
    assert 0 <= coverage.ci_low <= coverage.mean <= coverage.ci_high <= 1
    assert ("random", 5, "volume_coverage") not in summary
    assert ("random", 5, "spearman_mutual_information") not in summary
    assert {"ece", "nll", "brier", "temperature"} <= {m for a, _, m in summary if a == "fine_tune+temperature"}
    compared = read_rows(results / "comparisons.csv", Comparison)
    assert {"dice", "hd95", "ece", "nll", "brier"} <= {r.metric for r in compared}
    assert {r.rival for r in compared if r.metric == "dice"} <= {"random", "fine_tune"}
    assert any(
        r.rival.endswith("+temperature") or r.arm.endswith("+temperature") for r in compared if r.metric == "ece"
    )
    efficiencies = {(r.arm, r.n): r for r in read_rows(results / "label_efficiency.csv", LabelEfficiency)}
    assert set(efficiencies) == {(a, n) for a in ("fine_tune", "dwp") for n in (5, 10)}
    assert 1 < efficiencies["dwp", 5].efficiency <= 2
    assert efficiencies["dwp", 10].relation == ">"
    touched = read_rows(results / "empty_masks.csv", EmptyMaskCount)
    assert {c.metric for c in touched} >= {"dice", "hd95", "relative_volume_error"}
    assert "dice_worst_tenth" in {r.metric for r in read_rows(results / "summary.csv", SummaryRow)}


def test_tables_of_an_earlier_run_with_calibration_do_not_stay(study: Path) -> None:
    rows = read_rows(study / "results/cases.csv", CaseRow)
    options = EvaluationOptions(resamples=100, calibration=None)
    with owned_files(study / "results", "files.json", of_before=TABLES) as folder:
        write_study_results(folder, rows, [], [], [], options=options, rivals=("random",), seed=0)
    assert not list((study / "results").glob("calibration*"))
    assert not (study / "results/reliability.csv").exists()


def page(study: Path) -> tuple[str, dict[str, tuple[str, ...]]]:
    material = Material(StudyFiles(study), ReportOptions(), PictureFolder(study / "report/figures", 60))
    with figure_style():
        sections = [f(material) for f in (label_efficiency_section, calibration_section, measures_section)]
    text = "".join(
        page_environment().get_template(f"{s.key}.html.j2").render(content=s.content) for s in sections if s.content
    )
    return text, {s.key: s.missing for s in sections}


@pytest.mark.slow
def test_sections_show_the_tables(study: Path) -> None:
    text, missing = page(study)
    assert missing == {"label_efficiency": (), "calibration": (), "measures": ()}
    assert "not available" in text
    assert "fine_tune+temperature" in text
    assert "reward_agreement" in text
    assert "within 5 mm of the reference boundary" in text
    figures = {p.stem for p in (study / "report/figures").glob("*.png")}
    assert figures == {
        "label-efficiency", "reliability-n05", "reliability-n10", "volume-coverage", "review-entropy",
        "review-mutual-information",
    }  # fmt: skip


def test_sections_say_what_is_missing(study: Path) -> None:
    for name in ("reliability.csv", "label_efficiency.csv", "empty_masks.csv"):
        (study / "results" / name).unlink()
    text, missing = page(study)
    assert text == ""
    assert all("evaluate stage" in " ".join(reasons) for reasons in missing.values())


def test_a_row_of_calibration_comes_back_exactly(study: Path) -> None:
    rows = read_rows(study / "results/calibration.csv", CalibrationRow)
    assert rows
    assert all(isinstance(r, CalibrationRow) and isinstance(r.draws, int) for r in rows)

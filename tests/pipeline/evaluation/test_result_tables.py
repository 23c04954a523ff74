from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import WorkspaceError
from pipeline.evaluation.case_evaluation import TrainedArm, evaluate_case
from pipeline.evaluation.comparison import (
    NON_BAYESIAN_ARMS,
    Comparison,
    best_rival,
    compare_arms,
)
from pipeline.evaluation.csv_rows import read_rows, write_rows
from pipeline.evaluation.leading_arm import leading_arms, leads
from pipeline.evaluation.options import EvaluationOptions
from pipeline.evaluation.statistics import why_no_interval
from pipeline.evaluation.tables import (
    CaseRow,
    StudyRows,
    SummaryRow,
    summarise,
    write_cases_csv,
)
from pipeline.metrics.overlap import EmptyMaskPolicy
from pipeline.report.score_table import metric_table


def row(
    arm: str = "dwp", n: int = 5, repeat: int = 0, case: str = "c", label: str = "core", dice: float = 0.5
) -> CaseRow:
    patient = case.split("-")[0]
    return CaseRow(arm, n, repeat, case, patient, label, dice, dice / (2 - dice))


def study_rows() -> list[CaseRow]:
    generator = np.random.default_rng(0)
    lift = {"random": -0.2, "fine_tune": 0.0, "dwp": 0.1}
    return [
        row(arm, n, repeat, f"p{i:02d}", dice=float(np.clip(0.6 + up + 0.02 * n / 5 + generator.normal(0, 0.02), 0, 1)))
        for arm, up in lift.items()
        for n in (5, 10)
        for repeat in range(2)
        for i in range(14)
    ]


def test_headers_are_those_promised(tmp_path: Path) -> None:
    write_cases_csv([row()], tmp_path / "cases.csv")
    write_rows(tmp_path / "summary.csv", SummaryRow, summarise(StudyRows([row()]), 0, 100))
    header = (tmp_path / "cases.csv").read_text().splitlines()[0]
    assert header.startswith("arm,n,repeat,case,patient,label,dice,iou,")
    assert (tmp_path / "summary.csv").read_text().splitlines()[0] == "arm,n,metric,mean,ci_low,ci_high,cases,patients"


def test_cases_come_back_exactly(tmp_path: Path) -> None:
    rows = [row(case='a "b", c', dice=1 / 3), row(case="d", dice=math.nan)]
    write_cases_csv(rows, tmp_path / "cases.csv")
    got = read_rows(tmp_path / "cases.csv", CaseRow)
    # NaN is equal to nothing, so compare what is written.
    assert [repr(r) for r in got] == [repr(r) for r in rows]
    assert got[0].lesions_reference is None
    assert math.isnan(got[1].dice)
    assert math.isnan(got[0].hd95)


def test_bytes_do_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = study_rows()
    write_cases_csv(rows, tmp_path / "a.csv")
    write_cases_csv(rows[::-1], tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "b.csv"]


def test_summary_comes_back_and_holds_the_averages(tmp_path: Path) -> None:
    rows = study_rows()
    summary = summarise(StudyRows(rows), 3, 300)
    write_rows(tmp_path / "summary.csv", SummaryRow, summary)
    # NaN is equal to nothing, so compare what is written.
    assert repr(read_rows(tmp_path / "summary.csv", SummaryRow)) == repr(summary)
    assert all(math.isnan(s.ci_low) == (s.no_interval is not None) for s in summary)
    found = next(s for s in summary if (s.arm, s.n, s.metric) == ("dwp", 10, "dice"))
    assert found.mean == pytest.approx(np.mean([r.dice for r in rows if (r.arm, r.n) == ("dwp", 10)]))
    assert found.ci_low < found.mean < found.ci_high
    assert (found.cases, found.patients) == (14, 14)
    # Distances were not measured.
    assert {s.metric for s in summary} == {"dice", "iou", "dice_worst_tenth"}
    assert repr(summarise(StudyRows(rows), 3, 300)) == repr(summary)
    assert repr(summarise(StudyRows(rows), 4, 300)) != repr(summary)


def test_labels_are_averaged_in_a_case_and_listed_beside() -> None:
    rows = [row(case="a-1", label="liver", dice=0.9), row(case="a-1", label="spleen", dice=0.5),
            row(case="a-2", label="liver", dice=0.3), row(case="b-1", label="liver", dice=0.1)]  # fmt: skip
    means = {s.metric: s.mean for s in summarise(StudyRows(rows), 0, 100)}
    assert means["dice"] == pytest.approx(((0.7 + 0.3) / 2 + 0.1) / 2)
    assert means["dice[liver]"] == pytest.approx(((0.9 + 0.3) / 2 + 0.1) / 2)
    assert means["dice[spleen]"] == pytest.approx(0.5)


def test_a_size_that_one_arm_has_alone_is_summarised_and_not_compared() -> None:
    rows = [*study_rows(), *(row("random", 40, case=f"p{i:02d}", dice=0.9) for i in range(14))]
    study = StudyRows(rows)
    assert (study.sizes, study.every_size) == ((5, 10), (5, 10, 40))
    assert {c.n for c in compare_arms(study, study.draws(seed=0, resamples=100))} == {5, 10}
    summary = summarise(StudyRows(rows), 0, 100)
    assert {s.n for s in summary} == {5, 10, 40}
    best = [
        [cell and cell["best"] for cell in line["cells"]] for line in metric_table(summary, study.arms, "dice")["lines"]
    ]
    assert [any(column) for column in zip(*best, strict=True)] == [True, True, False]
    alone = StudyRows([r for r in rows if r.arm == "random"])
    assert alone.sizes == (5, 10, 40)


def test_point_estimates_without_a_fitted_prior_are_the_rivals() -> None:
    assert {"random", "fine_tune", "fine_tune_l2sp", "swa", "ensemble"} <= set(NON_BAYESIAN_ARMS)
    assert not {"swag", "swag_calibrated", "multi_swag", "dwp", "prior_init", "map_prior"} & set(NON_BAYESIAN_ARMS)


def test_arms_share_their_draws() -> None:
    rows = [row("a", case=f"p{i}", dice=0.1 * i) for i in range(8)]
    rows += [replace(r, arm="b", dice=r.dice + 0.1) for r in rows]
    by_arm = {s.arm: s for s in summarise(StudyRows(rows), 0, 200) if s.metric == "dice"}
    assert by_arm["b"].ci_low - by_arm["a"].ci_low == pytest.approx(0.1)
    assert by_arm["b"].ci_high - by_arm["a"].ci_high == pytest.approx(0.1)


def test_every_arm_is_compared_with_the_best_rival() -> None:
    study = StudyRows(study_rows())
    assert best_rival(study, "dice", 5) == "fine_tune"
    found = {(c.arm, c.n): c for c in compare_arms(study, study.draws(seed=0, resamples=500))}
    assert set(found) == {("dwp", 5), ("random", 5), ("dwp", 10), ("random", 10)}
    dwp, random = found["dwp", 5], found["random", 5]
    assert dwp.ci_low > 0.05
    assert random.ci_high < -0.1
    assert found["dwp", 10].rival == "fine_tune"
    # Two arms in the family.
    assert min(dwp.p_holm, random.p_holm) == pytest.approx(2 * min(dwp.p_value, random.p_value))
    assert best_rival(StudyRows([row("dwp")]), "dice", 5) is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("arm,n\nx,1\n", "no column"),
        ("arm,n,repeat,case,patient,label,dice,iou\nx,five,0,c,p,l,1,1\n", "n is 'five'"),
        ("arm,n,repeat,case,patient,label,dice,iou\nx,5,0,c\n", "ends before"),
    ],
)
def test_damaged_tables_are_refused_with_the_place(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(WorkspaceError, match=what):
        read_rows(tmp_path / "cases.csv", CaseRow)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"cases\.csv"):
        read_rows(tmp_path / "cases.csv", CaseRow)
    (tmp_path / "summary.csv").write_text("arm,n\nx,1\n")
    with pytest.raises(WorkspaceError, match=r"summary\.csv"):
        read_rows(tmp_path / "summary.csv", SummaryRow)


def test_a_case_is_measured_label_by_label() -> None:
    reference = np.zeros((4, 4, 4), np.int16)
    reference[:2], reference[2, 0, 0] = 1, 2
    prediction = np.where(reference == 1, 1, 0)
    liver, spleen = evaluate_case(
        prediction, reference, {"liver": 1, "spleen": 2}, (1.0, 2.0, 5.0), trained=TrainedArm("dwp", 5, 1), case="c",
        patient="p", options=EvaluationOptions(empty_masks=EmptyMaskPolicy.SKIP_EMPTY_REFERENCE),
    )  # fmt: skip
    assert (liver.arm, liver.n, liver.repeat, liver.label, liver.dice, liver.hd95) == ("dwp", 5, 1, "liver", 1.0, 0.0)
    assert liver.reference_ml == pytest.approx(32 * 10 / 1000)
    assert (spleen.dice, spleen.fn, spleen.empty) == (0.0, 1, "prediction")
    assert spleen.hd95 == pytest.approx(math.hypot(3, 6, 15))


def test_a_distance_is_compared_with_the_rival_of_the_smallest_mean() -> None:
    shift = {"random": 9.0, "fine_tune": 3.0, "dwp": 1.0}
    rows = [replace(row(arm, case=f"p{i}"), hd95=up + 0.1 * i) for arm, up in shift.items() for i in range(5)]
    study = StudyRows(rows)
    found = {c.arm: c for c in compare_arms(study, study.draws(seed=0, resamples=200), metric="hd95")}
    assert {c.rival for c in found.values()} == {"fine_tune"}
    assert found["dwp"].difference == pytest.approx(-2.0)


def test_comparisons_come_back_and_an_untested_p_is_empty(tmp_path: Path) -> None:
    study = StudyRows(
        [row(arm, case=f"p{i}", dice=0.5 + 0.1 * (arm == "dwp")) for arm in ("random", "dwp") for i in "abcde"]
    )
    path = tmp_path / "comparisons.csv"
    write_rows(path, Comparison, compare_arms(study, study.draws(seed=0, resamples=100)))
    (found,) = read_rows(path, Comparison)
    assert (found.arm, found.rival, found.n, found.patients) == ("dwp", "random", 5, 5)
    assert found.difference == pytest.approx(0.1)
    assert path.read_text().endswith(",5,,\n")


@pytest.mark.parametrize("patients", [1, 2, 4])
def test_few_test_patients_give_means_and_neither_intervals_nor_differences(tmp_path: Path, patients: int) -> None:
    rows = [r for r in study_rows() if r.case in {f"p{i:02d}" for i in range(patients)}]
    summary = summarise(StudyRows(rows), 0, 100)
    assert all(math.isfinite(s.mean) and math.isnan(s.ci_low) and math.isnan(s.ci_high) for s in summary)
    assert {s.no_interval for s in summary} == {why_no_interval(patients)}
    subject = "1 test patient is" if patients == 1 else f"{patients} test patients are"
    assert why_no_interval(patients) == f"{subject} too few for an interval"
    study = StudyRows(rows)
    path = tmp_path / "comparisons.csv"
    write_rows(path, Comparison, compare_arms(study, study.draws(seed=0, resamples=100)))
    for found in read_rows(path, Comparison):
        assert found.patients == patients
        assert all(map(math.isnan, (found.difference, found.ci_low, found.ci_high, found.p_value)))


def test_the_arm_that_lacks_patients_has_no_interval_and_the_others_have() -> None:
    rows = [r for r in study_rows() if r.arm != "dwp" or r.case in {"p00", "p01"}]
    reasons = {s.arm: s.no_interval for s in summarise(StudyRows(rows), 0, 100) if s.metric == "dice"}
    assert reasons == {"random": None, "fine_tune": None, "dwp": "2 test patients are too few for an interval"}


def test_an_interval_that_an_earlier_version_wrote_of_one_patient_is_not_read(tmp_path: Path) -> None:
    header = "arm,n,metric,mean,ci_low,ci_high,cases\n"
    (tmp_path / "summary.csv").write_text(
        header + "dwp,5,dice,0.7,0.7,0.7,1\ndwp,5,dice_worst_tenth,0.7,0.7,0.74,8\ndwp,5,iou,0.6,0.5,0.7,8\n"
    )
    one, worst, iou = read_rows(tmp_path / "summary.csv", SummaryRow)
    assert (one.mean, math.isnan(one.ci_low), math.isnan(one.ci_high)) == (0.7, True, True)
    assert (worst.mean, math.isnan(worst.ci_low)) == (0.7, True)
    assert "worst tenth is 1 of 8 test patients, too few" in str(worst.no_interval)
    assert (iou.ci_low, iou.ci_high) == (0.5, 0.7)


def test_an_arm_that_segments_next_to_nothing_is_no_rival_in_another_metric() -> None:
    dice = {"random": 0.03, "fine_tune": 0.7, "dwp": 0.72}
    away = {"random": 0.1, "fine_tune": 5.0, "dwp": 4.0}
    rows = [replace(row(arm, case=f"p{i}", dice=d), hd95=away[arm]) for arm, d in dice.items() for i in range(6)]
    study = StudyRows(rows)
    assert best_rival(study, "hd95", 5, ("random", "fine_tune")) == "fine_tune"
    assert best_rival(study, "hd95", 5, ("random",)) == "random"


def test_the_same_value_in_all_patients_gives_no_interval_of_no_width() -> None:
    rows = [row(case=f"p{i}", dice=1.0) for i in range(8)]
    found = next(s for s in summarise(StudyRows(rows), 0, 100) if s.metric == "dice")
    assert found.mean == 1.0
    assert math.isnan(found.ci_low)
    assert found.no_interval == "all test patients have the same value"


def test_an_arm_of_few_patients_leads_nothing_where_others_have_enough() -> None:
    dice = {"random": 0.5, "fine_tune": 0.6, "dwp": 0.9}
    rows = [
        row(arm, case=f"p{i}", dice=d + 0.01 * i) for arm, d in dice.items() for i in range(2 if arm == "dwp" else 8)
    ]
    rows += [row("swa", case=f"p{i}", dice=0.95) for i in range(2)]
    study = StudyRows(rows)
    (leading,) = leading_arms(leads(study, study.draws(seed=0, resamples=100)))
    assert leading.arm == "fine_tune"
    assert {lead.other for lead in leading.not_compared()} == {"dwp", "swa"}
    assert best_rival(study, "dice", 5, ("random", "fine_tune", "swa")) == "fine_tune"
    table = metric_table(summarise(StudyRows(rows), 0, 100), study.arms, "dice")
    assert {line["arm"] for line in table["lines"] if line["cells"][0]["best"]} == {"fine_tune"}

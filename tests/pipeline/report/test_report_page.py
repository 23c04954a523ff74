from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from PIL import Image

from data.errors import WorkspaceError
from pipeline.arms.arm_record import ArmRecord
from pipeline.arms.choices import ArmOptions
from pipeline.arms.rivals import rivals
from pipeline.config.report_options import ReportOptions
from pipeline.evaluation.case_row import CaseRow
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.dice_fit import DiceFit
from pipeline.evaluation.evaluated_models import EvaluatedModels, TableSettings
from pipeline.evaluation.label_audit import AuditRow
from pipeline.evaluation.statistics import why_no_interval
from pipeline.report.build import SECTIONS, build_report
from pipeline.report.overlay_section import overlay_section
from pipeline.report.picture import PictureFolder
from pipeline.report.result_section import result_section
from pipeline.report.section import Material, Section
from pipeline.report.study_files import StudyFiles

pytestmark = pytest.mark.slow

Configure = Callable[[Path, dict[str, Any]], None]
QUICK = ReportOptions(
    dpi=50,
    overlay_arms=1,
    case_arms=1,
    quality_cases=1,
    audited_cases=1,
    filter_groups=1,
    filters_shown=2,
    filter_vaes=1,
    vector_figures=False,
)
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Reads a page strictly: every tag must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data + " "

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def ids(self) -> set[str | None]:
        return {attributes.get("id") for _, attributes in self.tags}


def page_of(root: Path, patch: pytest.MonkeyPatch, *sections: Callable[[Material], Section]) -> Page:
    """Builds a report of these sections alone: all of them take seconds."""
    patch.setattr("pipeline.report.build.SECTIONS", sections)
    return Page(build_report(root, QUICK).read_text())


@pytest.fixture(scope="module")
def built(whole_workspace: Path) -> Path:
    return build_report(whole_workspace, ReportOptions(dpi=50))


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    return Page(built.read_text(encoding="utf-8"))


def test_builds_one_page_with_every_section(built: Path, page: Page, whole_workspace: Path) -> None:
    assert built == whole_workspace / "report/index.html"
    assert {
        "results",
        "uncertainty",
        "overlays",
        "cases",
        "label_audit",
        "preprocessing",
        "source",
        "priors",
        "target",
        "methods",
        "provenance",
    } <= page.ids()
    # The study has no image models and no translation of its source, so it has no sections of them.
    assert not {"image-models", "translation"} & page.ids()
    assert len(SECTIONS) - 2 == sum(tag == "section" for tag, _ in page.tags)
    assert "Missing" not in page.text
    assert built.stat().st_size < 3_000_000


def test_the_report_says_whose_kl_was_still_moving(page: Page) -> None:
    for n in (5, 10):
        note = f"The KL of dwp at n = {n} was still moving when the training ended in 2 of 2 trainings"
        assert page.text.count(note) == 1
        assert f"dwp {n} 0.320 2 of 2: −15.6 % 25.0" in " ".join(page.text.split())
    assert "The KL of random" not in page.text


def test_needs_no_other_file_and_no_network(built: Path, page: Page) -> None:
    assert not any(tag in {"script", "iframe", "object", "embed"} for tag, _ in page.tags)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster"):
            value = attributes.get(name) or "#"
            # Only the pages that the report itself wrote beside it are linked.
            linked = tag == "a" and (built.parent / unquote(value)).is_file()
            assert linked or value.startswith(("data:", "#")), (tag, value[:80])
        assert not any(name.startswith("on") for name in attributes)
    links = [str(a["href"]) for tag, a in page.tags if tag == "a"]
    pages = {f"cases/{path.name}" for path in (built.parent / "cases").iterdir()}
    assert len(pages) == 13
    assert pages <= set(links)
    text = re.sub(r"data:[^\"']*", "", built.read_text())
    assert not re.search(r"https?://|url\(|@import", text)


def test_every_anchor_has_its_place(page: Page) -> None:
    anchors = [a["href"] for tag, a in page.tags if tag == "a" and str(a["href"]).startswith("#")]
    assert len(anchors) == len(SECTIONS) - 2
    assert {str(anchor)[1:] for anchor in anchors} <= page.ids()


def test_pictures_are_whole_and_described(page: Page, whole_workspace: Path) -> None:
    pictures = [a for tag, a in page.tags if tag == "img"]
    for attributes in pictures:
        assert attributes["alt"]
        data = base64.b64decode(str(attributes["src"]).partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert (image.width, image.height) == (int(str(attributes["width"])), int(str(attributes["height"])))
            assert len(image.convert("L").getcolors(100_000) or ()) > 1  # something is drawn
    figures = {p.name for p in (whole_workspace / "report/figures").glob("*.png")}
    assert {"learning-curve.png", "paired-differences.png", "patients-n05.png", "source-training.png"} <= figures
    assert {p.replace(".png", ".svg") for p in figures} == {
        p.name for p in (whole_workspace / "report/figures").glob("*.svg")
    }
    assert {f"overlay-{arm}-{rank}-axial.png" for arm in ("dwp", "fine_tune") for rank in ("best", "worst")} <= figures
    planes = ("sagittal", "coronal", "axial")
    assert {f"overlay-dwp-worst-{plane}-entropy.png" for plane in planes} <= figures


@pytest.mark.parametrize("metric", ["dice", "iou"])
def test_result_table_holds_the_numbers_of_the_summary(page: Page, whole_workspace: Path, metric: str) -> None:
    tables = [a.get("data-metric") for tag, a in page.tags if tag == "table"]
    table = page.tables[tables.index(metric)]
    assert [cell.strip() for cell in table[0]] == ["Arm", "n = 5", "n = 10"]
    shown = {line[0].strip(): line[1:] for line in table[1:]}
    with (whole_workspace / "results/summary.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["metric"] == metric]
    assert len(rows) == 8
    for row in rows:
        cell = shown[row["arm"]][("5", "10").index(row["n"])]
        for number in ("mean", "ci_low", "ci_high"):
            assert f"{float(row[number]):.3f}" in cell
        best = max(float(r["mean"]) for r in rows if r["n"] == row["n"])
        assert ("best" in cell) == (f"{float(row['mean']):.3f}" == f"{best:.3f}")


def test_arms_are_in_the_order_of_the_configuration(page: Page) -> None:
    tables = [a.get("data-metric") for tag, a in page.tags if tag == "table"]
    names = [line[0].strip() for line in page.tables[tables.index("dice")][1:]]
    assert names == ["random", "fine_tune", "fine_tune_ends", "dwp"]


def test_settings_scores_and_provenance_are_told(page: Page) -> None:
    told = [
        "A made-up study", "ms (lesion)", "tumour (core)", "0123abc", "2.9.0", "6 min 09 s", "1.25 GB", "≥ 50.90",
        "48.40", "97.6 %", "tempered posterior", "12 patients", "reward_agreement", "s1 ×2",
    ]  # fmt: skip
    for text in told:
        assert text in page.text, text


def test_an_arm_that_was_taken_out_of_the_configuration_is_not_reported(
    tmp_path: Path, arm_record: Callable[..., ArmRecord], configure: Configure
) -> None:
    for arm in ("kept", "dropped"):
        folder = tmp_path / "infer" / arm / "n05" / "repeat-0"
        folder.mkdir(parents=True)
        arm_record(arm, 5, 0).write(folder)
    assert StudyFiles(tmp_path).arms() == ["dropped", "kept"]
    configure(tmp_path, {"target_training": {"arms": {"kept": {"preset": "random"}}}})
    assert StudyFiles(tmp_path).arms() == ["kept"]


def test_the_rivals_of_the_report_are_those_of_the_tables(tmp_path: Path, configure: Configure) -> None:
    point, field = {"kind": "point"}, {"kind": "mean_field"}
    arms = {
        "scratch": {"init": "random", "prior": "none", "posterior": point},
        "tuned": {"init": "source", "prior": "none", "posterior": point},
        "drawn": {"init": "prior", "prior": "vae", "posterior": point},
        "averaged": {"init": "source", "posterior": {"kind": "swag", "scale": 0}},
        "map": {"init": "random", "prior": "vae", "posterior": point},
        "bayes": {"init": "random", "prior": "vae", "posterior": field},
    }
    configure(tmp_path, {"target_training": {"arms": arms}})
    configured = {name: ArmOptions.model_validate(arm) for name, arm in arms.items()}
    assert StudyFiles(tmp_path).table_settings.rivals == rivals(configured) == ("scratch", "tuned", "averaged")
    configure(tmp_path, {"target_training": {"arms": arms}, "evaluation": {"rivals": ["map"]}})
    assert StudyFiles(tmp_path).table_settings.rivals == ("map",)
    # What the tables were made with counts, whatever is configured now.
    made_with = TableSettings(resamples=321, rivals=("tuned",), seed=3)
    (tmp_path / "results").mkdir()
    EvaluatedModels(settings=made_with).write(tmp_path / "results")
    assert StudyFiles(tmp_path).table_settings == made_with


@pytest.mark.usefixtures("without_drawing")
def test_differences_are_those_of_the_tables_and_lost_tables_are_named(
    tmp_path: Path, workspace_builder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = workspace_builder(tmp_path, patients=12, repeats=1)
    for name, key in (("comparisons.csv", "dwp"), ("leading_arms.csv", "5")):
        path = root / "results" / name
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        found = next(r for r in rows if key in (r["arm"], r["n"]) and r["metric"] == "dice" and r["n"] == "5")
        found |= {"difference": "0.777", "ci_low": "0.666", "ci_high": "0.888"}
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(found), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    page = page_of(root, monkeypatch, result_section)
    assert "+0.777" in next(cell for row in page.tables for line in row for cell in line if "+0.777" in cell)
    assert "+0.777 [+0.666, +0.888]" in page.text.partition("Mean Dice, paired by patient")[0]
    summary = json.loads((root / "results/summary.json").read_text())
    assert [d["mean"] for d in summary["differences"] if (d["arm"], d["n"]) == ("dwp", 5)] == [0.777]
    for name in ("comparisons.csv", "leading_arms.csv"):
        (root / "results" / name).unlink()
    text = page_of(root, monkeypatch, result_section).text
    assert "results/comparisons.csv is missing" in text
    assert "results/leading_arms.csv is missing" in text
    assert "no non-Bayesian rival was run" not in text.lower()


def test_suspect_cases_come_first_with_their_reason(page: Page) -> None:
    assert "brain volume 400 ml is below 700 ml" in page.text
    alts = [str(a["alt"]) for tag, a in page.tags if tag == "img" and "quality control" in str(a["alt"])]
    assert len(alts) == 8
    assert "case-03" in alts[4]  # the first picture of the second dataset


def test_the_most_surprising_annotations_are_listed_and_drawn(whole_workspace: Path, page: Page, built: Path) -> None:
    rows = read_rows(whole_workspace / "results/label_audit.csv", AuditRow)
    assert [row.surprise for row in rows] == sorted((row.surprise for row in rows), reverse=True)
    assert {row.case for row in rows} == {row.case for row in read_rows(whole_workspace / "results/cases.csv", CaseRow)}
    text = page.text[page.text.index("Before you annotate more scans") :]
    assert text.index(rows[0].case) < text.index(rows[1].case)
    for row in rows[:4]:
        assert (built.parent / f"figures/audit-{row.case}-axial.png").is_file()
    assert not (built.parent / f"figures/audit-{rows[4].case}-axial.png").exists()


def test_missing_sections_are_named_and_the_rest_still_builds(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    page = Page(build_report(tmp_path).read_text())
    for path in ("results/cases.csv", "results/summary.csv", "preprocess/", "train-source/", "collect-filters/",
                 "compare-priors/", "infer/", "config.resolved.yaml", "provenance.json"):  # fmt: skip
        assert path in page.text, path
    assert not [tag for tag, _ in page.tags if tag == "img"]


@pytest.mark.usefixtures("without_drawing")
def test_untrained_units_and_lost_predictions_are_named(tmp_path: Path, workspace_builder: Callable[..., Path]) -> None:
    root = workspace_builder(tmp_path, patients=5, repeats=1)
    shutil.rmtree(root / "infer/random/n05")
    shutil.rmtree(root / "predict-test/fine_tune-n10-0")
    shutil.rmtree(root / "predict-test/dwp-n10-0")
    lines = (root / "results/cases.csv").read_text().splitlines(keepends=True)
    (root / "results/cases.csv").write_text("".join(line for line in lines if not line.startswith("random,5,")))
    text = Page(build_report(root, QUICK).read_text()).text
    assert "random at n = 5, repeat 0: not trained" in text
    assert "random at n = 5: not run" in text
    assert "holds no predictions" in text
    assert "cannot be drawn: its preprocessed arrays or its out-of-fold prediction were deleted" in text
    assert "no p-values" in text


@pytest.mark.usefixtures("without_drawing")
@pytest.mark.parametrize("patients", [1, 4])
def test_few_test_patients_give_no_interval_and_no_difference_anywhere(
    tmp_path: Path, workspace_builder: Callable[..., Path], patients: int
) -> None:
    root = workspace_builder(tmp_path, patients=patients, repeats=1)
    page = Page(build_report(root, QUICK).read_text())
    reason = why_no_interval(patients)
    assert page.text.count(reason) >= 4  # head, sentence on the arms, tables, label efficiency, methods
    assert "At n = 10, the arms cannot be told apart" in page.text
    assert not re.search(r"\[[−+]?\d", page.text)  # an interval
    assert "Difference of" not in page.text
    assert "no-differences" in page.ids()
    # What cannot be held against enough patients is not shown.
    assert "± error" not in (root / "report/cases/case-00.html").read_text()
    assert not re.search(r"\bnan\b", page.text)
    assert not list((root / "report/figures").glob("paired-differences*"))
    summary = json.loads((root / "results/summary.json").read_text())
    assert {row["interval"] for row in summary["metrics"]} == {None}
    assert {row["no_interval"] for row in summary["metrics"]} == {reason}
    assert {(d["mean"], d["interval"], d["no_interval"]) for d in summary["differences"]} == {(None, None, reason)}


def test_the_first_table_sets_distance_and_volume_beside_overlap_and_sentences_say_what_can_be_told_apart(
    page: Page,
) -> None:
    ids = [a.get("id") for tag, a in page.tags if tag == "table"]
    assert [cell.strip() for cell in page.tables[ids.index("overview")][0]][:3] == ["Arm", "Dice", "IoU"]
    assert "overview" in ids[:2]
    for n in (5, 10):
        assert f"At n = {n}, “" in page.text


def test_the_dice_estimated_of_a_case_is_that_of_predict_with_its_error(page: Page, built: Path) -> None:
    ids = [a.get("id") for tag, a in page.tags if tag == "table"]
    with (built.parent.parent / "results/calibration.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if (r["arm"], r["n"]) == ("dwp", "10")]

    def fitted(chosen: list[dict[str, str]]) -> DiceFit:
        columns = ([float(r["expected_dice"]) for r in chosen], [float(r["dice"]) for r in chosen])
        found = DiceFit.fit(*columns, [r["patient"] for r in chosen])
        assert found is not None
        return found

    (line,) = [line for line in page.tables[ids.index("review")] if [c.strip() for c in line[:2]] == ["10", "dwp"]]
    assert f"± {fitted(rows).error:.3f}" in line[-1]
    first = [r for r in rows if r["repeat"] == "0"]
    case = next(r for r in first if r["case"] == "case-01")
    estimate = fitted(first).estimate(float(case["expected_dice"]))
    assert estimate.error is not None
    shown = f"estimated Dice {estimate.dice:.2f} ± {estimate.error:.2f} (from the expected Dice)"
    html = (built.parent / "cases/case-01.html").read_text()
    data = json.loads(html.partition('id="viewer-data">')[2].partition("</script>")[0])
    assert shown in next(arm["note"] for arm in data["arms"] if arm["name"] == "dwp")


@pytest.mark.parametrize(
    ("synthetic", "text"),
    [(("ms", "tumour"), "These are synthetic scans: the figures"), (("ms",), "The source scans are synthetic: the"),
     ((), None)],
)  # fmt: skip
def test_a_banner_says_that_scans_are_synthetic(
    tmp_path: Path, synthetic: tuple[str, ...], text: str | None, configure: Configure
) -> None:
    datasets: dict[str, dict[str, Any]] = {}
    for name in ("ms", "tumour"):
        origin = {"synthetic": {"cohort": "ms", "cases": 2}} if name in synthetic else {"path": name}
        datasets[name] = {"modality": "mr_head", "foreground": ["lesion"], **origin}
    configure(tmp_path, {"datasets": datasets})
    page = Page(build_report(tmp_path).read_text())
    assert ("synthetic" in page.ids()) == (text is not None)
    assert text is None or text in page.text


@pytest.mark.usefixtures("without_drawing")
def test_a_configuration_of_another_version_leaves_out_what_follows_from_it(
    tmp_path: Path, workspace_builder: Callable[..., Path]
) -> None:
    root = workspace_builder(tmp_path, patients=5, repeats=1)
    path = root / "config.resolved.yaml"
    path.write_text(path.read_text().replace("target_training:", "inference:"))
    text = Page(build_report(root, QUICK).read_text()).text
    assert "config.resolved.yaml: the key inference is unknown: another version of Graft wrote it" in text
    assert "At n = 10, “" in text  # the tables are shown as they are
    assert "Arms: random, fine_tune, fine_tune_ends and dwp." in text


@pytest.mark.usefixtures("without_drawing")
def test_names_are_escaped(tmp_path: Path, workspace_builder: Callable[..., Path]) -> None:
    name = "<script>alert(1)<%2Fscript>&'"
    root = workspace_builder(tmp_path, patients=3, repeats=1, first_case=name)
    page = Page(build_report(root, QUICK).read_text())
    assert not any(tag == "script" for tag, _ in page.tags)
    assert name in page.text


@pytest.mark.usefixtures("without_drawing")
def test_a_picture_that_is_not_what_was_measured_says_so(
    tmp_path: Path, workspace_builder: Callable[..., Path]
) -> None:
    root = workspace_builder(tmp_path, patients=3, repeats=1)
    shown = [overlay_section(Material(StudyFiles(root), QUICK, PictureFolder(tmp_path / "figures", 50)))]
    plan = root / "check/study/study.json"
    plan.write_text(plan.read_text().replace('"core": [2]', '"core": [1]'))
    shown.append(overlay_section(Material(StudyFiles(root), QUICK, PictureFolder(tmp_path / "figures", 50))))
    differs = [[case["differs"] for case in section.content["arms"][0]["cases"]] for section in shown]
    assert differs == [[None] * 3, ["0.000"] * 3]


@pytest.mark.usefixtures("without_drawing")
@pytest.mark.parametrize("space", ["native", "preprocessed"])
def test_where_the_table_was_measured_on_another_grid_than_is_drawn_the_page_says_so(
    space: str, tmp_path: Path, workspace_builder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = workspace_builder(tmp_path, patients=3, repeats=1)
    plan = root / "check/study/study.json"
    plan.write_text(plan.read_text().replace('"core": [2]', '"core": [1]'))
    config = root / "config.resolved.yaml"
    settings = yaml.safe_load(config.read_text())
    settings.setdefault("evaluation", {})["space"] = space
    config.write_text(yaml.safe_dump(settings))
    text = page_of(root, monkeypatch, result_section, overlay_section).text
    assert ("the table was measured on the grid of the scan" in text) == (space == "native")
    assert ("not the ones that the table was measured on" in text) == (space == "preprocessed")


def test_same_files_give_the_same_page_and_only_own_files_go(
    tmp_path: Path, workspace_builder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = workspace_builder(tmp_path, patients=3, repeats=1)
    first = build_report(root, QUICK).read_bytes()
    folder = root / "report"
    written = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")}
    mine = [folder / "figures/mine.png", folder / "figures/mine.svg", folder / "cases/mine.html", folder / "mine.txt"]
    for path in mine:
        path.write_bytes(b"mine")
    # Of a case that has no page any more.
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.report.build.SECTIONS", (result_section,))
        build_report(root, QUICK.model_copy(update={"case_pages": 0}))
    assert {p.name for p in (folder / "cases").iterdir()} == {"mine.html"}
    assert build_report(root, QUICK).read_bytes() == first
    assert all(path.read_bytes() == b"mine" for path in mine)
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*") if p not in mine}
    assert found == written
    (folder / "index.html").write_text("with my remarks")
    with pytest.raises(WorkspaceError, match=r"report/index.html: has been changed since Graft wrote it"):
        build_report(root, QUICK)
    assert (folder / "index.html").read_text() == "with my remarks"
    assert not list(root.rglob(".graft-tmp-*"))


def test_damaged_and_missing_workspaces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="no such workspace"):
        build_report(tmp_path / "nowhere")
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(WorkspaceError, match=r"provenance\.json"):
        build_report(tmp_path)

"""Which scans to annotate next."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.errors import ConfigError
from data.image_file import read_volume, write_volume
from pipeline.cli import main
from pipeline.deployment.annotation_order import annotation_order
from pipeline.deployment.predict_command import predict
from pipeline.deployment.predict_options import PredictOptions
from pipeline.deployment.prediction_table import COLUMNS, Row

WriteScans = Callable[[Path, list[str]], list[Path]]


def row(case: str, information: str, entropy: str = "0.4", structure: str = "left", **more: str) -> Row:
    own = {"case": case, "state": "done", "structure": structure, "mutual_information": information, "entropy": entropy}
    return {**dict.fromkeys(COLUMNS, ""), **own, **more}


def test_the_scan_with_the_most_information_comes_first() -> None:
    rows = [
        row("a", "0.1", structure="left"), row("a", "0.2", structure="right"), row("b", "0.16", structure="left"),
        row("b", "0.18", structure="right", suspect="dark"), row("c", "0.01"),
    ]  # fmt: skip
    rows[2]["suspect"] = "dark"
    found = annotation_order([*rows, {**row("d", ""), "state": "failed"}])
    assert [(scan.rank, scan.case, scan.suspect) for scan in found] == [(1, "b", "dark"), (2, "a", ""), (3, "c", "")]
    assert [scan.uncertainty for scan in found] == pytest.approx([0.17, 0.15, 0.01])
    assert {scan.measure for scan in found} == {"mutual_information"}


def test_a_scan_in_which_a_structure_was_not_found_comes_first() -> None:
    found = annotation_order([row("a", "0.3"), row("b", "0.2"), row("b", "", "", structure="right")])
    assert [(scan.case, scan.not_found) for scan in found] == [("b", "right"), ("a", "")]
    assert found[0].uncertainty == 0.2
    assert math.isnan(annotation_order([row("b", "", "")])[0].uncertainty)


def test_without_draws_the_entropy_ranks_all_scans() -> None:
    found = annotation_order([row("a", "0.3", "0.1"), row("b", "", "0.2")])
    assert [(scan.case, scan.measure, scan.uncertainty) for scan in found] == [
        ("b", "entropy", 0.2),
        ("a", "entropy", 0.1),
    ]


@pytest.fixture
def cohort(write_scans: WriteScans, tmp_path: Path) -> Path:
    """Four scans, of which one is annotated."""
    paths = write_scans(tmp_path / "scans", ["a", "b", "c", "d"])
    scan = read_volume(paths[1])
    write_volume(scan.with_array((scan.array > 200).astype(np.uint8)), tmp_path / "scans/b-label.nii.gz")
    lines = [
        "case,T1,label",
        *(f"{p.stem[0]},scans/{p.name},{'scans/b-label.nii.gz' * (p == paths[1])}" for p in paths),
    ]
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "cohort.csv"


def ranking(folder: Path) -> list[dict[str, str]]:
    with (folder / "annotate_next.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_scans_without_annotation_are_predicted_and_ranked(model: Path, cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["predict", str(model), str(cohort), "--output", str(out), "--unannotated", "--set", "pictures=false"]
    assert main([*words, "--device", "cpu"]) == 0
    found = ranking(out)
    assert sorted(scan["case"] for scan in found) == ["a", "c", "d"]
    values = [float(scan["uncertainty"]) for scan in found]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 3
    assert {scan["measure"] for scan in found} == {"mutual_information"}
    with (out / "predictions.csv").open(newline="") as stream:
        own = {line["case"]: line["mutual_information"] for line in csv.DictReader(stream)}
    assert float(own[found[0]["case"]]) == pytest.approx(values[0], rel=1e-4)
    # A further batch into the folder is ranked with the others.
    predict(model, [cohort.parent / "scans/b.nii.gz"], out, PredictOptions(pictures=False), device="cpu")
    assert len(ranking(out)) == 4


def test_without_the_option_there_is_no_ranking(model: Path, cohort: Path, tmp_path: Path) -> None:
    rows = predict(model, [cohort], tmp_path / "out", PredictOptions(pictures=False), device="cpu")
    assert [own["case"] for own in rows] == ["a", "b", "c", "d"]
    assert not (tmp_path / "out/annotate_next.csv").exists()


def test_a_dataset_of_annotated_scans_alone_is_one_sentence(model: Path, cohort: Path, tmp_path: Path) -> None:
    kept = [line for line in cohort.read_text().splitlines() if line.startswith(("case", "b"))]
    cohort.write_text("\n".join(kept) + "\n")
    with pytest.raises(ConfigError, match="every case of the inputs has a label"):
        predict(model, [cohort], tmp_path / "out", PredictOptions(), device="cpu", unannotated=True)

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import parallel_config
from PIL import Image

from pipeline.config.report_options import ReportOptions
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.tables import CaseRow
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import load_prediction
from pipeline.report.case_plan import read_cases
from pipeline.report.overlay_figure import Scene
from pipeline.report.picture import PictureFolder
from pipeline.report.section import Material
from pipeline.report.study_files import StudyFiles
from pipeline.report.viewer_volume import ViewerGrid, image_sheet, start_voxel, structure_box
from pipeline.storage.tensors import load_arrays


def material(root: Path, **options: Any) -> Material:
    return Material(StudyFiles(root), ReportOptions(**options), PictureFolder(root / "figures", 50))


def viewer_data(page: Path) -> dict[str, Any]:
    found = re.search(r'id="viewer-data">(.*?)</script>', page.read_text(), re.S)
    assert found is not None
    return json.loads(found[1])


def unpacked(text: str, shape: list[int]) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(shape, order="F")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, workspace_builder: Callable[..., Path]) -> Path:
    return workspace_builder(tmp_path_factory.mktemp("small"), patients=4, repeats=1)


def test_labels_on_the_page_are_those_of_the_files_voxel_for_voxel(small: Path, tmp_path: Path) -> None:
    readings = read_cases(material(small), tmp_path, jobs=1)
    assert set(readings.pages) == {f"case-0{i}" for i in range(4)}
    data = viewer_data(tmp_path / "cases/case-01.html")
    whole = load_arrays(small / "preprocess/tumour/case-01/arrays.safetensors")
    found = np.argwhere(whole["mask"] > 0)
    box = tuple(slice(a, b) for a, b in zip(found.min(axis=0), found.max(axis=0) + 1, strict=True))
    np.testing.assert_array_equal(unpacked(data["reference"], data["shape"]), whole["label"][box] == 2)
    for arm in data["arms"]:
        path = small / f"predict-test/{arm['name']}-n10-0/case-01.safetensors"
        probability = load_prediction(path).read(ReadingOptions()).foreground[0].numpy()[box]
        np.testing.assert_array_equal(unpacked(arm["mask"], data["shape"]), probability > 0.5)
        doubt = unpacked(arm["entropy"], data["shape"]) / data["levels"]
        exact = -(probability * np.log2(probability) + (1 - probability) * np.log2(1 - probability))
        exact *= whole["mask"][box] > 0
        assert np.abs(doubt - exact).max() <= 0.5 / data["levels"] + 1e-3
    assert [arm["name"] for arm in data["arms"]] == list(readings.arms)
    affine = np.diag([2.0, 1.5, 2.0, 1.0])
    affine[:3, 3] = affine[:3, :3] @ found.min(axis=0)
    np.testing.assert_allclose(data["affine"], affine, atol=1e-4)


def test_the_number_of_pages_is_bounded_and_takes_the_worst(small: Path, tmp_path: Path) -> None:
    readings = read_cases(material(small, case_pages=3), tmp_path, jobs=1)
    best, median, third, worst = readings.order
    assert set(readings.pages) == {best, median, worst}
    assert third not in readings.pages
    assert {p.stem for p in (tmp_path / "cases").iterdir()} == set(readings.pages)
    # Cases without a page still count for the uncertainty.
    assert {q.case for q in readings.qualities} == set(readings.order)
    assert read_cases(material(small, case_pages=0), tmp_path / "none", jobs=1).pages == {}
    assert not (tmp_path / "none").exists()


def test_pages_are_linked_in_the_order_of_their_rank(small: Path, tmp_path: Path) -> None:
    readings = read_cases(material(small, case_arms=1), tmp_path, jobs=1)
    rows = [r for r in read_rows(small / "results/cases.csv", CaseRow) if (r.arm, r.n) == (readings.arms[0], 10)]
    by_dice = {r.case: r.dice for r in rows}
    values = [by_dice[case] for case in readings.order]
    assert values == sorted(values, reverse=True)
    for place, case in enumerate(readings.order):
        text = (tmp_path / f"cases/{case}.html").read_text()
        assert f"Rank {place + 1} of 4" in text
        around = [readings.order[i] for i in (place - 1, place + 1) if 0 <= i < 4]
        linked = re.findall(r'href="(case-\d+)\.html"', text)
        assert linked == around


def test_names_of_cases_cannot_break_out_of_a_page(tmp_path: Path, workspace_builder: Callable[..., Path]) -> None:
    name = "<script>alert(1)<%2Fscript>&'"
    root = workspace_builder(tmp_path, patients=2, repeats=1, first_case=name)
    readings = read_cases(material(root, case_arms=1), tmp_path, jobs=1)
    text = (tmp_path / f"cases/{name}.html").read_text()
    assert text.count("<script") == 2
    assert "<script>alert" not in text
    assert readings.pages[name] == "cases/%3Cscript%3Ealert%281%29%3C%252Fscript%3E%26%27.html"


def scene(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Scene:
    x, y, z = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    image = (x + 2.0 * y + 3.0 * z).astype(np.float32)
    mask = np.zeros(shape, np.int16)
    mask[shape[0] // 2 :, shape[1] // 2 :, shape[2] // 2 :] = 1
    return Scene(image, mask, mask.copy(), np.zeros(shape, np.float32), np.diag([*spacing, 1.0]))


def test_joined_voxels_keep_their_place_in_the_world() -> None:
    fine = scene((40, 36, 12), (1.0, 1.0, 4.0))
    grid = ViewerGrid.around(fine, 40 * 36 * 12 // 4)
    assert grid.shape == (20, 18, 12)  # thick slices are not joined before thin ones are as thick
    outer = np.diag([1.0, 1.0, 4.0, 1.0]) @ np.array([-0.5, -0.5, -0.5, 1])
    np.testing.assert_allclose(grid.affine @ [-0.5, -0.5, -0.5, 1], outer)
    np.testing.assert_allclose(grid.affine @ [19.5, 17.5, 11.5, 1], [39.5, 35.5, 46, 1])
    # A linear image is the same function of the world on both grids, away from the edge.
    shown = grid.smooth(fine.image)
    at = np.array([7, 8, 5])
    world = (grid.affine @ [*at, 1])[:3]
    assert shown[tuple(at)] == pytest.approx(world[0] + 2 * world[1] + 3 * world[2] / 4, abs=1e-3)
    np.testing.assert_array_equal(np.unique(grid.labels(fine.reference)), [0, 1])
    assert grid.labels(fine.reference).mean() == pytest.approx(fine.reference.mean())


def test_the_sheet_shows_every_axial_slice_anterior_up() -> None:
    shown = scene((16, 20, 10), (2.0, 2.0, 2.0))
    grid = ViewerGrid.around(shown, 10**6)
    sheet = image_sheet(shown, grid)
    with Image.open(io.BytesIO(base64.b64decode(sheet["uri"].partition(",")[2]))) as picture:
        grey = np.asarray(picture.convert("L")).astype(float)
    low, high = np.percentile(shown.image, [1, 99.7])
    for z in (0, 4, 9):
        row, column = divmod(z, sheet["columns"])
        tile = grey[row * 20 : row * 20 + 20, column * 16 : column * 16 + 16]
        exact = 255 * np.clip((shown.image[:, ::-1, z].T - low) / (high - low), 0, 1)
        assert np.abs(tile - exact).mean() < 6


def test_the_viewer_starts_and_zooms_at_the_structure() -> None:
    shown = scene((40, 40, 40), (1.0, 1.0, 1.0))
    shown.reference[:] = 0
    shown.reference[20:24, 10:14, 30:34] = 1
    shown.prediction[:] = 0
    grid = ViewerGrid.around(shown, 10**6)
    assert start_voxel(shown, grid) == [20, 10, 30]
    assert structure_box(shown, grid, 3.0) == [[17.0, 27.0], [7.0, 17.0], [27.0, 37.0]]
    half = ViewerGrid.around(shown, 20**3)
    assert half.shape == (20, 20, 20)
    assert start_voxel(shown, half) == [10, 5, 15]


@pytest.mark.slow
def test_cases_in_parallel_give_the_same_bytes(small: Path, tmp_path: Path) -> None:
    pages = []
    for jobs in (1, 2):
        folder = tmp_path / str(jobs)
        with parallel_config(backend="threading"):  # worker processes would import torch for seconds
            read_cases(material(small, case_arms=1), folder, jobs=jobs)
        pages.append({p.name: p.read_bytes() for p in (folder / "cases").iterdir()})
    assert pages[0] == pages[1]

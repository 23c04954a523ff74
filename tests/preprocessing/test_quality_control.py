from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from data.modality import Modality
from data.volume import Volume
from preprocessing.alignment import AlignmentOptions
from preprocessing.chain import Chain, default_options
from preprocessing.quality_control import QualityRecord, case_numbers, case_picture, row_title
from preprocessing.resampling import ResamplingOptions
from preprocessing.subject import Subject
from preprocessing.template import load_template

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case():
    template = load_template(4.0)
    affine = template.image.affine.copy()
    affine[:3, 3] += [30, -20, 10]
    label = np.zeros(template.image.shape, np.int16)
    label[30:36, 25:33, 24:30] = 1
    raw = Subject(
        "case_3", {"T1": Volume(np.where(template.mask, template.image.array * 900, 0), affine)}, Volume(label, affine)
    )
    options = default_options(Modality.MR_BRAIN).model_copy(
        update={"resampling": ResamplingOptions(spacing=4.0), "alignment": AlignmentOptions(spacings=(8.0,))}
    )
    return raw, *Chain(options).apply(raw)


def _has(colour: str, pixels: np.ndarray) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(pixels.astype(int) - wanted).max(axis=-1) < 40).any())


def test_the_picture_shows_mask_template_and_label_and_the_numbers_say_the_same(case, tmp_path):
    raw, processed, records = case
    quality = case_picture(raw, processed, records, tmp_path / "a" / "case.png")
    pixels = np.asarray(Image.open(tmp_path / "a" / "case.png").convert("RGB"))
    top, bottom = pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :]
    assert _has("#ffb000", top)
    assert _has("#ff3060", top)
    assert _has("#00d0ff", bottom)
    assert _has("#ff3060", bottom)
    assert QualityRecord.model_validate_json(json.dumps(quality.as_json())) == quality
    assert quality.case == "case_3"
    assert quality.suspect == ()
    expected = np.count_nonzero(load_template(4.0).mask) * 0.064
    assert quality.numbers()["mask_volume_ml"] == pytest.approx(expected, rel=0.05)
    assert quality.numbers()["template_overlap"] > 0.95


def test_the_same_case_gives_the_same_picture(case, tmp_path):
    for name in ("a.png", "b.png"):
        case_picture(*case, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_suspect_case_is_never_silent(case):
    raw, _, records = case
    marked = [record | {"suspect": ["odd"]} if record["step"] == "alignment" else record for record in records]
    assert case_numbers(raw, marked).suspect == ("alignment: odd",)


def test_a_case_without_mask_and_template_is_drawn_too(case, tmp_path):
    raw, *_ = case
    options = default_options(Modality.CT).model_copy(update={"resampling": ResamplingOptions(spacing=4.0)})
    quality = case_picture(raw, *Chain(options).apply(raw), tmp_path / "ct.png")
    assert set(quality.as_json()) == {"format", "case", "doubts", "suspect"}
    assert (tmp_path / "ct.png").stat().st_size > 10_000


def test_a_name_with_signs_of_a_formula_is_drawn(case, tmp_path):
    raw, processed, records = case
    named = Subject("$a_$", {"$T_$": raw.reference}, raw.label)
    case_picture(named, processed, records, tmp_path / "qc.png")
    assert (tmp_path / "qc.png").is_file()


@pytest.mark.parametrize(
    ("drawn", "title"),
    [([], "result"), (["label"], "result, label"), (["template", "label"], "result, template and label")],
)
def test_a_row_names_only_the_outlines_that_are_drawn(drawn, title):
    assert row_title("result", drawn) == title

"""Text from users in a bundle stays text: it is neither evaluated nor rendered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser, ConfigWorkflow

from data.errors import ModelError
from pipeline.deployment.bundle_text import in_markdown, require_words
from pipeline.deployment.export_command import CARD, INFERENCE, METADATA, export
from pipeline.deployment.export_options import ExportOptions

MakeModel = Callable[..., Path]
NO_ONNX = ExportOptions(onnx=False)


RUN = "__import__('pathlib').Path('ran').touch()"
HOSTILE = [f"${RUN}", f"$import os; {RUN}", "$import antigravity", "%a.json", "%#name", "@#x", "@bundle_root"]
"""What MONAI would run, read from a file, or look up."""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Sees what is run."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "ran").exists()


def export_with_text(make_model: MakeModel, folder: Path, place: str, text: str) -> None:
    """Exports a model with a text in some place."""
    changes: dict[str, dict[str, Any]] = {
        "channel": {"channels": (text,)},
        "class": {"classes": {text: 1}},
        "study": {"study": text},
    }
    model = make_model(folder / "model", bayesian=False, **changes.get(place, {}))
    options = ExportOptions(onnx=False, **({} if place in changes else {place: text}))
    export(model, folder / "bundle", options)


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["channel", "class", "authors", "intended_use"])
def test_an_expression_is_refused_wherever_it_stands(
    make_model: MakeModel, tmp_path: Path, text: str, place: str
) -> None:
    with pytest.raises(ModelError, match="would be evaluated or replaced when MONAI reads it"):
        export_with_text(make_model, tmp_path, place, text)
    assert not (tmp_path / "bundle").exists()


def test_a_name_at_the_start_of_a_sentence_is_refused_too(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"`name`.*rename the channel, class, arm or study"):
        export_with_text(make_model, tmp_path, "study", HOSTILE[0])


@pytest.mark.parametrize("place", ["channel", "class", "authors"])
def test_odd_words_stay_words_when_monai_reads_the_bundle(make_model: MakeModel, tmp_path: Path, place: str) -> None:
    text = f"T1 (a@b.org) 50 % ${RUN}"
    export_with_text(make_model, tmp_path, place, text)
    bundle = tmp_path / "bundle"
    workflow = ConfigWorkflow(
        str(bundle / INFERENCE), str(bundle / METADATA), workflow_type="infer", logging_file=False
    )
    workflow.initialize()
    assert text in str(workflow.parser.get_parsed_content("_meta_"))


@settings(max_examples=300)
@given(st.text(alphabet="$%@#:ab_ ", max_size=6))
def test_what_is_accepted_is_read_by_monai_as_it_stands(text: str) -> None:
    config = {"_meta_": {"name": text, "other": {"list": [text]}}, "b": 1}
    try:
        require_words(config["_meta_"], "metadata")
    except ModelError:
        return
    parser = ConfigParser(config)
    parser.parse()
    # MONAI reads the old separator of its references as the new one, in every string.
    read = text.replace("#", "::")
    assert parser.get_parsed_content("_meta_") == {"name": read, "other": {"list": [read]}}


def test_the_inference_configuration_holds_no_words_of_the_model(make_model: MakeModel, tmp_path: Path) -> None:
    names = {"channels": ("my secret channel",), "classes": {"my secret class": 3}, "study": "my secret study"}
    texts = []
    for number, changes in enumerate([{}, names]):
        model = make_model(tmp_path / f"model-{number}", **changes)
        export(model, tmp_path / f"bundle-{number}", NO_ONNX)
        texts.append((tmp_path / f"bundle-{number}" / INFERENCE).read_text())
    assert texts[0] == texts[1]
    assert "channel_def" in (tmp_path / "bundle-1" / METADATA).read_text()
    assert json.loads((tmp_path / "bundle-1" / METADATA).read_text())["graft"]["input"] == "raw scans"


def test_the_card_shows_words_and_no_markup(make_model: MakeModel, tmp_path: Path) -> None:
    name = "core <script>alert(1) [x](javascript:alert(1)) | `a`"
    model = make_model(tmp_path / "model", classes={name: 3}, bayesian=False)
    owner = ExportOptions(onnx=False, authors="<img src=x onerror=alert(1)>\n\n## Numbers\n# Owner")
    export(model, tmp_path / "bundle", owner)
    card = (tmp_path / "bundle" / CARD).read_text()
    assert "<script" not in card
    assert "<img" not in card
    assert "[x](" not in card
    assert "core &lt;script&gt;" in card
    assert card.count("\n# ") == 0
    assert card.count("\n## Numbers") == card.count("\n## Owner") == 1


def test_in_markdown_leaves_ordinary_words_alone() -> None:
    assert in_markdown("fine_tune: T1 & FLAIR, 5 % of 3×3×3") == "fine_tune: T1 &amp; FLAIR, 5 % of 3×3×3"
    assert in_markdown(3) == 3

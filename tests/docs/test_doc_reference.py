"""The reference agrees with the code: keys, generated pages, columns, presets, and the YAML of every example."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import graft
from pipeline.arms.presets import PRESETS
from pipeline.config.extending import ExtendingOptions, extended
from pipeline.config.study import StudyConfig
from pipeline.evaluation.calibration_tables import CalibrationRow, ReliabilityRow
from pipeline.evaluation.case_row import METRICS
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.csv_rows import columns
from pipeline.evaluation.empty_mask_counts import EmptyMaskCount
from pipeline.evaluation.label_audit import AuditRow
from pipeline.evaluation.label_efficiency import LabelEfficiency
from pipeline.evaluation.leading_arm import Lead
from pipeline.evaluation.tables import CaseRow, SummaryRow

TABLES = {
    "cases.csv": columns(CaseRow),
    "summary.csv": columns(SummaryRow),
    "comparisons.csv": columns(Comparison),
    "leading_arms.csv": columns(Lead),
    "label_efficiency.csv": columns(LabelEfficiency),
    "label_audit.csv": columns(AuditRow),
    "empty_masks.csv": columns(EmptyMaskCount),
    "calibration.csv": columns(CalibrationRow),
    "reliability.csv": columns(ReliabilityRow),
}


def _schema_keys(schema: dict[str, Any]) -> set[str]:
    """All dotted keys of a JSON schema; NAME stands for keys that the user chooses."""
    definitions = schema["$defs"]

    def variants(node: Any) -> Iterator[dict[str, Any]]:
        if not isinstance(node, dict):
            return
        if "$ref" in node:
            yield from variants(definitions[node["$ref"].rsplit("/", 1)[1]])
        for key in ("anyOf", "oneOf", "allOf"):
            for option in node.get(key, ()):
                yield from variants(option)
        if node.get("type") == "object":
            yield node

    def keys(node: Any, path: str) -> Iterator[str]:
        for variant in variants(node):
            for name, child in variant.get("properties", {}).items():
                key = f"{path}.{name}".lstrip(".")
                yield key
                yield from keys(child, key)
            yield from keys(variant.get("additionalProperties"), f"{path}.NAME")

    return set(keys(schema, ""))


def _documented_keys(text: str) -> set[str]:
    """Paths of each heading joined with the first column of the table below it."""
    found = set()
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        heading, _, body = section.partition("\n")
        paths = re.findall(r"`([^`]+)`", heading.partition(" with ")[0])
        if "| key | values |" not in body:
            continue
        table = body[body.index("| key | values |") :].split("\n\n")[0]
        names = re.findall(r"^\| `([^`]+)` \|", table, re.M)
        found |= {f"{path}.{name}".lstrip(".") for path in paths or [""] for name in names}
    return found


def test_every_key_of_the_schema_is_documented_and_every_documented_key_exists(pages):
    known = _schema_keys(StudyConfig.model_json_schema()) | set(ExtendingOptions.model_fields)
    documented = _documented_keys(pages["docs/reference/config.md"].text)
    assert documented == known
    assert {"priors.densities.NAME.shape.latent", "datasets.NAME.preprocessing.resampling.spacing"} <= known


def test_every_key_is_explained(pages):
    rows = re.findall(r"^\| `\w+` \|.*\|$", pages["docs/reference/config.md"].text, re.M)
    assert rows
    assert not [row for row in rows if re.search(r"\|\s*\|$", row)]


@pytest.fixture(scope="module")
def generator(root):
    """The script that makes the reference pages, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "docs"))
        yield importlib.import_module("generate_reference")


def test_generated_pages_are_up_to_date(generator, capsys):
    assert generator.main(["--check"]) == 0, capsys.readouterr().err


def test_the_check_finds_a_stale_page_and_a_run_mends_it(generator, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generator, "REFERENCE", tmp_path)
    (tmp_path / "cli.md").write_text("# Old\n")
    assert generator.main(["--check"]) == 1
    assert "cli.md, config.md, python.md" in capsys.readouterr().err
    assert (tmp_path / "cli.md").read_text() == "# Old\n"
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0


def test_every_public_name_of_the_library_is_documented_and_nothing_else(pages):
    text = pages["docs/reference/python.md"].text
    assert re.findall(r"^## graft\.(\w+)$", text, re.M) == graft.__all__
    for module in ("metrics", "posteriors", "priors"):
        found = re.findall(rf"^### graft\.{module}\.(\w+)$", text, re.M)
        assert found == getattr(graft, module).__all__
        assert all(getattr(getattr(graft, module), name).__module__ == f"graft.{module}" for name in found)


def test_columns_of_the_tables_are_documented(pages):
    text = pages["docs/reference/workspace.md"].text
    for file, expected in TABLES.items():
        section = text.split(f"## results/{file}")[1].split("\n## ")[0]
        first_cells = re.findall(r"^\| (`.*?) \|", section, re.M)
        named = [name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)]
        assert len(named) == len(set(named)), file
        # All metrics are in the generated reference of the configuration, with their policies.
        assert set(expected) - set(METRICS) <= set(named) <= set(expected), file


def test_every_preset_is_explained(pages):
    text = pages["docs/explanation/arms-and-priors.md"].text
    table = text.split("| arm | choices |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == set(PRESETS)


def _as_study(fragment: dict[str, Any]) -> dict[str, Any]:
    """Puts the keys of an example into a whole study."""
    dataset = {"path": "/data/set", "modality": "mr_head", "foreground": ["lesion"]}
    study: dict[str, Any] = {
        "name": "example",
        "datasets": {"lesions": dataset, "tumours": dataset},
        "source": {"dataset": "lesions", "patients": 10},
        "target": {"dataset": "tumours", "pool": 10, "test": 10},
    }
    for key, value in fragment.items():
        merge = key not in ("source", "target") and isinstance(value, dict)
        study[key] = {**study.get(key, {}), **value} if merge else value
    return study


def test_yaml_examples_are_valid(pages, root, reader_files, monkeypatch):
    monkeypatch.syspath_prepend(str(reader_files))
    checked = 0
    for page in pages.values():
        for block in page.blocks("yaml"):
            content = extended(yaml.safe_load(block), root / "configs/example.yaml").content
            study = StudyConfig.model_validate(_as_study(content))
            assert study.target_training.arms, page.name
            checked += 1
    assert checked >= 8


def test_every_study_of_this_project_is_listed(pages, root):
    codes = pages["docs/how-to/configure-a-study.md"].inline_code
    assert {path.name for path in (root / "configs").glob("*.yaml")} <= set(codes)

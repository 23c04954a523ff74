"""One name, one place: a file that two rooms know is named once."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from pipeline.storage import file_names
from pipeline.storage.stage_names import Stage

PIPELINE = Path(file_names.__file__).parents[1]
FILE_NAME = re.compile(r"^(?:\S*/)?([a-z_-]+\.(?:csv|json|jsonl|yaml|html|png|safetensors))$")


def constants(path: Path) -> list[str]:
    """Texts that a module spells out."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_no_file_is_named_in_two_modules() -> None:
    modules = defaultdict(set)
    for path in PIPELINE.rglob("*.py"):
        for name in [found[1] for text in constants(path) if (found := FILE_NAME.match(text))]:
            modules[name].add(str(path.relative_to(PIPELINE)))
    assert "record.json" in modules
    assert {name: sorted(where) for name, where in modules.items() if len(where) > 1} == {}


def test_the_report_takes_the_folders_of_stages_from_their_names() -> None:
    folders = {stage.value for stage in Stage if "-" in stage.value}
    spelt = {p.name for p in (PIPELINE / "report").rglob("*.py") if folders & set(constants(p))}
    assert spelt == set()

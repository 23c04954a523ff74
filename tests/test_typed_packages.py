"""Every package says that it has types, so that checkers of those who import it read them."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_package_has_the_marker_and_is_checked() -> None:
    packages = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
    assert {"data", "models", "pipeline", "preprocessing"} <= set(packages)
    assert [name for name in packages if not (ROOT / name / "py.typed").is_file()] == []
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert sorted(tools["mypy"]["packages"]) == sorted(tools["coverage"]["run"]["source_pkgs"]) == packages
    assert tools["setuptools"]["package-data"]["*"] == ["py.typed"]

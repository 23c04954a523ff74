"""Prints the lower bounds of pyproject.toml as exact versions, one a line: the constraints of `make test-lowest`.

torch is left out: its wheel of the lowest version is chosen by the variable TORCH, as the newest one is.
"""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["project"]
bounds = {}
for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
    requirement = Requirement(line)
    for bound in requirement.specifier:
        if requirement.name != "torch":
            bounds[requirement.name.lower()] = bound.version
for name, version in sorted(bounds.items()):
    print(f"{name}=={version}")

"""Copies of Graft's own modules in a bundle, so that it runs where Graft is not installed."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = "scripts"
"""Package of the copies; MONAI's runner puts the bundle's root on the search path."""
_OWN = ("data", "models", "pipeline", "preprocessing")
_IMPORT = re.compile(rf"^(\s*)from ({'|'.join(_OWN)})(?=[. ])", re.MULTILINE)


def vendored_name(module: str) -> str:
    """Name of a module's copy inside the bundle."""
    return f"{PACKAGE}.{module}"


def copy_modules(modules: Iterable[str], root: Path, origin: str) -> list[str]:
    """Copies modules, and those that they import when loaded, into `scripts/` of a bundle; returns them sorted.

    Imports inside functions are renamed but not followed: they belong to steps that a bundle does not offer. The first
    line of each copy names its `origin`.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found[module] = _source(module)
        waiting += [name for name in _imported(found[module]) if name not in found]
    for module, source in found.items():
        path = root / PACKAGE / Path(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        renamed = _IMPORT.sub(rf"\1from {PACKAGE}.\2", source)
        path.write_text(f"# Copied from {origin} (Apache License 2.0).\n{renamed}", encoding="utf-8")
        for folder in (path.parent, *path.parent.parents):
            if folder == root:
                break
            (folder / "__init__.py").touch()
    return sorted(found)


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"{module} has no source file")
    return Path(spec.origin).read_text(encoding="utf-8")


def _imported(source: str) -> Iterator[str]:
    """Yields Graft's modules that a source imports when it is loaded."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] in _OWN for alias in node.names):
            raise ValueError(f"`{ast.unparse(node)}` cannot be renamed; write `from … import …`")
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in _OWN:
            yield node.module

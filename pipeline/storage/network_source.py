"""The digest of the code of an imported network, on which results depend; the code is not run for it."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from models.networks.imported_network import ImportedNetworkOptions, network_code_allowed


def source_digest(factory: str) -> str | None:
    """Returns the SHA-256 of the Python files of the package of `package.module:function`; `None` if not installed.

    The whole package counts, because a network is rarely defined in one file. Nothing is imported.
    """
    package = factory.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    digest = hashlib.sha256()
    for name, path in _files(list(spec.submodule_search_locations or ()), spec.origin):
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(folders: list[str], origin: str | None) -> Iterator[tuple[str, Path]]:
    """Files of a package with their names in it, in a fixed order, or the single file of a module."""
    for folder in map(Path, folders):
        yield from sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.py"))
    if not folders and origin is not None and Path(origin).is_file():
        yield Path(origin).name, Path(origin)


def with_source(options: ImportedNetworkOptions) -> ImportedNetworkOptions:
    """Allows the code of a configured network to run, and fills in its current digest.

    If the code is not installed, as on a machine that only reads results, an earlier digest stays.

    Raises:
        ValueError: the code is not installed and there is no earlier digest.
    """
    found = source_digest(options.factory) or options.source
    if not found:
        package = options.factory.partition(":")[0].partition(".")[0]
        raise ValueError(f"there is no package {package!r}; install it, or set PYTHONPATH to its folder")
    with network_code_allowed():
        return ImportedNetworkOptions(factory=options.factory, options=options.options, source=found)

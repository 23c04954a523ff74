"""Ways to damage a source pack."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Rewrite = Callable[..., Path]


@pytest.fixture
def rewrite(tiny_pack: Path, tmp_path: Path) -> Rewrite:
    """Returns a function that writes the pack again with other content.

    `change` gets the record as JSON and name → content of the other files; digests and sizes are made to agree.
    """

    def write(
        change: Callable[[dict[str, Any], dict[str, bytes]], None] = lambda record, files: None,
        compression: int = zipfile.ZIP_STORED,
        extra: Callable[[zipfile.ZipFile], None] = lambda archive: None,
    ) -> Path:
        with zipfile.ZipFile(tiny_pack) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        record = json.loads(files.pop("pack.json"))
        listed = dict(record["files"])
        change(record, files)
        if record["files"] == listed:
            record["files"] = {
                name: {"size": len(own), "sha256": hashlib.sha256(own).hexdigest()} for name, own in files.items()
            }
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", compression) as archive:
            archive.writestr("pack.json", json.dumps(record))
            for name, content in files.items():
                archive.writestr(name, content)
            extra(archive)
        path = tmp_path / "changed.pack"
        path.write_bytes(stream.getvalue())
        return path

    return write

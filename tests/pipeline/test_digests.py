"""Digests of configurations and files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.digest import FileDigests, canonical_json, digest, file_digest

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=8,
)


def test_the_digest_is_sha256_of_the_canonical_text() -> None:
    value = {"b": [1, 2.5], "a": "é"}
    assert canonical_json(value) == '{"a":"\\u00e9","b":[1,2.5]}'
    assert digest(value) == hashlib.sha256(canonical_json(value).encode()).hexdigest()


@given(st.dictionaries(st.text(max_size=4), _JSON, max_size=4))
def test_the_order_of_keys_does_not_matter(value: dict) -> None:
    assert digest(dict(reversed(list(value.items())))) == digest(value)
    assert digest(json.loads(json.dumps(value))) == digest(value)


@given(_JSON, _JSON)
def test_other_values_have_other_digests(first: object, second: object) -> None:
    assert (digest(first) == digest(second)) == (canonical_json(first) == canonical_json(second))


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, memory = tmp_path / "scan", tmp_path / "memory.json"
    path.write_bytes(b"one")
    digests = FileDigests(memory)
    first = digests(path)
    assert first == hashlib.sha256(b"one").hexdigest()
    digests.save()

    def refuse(_: Path) -> str:
        raise AssertionError("read again")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.storage.digest.file_digest", refuse)
        assert FileDigests(memory)(path) == first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert FileDigests(memory)(path) == hashlib.sha256(b"two").hexdigest() == file_digest(path)


def test_a_file_replaced_with_its_size_and_time_kept_is_another(tmp_path: Path) -> None:
    path, digests = tmp_path / "scan", FileDigests(tmp_path / "memory.json")
    path.write_bytes(b"one")
    first, kept = digests(path), path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert digests(path) != first


def test_a_damaged_memory_starts_empty(tmp_path: Path) -> None:
    (tmp_path / "scan").write_bytes(b"one")
    for content in ("{", "[1]"):
        (tmp_path / "memory.json").write_text(content)
        assert FileDigests(tmp_path / "memory.json")(tmp_path / "scan") == hashlib.sha256(b"one").hexdigest()


def test_image_and_label_of_one_name_both_count(tmp_path: Path) -> None:
    image, label = tmp_path / "imagesTr" / "a.nii.gz", tmp_path / "labelsTr" / "a.nii.gz"
    for path in (image, label):
        path.parent.mkdir()
        path.write_bytes(b"first")
    digests = FileDigests(tmp_path / "memory.json")
    before = digest(digests.of_files([image, label]))
    image.write_bytes(b"another image")
    assert digest(digests.of_files([image, label])) != before


def test_a_missing_file_counts_as_missing(tmp_path: Path) -> None:
    digests = FileDigests(tmp_path / "memory.json")
    before = digests.of_files([tmp_path / "label"])
    (tmp_path / "label").write_bytes(b"there")
    assert digests.of_files([tmp_path / "label"]) != before

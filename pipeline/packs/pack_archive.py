"""A source pack as a file: a zip archive whose bytes follow from its content, read without trust."""

from __future__ import annotations

import hashlib
import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from data.errors import GraftError
from data.input_file import parse_json, require_regular_file
from data.names import alike, name_fault
from data.option_faults import fault_at
from data.stored_record import refuse_newer
from pipeline.packs.pack_record import PACK, PackedFile, PackRecord
from pipeline.storage.atomic import temporary_sibling

_LARGEST_RECORD = 64 * 2**20
"""Bytes of the largest `pack.json` that is read."""
_MOST_GROWTH = 20
"""Times its size that a pack may grow when it is unpacked. Graft compresses nothing, and weights hardly can be."""
_START_OF_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, IndexError, OverflowError, RuntimeError, ValueError,
)  # fmt: skip
"""What the library raises on archives that are none."""
_EXPECTED = "a source pack as `graft pack` wrote it"
_AGAIN = "copy it again, or ask its giver for another"


class PackError(GraftError):
    """A source pack is damaged, or is not one that this study or this version can use."""


@dataclass(frozen=True)
class SourcePack:
    """A pack whose list of files was checked; the files themselves are checked when they are read.

    Attributes:
        path: its file.
        record: what it holds.
        digest: SHA-256 of `pack.json`, and so of all of it.
        format: version of `pack.json`.
    """

    path: Path
    record: PackRecord
    digest: str
    format: int

    def read(self, name: str) -> bytes:
        """Reads a file of the pack.

        Raises:
            PackError: it is not what `pack.json` says.
        """
        return read_entry(self.path, name, self.record.files[name])


def open_pack(path: Path) -> SourcePack:
    """Reads what a pack holds, after its list of files was checked; no weights are read.

    Raises:
        PackError: it is missing, no pack, damaged, or of a newer format.
    """
    with _opened(path) as archive:
        sizes = _sizes(archive, path)
        if PACK not in sizes:
            raise PackError(f"{path}: holds no {PACK}, so it is not a source pack", expected=_EXPECTED, fix=_AGAIN)
        if sizes[PACK] > _LARGEST_RECORD:
            raise _damaged(path, f"its {PACK} has {sizes[PACK] / 2**20:.0f} MiB")
        content = _content(archive, PACK, sizes[PACK], path)
    record, version = _record(content, path)
    listed = {PACK: sizes[PACK], **{name: own.size for name, own in record.files.items()}}
    for name in sorted(set(sizes) ^ set(listed)):
        raise _damaged(path, f"{name[:80]!r} is {'not in it' if name in listed else f'not listed in its {PACK}'}")
    for name, size in listed.items():
        if sizes[name] != size:
            raise _damaged(path, f"{name!r} has {sizes[name]} bytes, not the {size} of its {PACK}")
    return SourcePack(path, record, hashlib.sha256(content).hexdigest(), version)


def read_entry(path: Path, name: str, listed: PackedFile) -> bytes:
    """Reads one file of a pack.

    Args:
        path: the pack.
        name: of the file in it.
        listed: its size and digest.

    Raises:
        PackError: it is missing, or is not what was listed.
    """
    with _opened(path) as archive:
        if _sizes(archive, path).get(name) != listed.size:
            raise _damaged(path, f"{name!r} is missing, or is of another size than listed")
        content = _content(archive, name, listed.size, path)
    if hashlib.sha256(content).hexdigest() != listed.sha256:
        raise PackError(
            f"{path}: {name!r} was changed or damaged (its SHA-256 is not the one that was listed)",
            expected="the file as it was written",
            fix=_AGAIN,
        )
    return content


def write_pack(path: Path, record: PackRecord, files: Mapping[str, Path]) -> None:
    """Writes a pack, whole or not at all; the same content gives the same bytes.

    Args:
        path: the pack.
        record: what it holds.
        files: name in the pack → file, for all that the record lists.
    """
    text = json.dumps(record.as_json(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    with temporary_sibling(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_info(PACK), text.encode())
        for name in record.files:
            info = _info(name)
            info.file_size = record.files[name].size
            with archive.open(info, "w") as target, files[name].open("rb") as source:
                while block := source.read(2**20):
                    target.write(block)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _START_OF_ZIP_TIME)
    # The system and the rights of the machine that writes are nobody's business.
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    return info


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    require_regular_file(path, _EXPECTED, PackError)
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _UNREADABLE as error:
        raise PackError(
            f"{path}: is damaged, or is not a source pack ({error or type(error).__name__})",
            expected=_EXPECTED,
            fix=_AGAIN,
        ) from error
    except OSError as error:
        raise PackError(
            f"{path}: cannot be read ({error.strerror or error})", expected=_EXPECTED, fix=_AGAIN
        ) from error


def _sizes(archive: zipfile.ZipFile, path: Path) -> dict[str, int]:
    """Name → unpacked size of all files, none of which is anything but a plain file with a name of its own."""
    infos = archive.infolist()
    for info in infos:
        # The name as it is stored: the library cuts off what follows a zero byte.
        name = info.orig_filename
        fault = next((fault for part in name.split("/") if (fault := name_fault(part))), None)
        if fault:
            raise PackError(
                f"{path}: holds a file with the name {name[:80]!r}, part of which {fault}",
                expected="plain names of files inside the pack",
                fix="do not use it",
            )
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
            what = "is encrypted" if info.flag_bits & 1 else "is a link or something else that is no plain file"
            raise PackError(f"{path}: {name!r} {what}", expected="plain files alone", fix="do not use it")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _damaged(path, f"{name!r} is compressed in a way that packs are not")
    if twice := alike(info.orig_filename for info in infos):
        raise _damaged(path, f"it holds {twice[1]!r} twice")
    total = sum(info.file_size for info in infos)
    if total > _MOST_GROWTH * path.stat().st_size:
        raise PackError(
            f"{path}: would unpack to {total / 2**20:.0f} MiB, more than {_MOST_GROWTH} times its size",
            expected="weights, which can hardly be compressed",
            fix="do not use it",
        )
    return {info.orig_filename: info.file_size for info in infos}


def _content(archive: zipfile.ZipFile, name: str, size: int, path: Path) -> bytes:
    with archive.open(name) as stream:
        content = stream.read(size + 1)
    if len(content) != size:
        raise _damaged(path, f"{name!r} does not have the size that it says")
    return content


def _record(content: bytes, path: Path) -> tuple[PackRecord, int]:
    """What `pack.json` holds, and its version."""
    where = f"{path}, {PACK}"
    raw = parse_json(content, where, PackError, _AGAIN)
    writer = raw.get("graft_version", "") if isinstance(raw, dict) else ""
    refuse_newer(raw, path, PackRecord.FORMAT, PackError, f"install Graft {str(writer)[:20]} or later")
    try:
        # Numbers that are none would be found when they are written again.
        json.dumps(raw, allow_nan=False)
        record = PackRecord.model_validate(raw)
    except ValueError as error:
        why = fault_at(error) if isinstance(error, ValidationError) else "a number in it is infinite or none"
        raise PackError(f"{where}: {why}", expected=_EXPECTED, fix=_AGAIN) from error
    version = raw.get("format")
    return record, version if isinstance(version, int) else 1


def _damaged(path: Path, why: str) -> PackError:
    return PackError(f"{path}: is damaged ({why})", expected=_EXPECTED, fix=_AGAIN)

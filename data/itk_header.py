"""Where the voxels of a MetaImage or NRRD file lie and how they are packed, read from the text of its header.

SimpleITK reads the same header for shape, type and geometry. The voxels are read by Graft itself, because ITK returns
memory that it has not filled where a compressed stream is damaged, and follows a header to any file of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from data.image_header import AGAIN, no_grey_values, refuse

_LARGEST_HEADER = 1 << 20
_MOST_FILES = 1 << 16
_PATTERN = re.compile(r"(?P<before>[^%]*)%0?(?P<digits>\d?)d(?P<after>[^%]*?)((?:\s+-?\d+){2,4})\s*")
# Kinds of an NRRD axis along which the voxels lie; along any other kind lie the components of one voxel.
_SPATIAL = ("domain", "space", "time", "???", "none")
_COLOURS = ("rgb-color", "rgba-color", "hsv-color", "xyz-color")


class Encoding(StrEnum):
    """How voxels are stored."""

    RAW = "raw"
    """As they are in memory."""
    DEFLATE = "deflate"
    """A gzip or zlib stream."""
    BZIP2 = "bzip2"
    """A bzip2 stream."""
    TEXT = "text"
    """Decimal numbers."""
    HEX = "hex"
    """Two hexadecimal digits for each byte."""


_NRRD_ENCODINGS = {
    "raw": Encoding.RAW,
    **dict.fromkeys(("gz", "gzip"), Encoding.DEFLATE),
    **dict.fromkeys(("bz2", "bzip2"), Encoding.BZIP2),
    **dict.fromkeys(("txt", "text", "ascii"), Encoding.TEXT),
    "hex": Encoding.HEX,
}


@dataclass(frozen=True)
class StoredVoxels:
    """Where voxels lie and how they are packed.

    Attributes:
        files: that hold them, in order; the image file itself if they follow its header.
        start: bytes before them in each file.
        encoding: how they are packed.
        big_endian: whether the first byte of a number is the highest.
        line_skip: lines to skip after `start`, before anything is unpacked.
        byte_skip: unpacked bytes to skip; −1 if the voxels are the last bytes.
        sizes: of an NRRD file, along all axes, the fastest first.
        kinds: of these axes, in lower case, if the header says so.
        unplaced: which fields on the place of the voxels the header lacks, as a sentence.
    """

    files: tuple[Path, ...]
    start: int
    encoding: Encoding
    big_endian: bool
    line_skip: int = 0
    byte_skip: int = 0
    sizes: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    unplaced: str = ""

    @property
    def component_axes(self) -> list[int]:
        """The axes of an NRRD file along which the components of one voxel lie, as far as the header says so."""
        return [i for i, kind in enumerate(self.kinds) if kind not in _SPATIAL]


def read_itk_header(path: Path) -> StoredVoxels:
    """Reads where the voxels of a MetaImage or NRRD file lie.

    Raises:
        DataError: the header is not one of these, or names a file that is not a regular one beside it.
    """
    with path.open("rb") as stream:
        nrrd = stream.read(7) == b"NRRD000"
        stream.seek(0)
        try:
            return _nrrd(path, stream) if nrrd else _meta_image(path, stream)
        except ValueError as error:
            raise refuse(path, f"its header cannot be read ({error})", "a valid header", AGAIN) from error


def _lines(path: Path, stream: BinaryIO) -> Iterator[str]:
    while line := stream.readline(_LARGEST_HEADER):
        if stream.tell() > _LARGEST_HEADER:
            raise refuse(path, "its header does not end", "a whole MetaImage or NRRD file", AGAIN)
        yield line.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _nrrd(path: Path, stream: BinaryIO) -> StoredVoxels:
    fields: dict[str, str] = {}
    lines = _lines(path, stream)
    next(lines)
    for line in lines:
        if not line:
            break
        key, colon, value = line.partition(":")
        if line.startswith("#") or not colon or value.startswith("="):
            continue
        field = key.lower().replace(" ", "")
        fields[field] = value.strip()
        if field == "datafile" and value.split()[:1] in (["LIST"], ["list"]):
            break
    encoding = fields.get("encoding", "").lower()
    if encoding not in _NRRD_ENCODINGS:
        found = f"its voxels are packed as {encoding!r}"
        raise refuse(path, found, "raw, gzip, bzip2, ascii or hex", "write it with another encoding")
    kinds = re.findall(r"\S+", fields.get("kinds", "").lower())
    for kind in kinds:
        if kind == "complex" or kind in _COLOURS:
            raise no_grey_values(path, "complex numbers" if kind == "complex" else "colours")
    named = fields.get("datafile")
    return StoredVoxels(
        files=(path,) if named is None else _named_files(path, named, lines),
        start=stream.tell() if named is None else 0,
        encoding=_NRRD_ENCODINGS[encoding],
        big_endian=fields.get("endian", "little").lower() == "big",
        line_skip=int(fields.get("lineskip", 0)),
        byte_skip=int(fields.get("byteskip", 0)),
        sizes=tuple(int(n) for n in fields.get("sizes", "").split()),
        kinds=tuple(kinds),
        unplaced=_unplaced(fields, {"space": ("space",), "space directions": ("spacedirections",)}),
    )


def _meta_image(path: Path, stream: BinaryIO) -> StoredVoxels:
    fields: dict[str, str] = {}
    lines = _lines(path, stream)
    for line in lines:
        key, _, value = line.partition("=") if "=" in line else line.partition(":")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    named = fields.get("ElementDataFile")
    if not named:
        raise refuse(path, "cannot be read", "a whole MetaImage or NRRD file", AGAIN)
    local = named.upper() == "LOCAL"
    start = stream.tell() if local else 0

    def yes(*keys: str) -> bool:
        return any(fields.get(key, "").lower() in ("true", "1") for key in keys)

    encoding = Encoding.DEFLATE if yes("CompressedData") else Encoding.RAW
    if not yes("BinaryData") and "BinaryData" in fields:
        encoding = Encoding.TEXT
    return StoredVoxels(
        files=(path,) if local else _named_files(path, named, lines),
        start=start,
        encoding=encoding,
        big_endian=yes("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
        byte_skip=int(fields.get("HeaderSize", 0)),
        unplaced=_unplaced(
            fields,
            {
                "ElementSpacing": ("ElementSpacing", "ElementSize"),
                "TransformMatrix": ("TransformMatrix", "Rotation", "Orientation"),
            },
        ),
    )


def _unplaced(fields: Mapping[str, str], needed: Mapping[str, tuple[str, ...]]) -> str:
    """Says which of the needed fields a header lacks under all of their names."""
    absent = [f"`{name}`" for name, keys in needed.items() if not any(fields.get(key) for key in keys)]
    return f"its header has no {' and no '.join(absent)}" if absent else ""


def _named_files(path: Path, named: str, lines: Iterator[str]) -> tuple[Path, ...]:
    """The files that a header names: one, a list, or a numbered series.

    Raises:
        DataError: one of them is not a regular file beside the header.
    """
    names = [named]
    if named.upper().split()[0] == "LIST":
        names = [line.strip() for line in lines if line.strip()]
    elif match := _PATTERN.fullmatch(named):
        first, last, step, *_ = [*(int(n) for n in match[4].split()), 1]
        numbers = range(first, last + (1 if step > 0 else -1), step)
        if len(numbers) > _MOST_FILES:
            raise refuse(path, f"names {len(numbers):,} files", f"at most {_MOST_FILES:,}", AGAIN)
        names = [f"{match['before']}{n:0{int(match['digits'] or 1)}d}{match['after']}" for n in numbers]
    if not names:
        raise refuse(path, "names no file with its voxels", "the names of its files", AGAIN)
    return tuple(_beside(path, name) for name in names)


def _beside(path: Path, name: str) -> Path:
    plain = name.removeprefix("./")
    if plain in ("", ".", "..") or "/" in plain or "\\" in plain or "\0" in plain:
        found = f"its header names the file {name!r}, which does not lie beside it"
        raise refuse(
            path,
            found,
            "the plain name of a file in the same folder",
            "put that file there, and name it in the header",
        )
    file = path.with_name(plain)
    if not file.is_file():
        why = "which is not a regular file" if file.exists() else "which does not exist"
        raise refuse(path, f"its header names the file {name}, {why}", "its voxels", "restore that file")
    return file

"""Compressed bytes, unpacked once, in memory, and verified: every stream has to end, with its checksum and length."""

from __future__ import annotations

import bz2
import zlib

GZIP_MAGIC = b"\x1f\x8b"
BZIP2_MAGIC = b"BZh"
_CHUNK = 1 << 20
# Window sizes of zlib: a gzip stream alone, and gzip or zlib, whichever it is.
_GZIP, _EITHER = 31, 47


class DamagedStreamError(ValueError):
    """A compressed stream does not end, or its checksum or length is wrong."""


def inflate(packed: bytes, wanted: int, *, gzip_only: bool = False) -> tuple[bytes, int, int]:
    """Unpacks gzip members, or one zlib stream, and verifies their checksums.

    Memory grows with the data and not with a claim; of the bytes beyond the wanted ones only the number is kept.

    Args:
        packed: the compressed bytes.
        wanted: number of unpacked bytes to return, where there are as many.
        gzip_only: whether a bare zlib stream is refused.

    Returns:
        At most the wanted bytes, the number of all bytes (counting stops at twice the wanted ones), and the number of
        bytes after the last stream.

    Raises:
        DamagedStreamError: a stream does not end, or its checksum is wrong.
    """
    view = memoryview(packed)
    pieces: list[bytes] = []
    held = 0
    while True:
        stream = zlib.decompressobj(_GZIP if gzip_only else _EITHER)
        position = 0
        while not stream.eof and (position < len(view) or stream.unconsumed_tail):
            fed = stream.unconsumed_tail or view[position : position + _CHUNK]
            position += 0 if stream.unconsumed_tail else len(fed)
            try:
                piece = stream.decompress(fed, 8 * _CHUNK)
            except zlib.error as error:
                raise DamagedStreamError(str(error).partition(": ")[2] or str(error)) from error
            if held < wanted:
                pieces.append(piece[: wanted - held])
            held += len(piece)
            if held > 2 * wanted + _CHUNK:
                return b"".join(pieces), held, 0
        if not stream.eof:
            raise DamagedStreamError("the compressed stream does not end")
        view = view[position - len(stream.unused_data) :]
        if view[:2] != GZIP_MAGIC:
            return b"".join(pieces), held, len(view)


def unpack_bzip2(packed: bytes, wanted: int) -> tuple[bytes, int, int]:
    """Unpacks bzip2 streams, which parallel packers write one after another, as `inflate` does.

    Raises:
        DamagedStreamError: a stream does not end, or its checksum is wrong.
    """
    content = bytearray()
    rest = packed
    while True:
        stream = bz2.BZ2Decompressor()
        fed = rest
        try:
            while not stream.eof and len(content) <= wanted and (fed or not stream.needs_input):
                content += stream.decompress(fed, wanted + 1 - len(content))
                fed = b""
        except (OSError, ValueError) as error:
            raise DamagedStreamError(str(error)) from error
        if not stream.eof:
            if len(content) > wanted:
                return bytes(content[:wanted]), len(content), 0
            raise DamagedStreamError("the compressed stream does not end")
        rest = stream.unused_data
        if not rest.startswith(BZIP2_MAGIC):
            return bytes(content[:wanted]), len(content), len(rest)

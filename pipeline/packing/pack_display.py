"""`graft pack --show`: the card of a pack, after all of the pack was checked."""

from __future__ import annotations

from pathlib import Path

from data.names import printable
from pipeline.deployment.pack_card import pack_card
from pipeline.packs.pack_archive import open_pack
from pipeline.packs.pack_weights import require_whole


def shown_card(path: Path) -> str:
    """Returns the card, made from what the pack says of itself, with nothing in it that a terminal would obey.

    Raises:
        PackError: the pack is missing, damaged, or of a newer format.
    """
    pack = open_pack(path)
    require_whole(pack)
    return "\n".join(map(printable, pack_card(pack.record).split("\n")))

"""Words for classes in file names, which are shorter than names and allow fewer characters."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_LONGEST_WORD = 40
"""Bytes of a class in a file name, after a prefix of up to `data.names.LONGEST`."""


def file_words(names: Iterable[str], *, bids: bool = False) -> dict[str, str]:
    """Returns a short, unique word for each class in file names.

    Letters and digits of any script and `+` stay; everything else becomes dashes. BIDS labels allow only ASCII letters
    and digits, so accents are removed there. Words that would be equal or empty get the number of the class.
    """
    plain = {name: _bids_word(name) if bids else _word(name) for name in names}
    counts = Counter(word.casefold() for word in plain.values())
    words: dict[str, str] = {}
    for number, (name, word) in enumerate(plain.items(), start=1):
        joint = "" if bids else "-"
        taken = {given.casefold() for given in words.values()}
        unique = word if word and counts[word.casefold()] == 1 else f"{word}{joint if word else 'structure'}{number}"
        while unique.casefold() in taken:
            unique += f"{joint}{number}"
        words[name] = unique
    return words


def _word(name: str) -> str:
    kept = re.sub(r"[^\w+]+", "-", unicodedata.normalize("NFC", name)).strip("-")
    while len(kept.encode()) > _LONGEST_WORD:
        kept = kept[:-1]
    return kept


def _bids_word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", unicodedata.normalize("NFKD", name))[:_LONGEST_WORD]

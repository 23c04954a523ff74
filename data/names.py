"""The one rule for names of cases, patients, datasets, labels, channels, arms, densities, classes and studies.

Names become folders, files, cells of tables and lines in a terminal. A name that is dangerous or confusing in one of
these places is refused everywhere, where it enters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from data.errors import DataError

LONGEST = 150
"""Bytes (UTF-8) of the longest name. A file name has 255 at most, and suffixes come on top."""

RULE = (
    "letters, digits, spaces and characters such as `.`, `_`, `-` and `+`, without folder separators "
    "and without a dot or dash at the start"
)

RESERVED = frozenset(
    {
        "config.resolved.yaml",
        "dataset_description.json",
        "desc-graft_dseg.tsv",
        "done.json",
        "file-digests.json",
        "files.json",
        "index.html",
        "prediction.json",
        "predictions.csv",
        "provenance.json",
    }
)
"""Files that Graft itself writes beside the folders that it names after cases, arms and datasets (in lower case)."""


def printable(text: str) -> str:
    """Returns the text with all that a terminal could interpret or hide escaped: colours, line ends, surrogates."""
    return "".join(c if _is_visible(c) else _escape(c) for c in text)


def name_fault(name: object) -> str | None:
    """Returns what is wrong with a name, as the end of the sentence "the name …", or `None`."""
    if not isinstance(name, str):
        return "is not text"
    if not name:
        return "is empty"
    if name != name.strip():
        return "begins or ends with a space"
    if separator := next((c for c in name if c in "/\\"), None):
        return f"contains `{separator}`, which separates folders"
    if name[0] == ".":
        return "begins with a dot, like the names of hidden and temporary files"
    if name[0] == "-":
        return "begins with a dash, like the options of commands"
    if hidden := next((c for c in name if not _is_visible(c)), None):
        if unicodedata.category(hidden) == "Cs":
            return "is not valid UTF-8"
        return f"contains the invisible character U+{ord(hidden):04X}"
    if len(name.encode()) > LONGEST:
        return f"has {len(name.encode())} bytes; at most {LONGEST} are allowed"
    if name.casefold() in RESERVED:
        return "is the name of a file that Graft writes"
    return None


def label_name_fault(name: object) -> str | None:
    """Returns what is wrong with the name of a label or class; like `name_fault`, but `/` may stand between words.

    Such names, as `prostate/uterus`, never become folders; files take their words from `class_words.file_words`.
    """
    if not isinstance(name, str) or "/" not in name:
        return name_fault(name)
    words = name.split("/")
    if not all(words):
        return "has a `/` without a word on each side of it"
    # Joined by another sign, the name has the same length.
    return next((fault for fault in map(name_fault, (*words, name.replace("/", "+"))) if fault), None)


def check_label_names(names: Iterable[str], where: object) -> None:
    """Refuses label names that break the rule.

    Raises:
        DataError: names the first fault.
    """
    for name in names:
        _refuse("label", name, label_name_fault(name), where)


def check_name(kind: str, name: object, where: object) -> None:
    """Refuses a name that breaks the rule.

    Raises:
        DataError: the name breaks the rule.
    """
    _refuse(kind, name, name_fault(name), where)


def _refuse(kind: str, name: object, fault: str | None, where: object) -> None:
    if fault:
        raise DataError(f"{where}: the {kind} name {_quoted(name)} {fault}", expected=RULE, fix=f"rename the {kind}")


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Returns the first two names that a file system or a reader could confuse; `None` if there are none.

    They are equal, or differ only in case or in how their letters are composed (Unicode normalisation).
    """
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if key in seen:
            return seen[key], name
        seen[key] = name
    return None


def alike_fault(names: Iterable[str], kind: str = "") -> str | None:
    """Returns which two names (of one kind) are too much alike, as a sentence without a full stop, or `None`."""
    pair = alike(names)
    if pair is None:
        return None
    first, second = (_quoted(name) for name in pair)
    what = f"{kind} name" if kind else "name"
    if pair[0] == pair[1]:
        return f"the {what} {first} is given twice"
    return f"the {what}s {first} and {second} differ only in capital letters or in how their accents are stored"


def check_names(kind: str, names: Iterable[str], where: object) -> None:
    """Refuses names of one kind if one breaks the rule or two could be confused.

    Raises:
        DataError: names the first fault.
    """
    listed = list(names)
    for name in listed:
        check_name(kind, name, where)
    if fault := alike_fault(listed, kind):
        raise DataError(f"{where}: {fault}", expected="names that differ in more than that", fix="rename one of them")


def _is_visible(character: str) -> bool:
    # A no-break space is harmless, though not "printable" to Python.
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    # Python uses a lone surrogate for a byte of a file name that is not UTF-8.
    byte = ord(character) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode("ascii")


def _quoted(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:60]}…"

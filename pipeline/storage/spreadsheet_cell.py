"""Text in a cell of a CSV file: a spreadsheet must show it and never carry it out as a formula.

A cell that begins like a formula gets an apostrophe in front, as spreadsheets themselves mark text (OWASP, "CSV
injection"); reading takes it off again.
"""

from __future__ import annotations

import re

from data.names import printable

# The wide forms count for spreadsheets in East Asian languages.
_FORMULA = re.compile("'*[=+\\-@\uff1d\uff0b\uff0d\uff20]")


def escaped(text: str) -> str:
    """Returns the text as it is written into a cell; control characters become escapes."""
    text = printable(text)
    return f"'{text}" if _FORMULA.match(text) else text


def unescaped(cell: str) -> str:
    """Returns the text of a cell that `escaped` made."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell

"""Text in a cell of a CSV file, which a spreadsheet must show and never run as a formula.

A cell that begins like a formula gets a leading apostrophe, as spreadsheets themselves mark text (OWASP, "CSV
injection"); reading removes it.
"""

from __future__ import annotations

import re

from data.names import printable

# Spreadsheets in East Asian languages also accept the wide forms.
_FORMULA = re.compile("'*[=+\\-@\uff1d\uff0b\uff0d\uff20]")


def escaped(text: str) -> str:
    """Returns the text as written into a cell; control characters become escapes."""
    text = printable(text)
    return f"'{text}" if _FORMULA.match(text) else text


def unescaped(cell: str) -> str:
    """Returns the text of a cell that `escaped` made."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell

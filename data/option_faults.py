"""The faults that pydantic finds, in the words of this project."""

from __future__ import annotations

from pydantic import ValidationError

_OF_A_KEY = "[key]"


def first_fault(error: ValidationError) -> tuple[tuple[str | int, ...], str]:
    """Returns where the first fault is and what it is; an invalid key is a fault of its mapping."""
    first = error.errors()[0]
    location = first["loc"][:-2] if first["loc"][-1:] == (_OF_A_KEY,) else first["loc"]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "union_tag_not_found":
        message = f"the key `{first['ctx']['discriminator'].strip(chr(39))}` is missing, which says what kind it is"
    return location, message


def fault_at(error: ValidationError) -> str:
    """Returns the first fault as the end of a sentence: the key in the notation of `--set`, and what is wrong."""
    location, message = first_fault(error)
    return f"`{'.'.join(map(str, location))}`: {message}" if location else message

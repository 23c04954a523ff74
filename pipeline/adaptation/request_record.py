"""What `graft adapt` was asked for, kept beside the study, so that another request is not taken for the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from data.errors import ConfigError
from data.stored_record import StoredRecord
from pipeline.planning.request import PlanRequest

REQUEST = "request.json"
_OF_EACH_RUN = {"strict"}
"""Does not change the plan."""

Value = bool | str | int | float | list[str] | None


class RequestRecord(StoredRecord):
    """The content of `request.json`."""

    asked: dict[str, Value]
    """Option → its value; `TARGET` for the scans."""

    @classmethod
    def of(cls, request: PlanRequest, overrides: Sequence[str]) -> RequestRecord:
        """Writes a request down, with the keys of the planned study that it changes."""
        names = [field.name for field in fields(request) if field.name not in _OF_EACH_RUN]
        asked = {_option(name): _plain(getattr(request, name)) for name in names}
        return cls(asked={**asked, "--set": list(overrides) or None})

    def require_same(self, now: RequestRecord, study: object) -> None:
        """Refuses another request than the one that the study was planned for.

        Args:
            now: what is asked for now.
            study: file of the planned study.

        Raises:
            ConfigError: names the first option that differs.
        """
        for option in dict.fromkeys([*self.asked, *now.asked]):
            before, after = self.asked.get(option), now.asked.get(option)
            if before != after:
                raise ConfigError(
                    f"{study}: was planned with {_shown(option, before)}, and now it is {_shown(option, after)}",
                    expected="the request that was begun, which the same command continues",
                    fix=f"ask for the same, name another --output, or change the study by hand and run "
                    f"`graft run {study}`",
                )


def _option(name: str) -> str:
    return "TARGET" if name == "target" else f"--{name.replace('_', '-')}"


def _plain(value: object) -> Value:
    if value is False:
        # As records of versions without the option have it.
        return None
    if isinstance(value, tuple):
        return [str(part) for part in value]
    return value if isinstance(value, int | float | None) else str(value)


def _shown(option: str, value: Value) -> str:
    if value is None:
        return f"no {option}"
    if value is True:
        return option
    return f"{option} {','.join(value) if isinstance(value, list) else value}"

"""`check/study/study.json`: the split of a study, with channels and classes."""

from __future__ import annotations

from pydantic import Field

from data.stored_record import StoredRecord


class PlanRecord(StoredRecord):
    """The plan of a study, as `check` writes it."""

    split: dict[str, dict[str, list[str]]]
    """Role (`source`, `pool`, `test`) → patient → cases."""
    classes: dict[str, dict[str, list[int]]]
    """Dataset → class name → values in its label maps."""
    channels: dict[str, list[str]]
    """Dataset → channel names in the order of the network's input."""
    ignored: dict[str, list[int]] = Field(default_factory=dict)
    """Dataset → values in its label maps of voxels without annotation, where there are any."""
    unlabelled: dict[str, list[str]] = Field(default_factory=dict)
    """Patient → cases of the target without annotation that the study uses, where there are any."""
    withheld: list[str] = Field(default_factory=list)
    """Those of them whose labels are withheld."""

"""What of the source the arms of a study use: networks, filter priors, or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.arms.choices import ArmOptions
from pipeline.report.study_files import StudyFiles


@dataclass(frozen=True)
class SourceUse:
    """What arms use of the source.

    Attributes:
        networks: whether one starts from a source network, is held near one, or takes its prior of other weights there.
        priors: whether one uses a density that was fitted to filters.
    """

    networks: bool
    priors: bool

    @classmethod
    def of(cls, arms: Iterable[ArmOptions]) -> SourceUse:
        """What some arms use together."""
        chosen = list(arms)
        return cls(
            any(arm.needs_source or arm.needs_references for arm in chosen), any(arm.needs_prior for arm in chosen)
        )


def source_use(files: StudyFiles) -> SourceUse:
    """Reads it from the configuration of a study; all of it where that does not tell."""
    arms = files.arm_options()
    return SourceUse.of(arms.values()) if arms else SourceUse(networks=True, priors=True)

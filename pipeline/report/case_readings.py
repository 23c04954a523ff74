"""What the report learned while it read the predictions of the test cases."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.report.voxel_errors import VoxelErrors


@dataclass(frozen=True)
class PredictionQuality:
    """What the prediction of a case by one arm knows of its own errors.

    Attributes:
        case: name of the case.
        arm: preset name.
        dice: measured, from the tables.
        draws: posterior draws behind it.
        errors: of its voxels.
        confidence: estimated Dice with its error, ready for printing; empty where the error is not known.
    """

    case: str
    arm: str
    dice: float
    draws: int
    errors: VoxelErrors
    confidence: str = ""


@dataclass(frozen=True)
class CaseReadings:
    """What was learned while the pages of the test cases were written.

    Attributes:
        arms: those whose predictions were read, the best first.
        n: target patients they learned from; 0 where nothing was read.
        order: cases by the Dice of the first arm, the best first.
        pages: case → address of its page, relative to the report.
        qualities: one record per case and arm.
        missing: what could not be read, one sentence each.
    """

    arms: tuple[str, ...] = ()
    n: int = 0
    order: tuple[str, ...] = ()
    pages: dict[str, str] = field(default_factory=dict)
    qualities: tuple[PredictionQuality, ...] = ()
    missing: tuple[str, ...] = ()

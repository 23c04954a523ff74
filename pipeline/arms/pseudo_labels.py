"""Pseudo-labels: what a teacher predicted in unlabelled scans, and which of these enter a round of self-training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from data.stored_record import StoredRecord
from pipeline.arms.pseudo_patches import PseudoCase, uncertainty_of
from pipeline.arms.unlabelled_use import SelfTrainingOptions, Weighting
from pipeline.prediction.most_probable import single_codes
from pipeline.prediction.stored_prediction import StoredPrediction, load_prediction, prediction_name
from pipeline.prediction.temperature import from_log_probability
from pipeline.storage.cached_case import CachedCase

NO_STRUCTURE = "no structure was predicted"
IMPLAUSIBLE = "the volume of {name} is {volume:.3g} ml, and {low:.3g} to {high:.3g} ml are plausible"
UNCERTAIN = "others are less uncertain"


class PseudoRecord(StoredRecord):
    """What a student learned from beside annotated scans; part of `training.json`."""

    round: int
    """Number of the round, from 1."""
    uncertainty: str = Weighting.MUTUAL_INFORMATION.value
    """`mutual_information`, or `predictive_entropy` where the teacher is a single pass of a single network."""
    scale: float = 0.0
    """Mean of it in nats over the predicted structures of the scans that entered."""
    entered: tuple[str, ...] = ()
    """Scans that entered, the least uncertain first."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Scan → why it did not enter."""
    stopped: str | None = None
    """Why nothing was learned in this round: the weights are those of the round before."""


@dataclass(frozen=True)
class PseudoLabels:
    """The scans that enter, and what is written down about the choice."""

    cases: Sequence[PseudoCase]
    record: PseudoRecord


@dataclass(frozen=True)
class Teacher:
    """Where the predictions of the round before lie.

    Attributes:
        folder: of the predictions.
        cases: the unlabelled scans.
        before: folder of the same member's training in the round before.
    """

    folder: Path
    cases: Sequence[CachedCase]
    before: Path

    def judged(self, labelled: Sequence[CachedCase], options: SelfTrainingOptions) -> PseudoLabels:
        """Reads all predictions and decides which scans enter.

        Args:
            labelled: annotated scans, whose volumes say what is plausible.
            options: of the self-training.

        Raises:
            WorkspaceError: a prediction is missing or damaged.
        """
        spans = plausible_volumes(labelled, options.span)
        seen = [_Seen.of(case, load_prediction(self.path(case))) for case in self.cases]
        reasons = {own.case.name: own.fault(spans) for own in seen}
        sound = sorted((own for own in seen if reasons[own.case.name] is None), key=lambda s: (s.mean, s.case.name))
        entering = sound[: math.ceil(options.kept * len(sound))]
        left_out = {name: reason or UNCERTAIN for name, reason in reasons.items()}
        for own in entering:
            del left_out[own.case.name]
        kinds = {own.kind for own in seen}
        record = PseudoRecord(
            round=options.rounds,
            uncertainty=next(iter(kinds)) if kinds else Weighting.MUTUAL_INFORMATION.value,
            scale=float(np.mean([own.mean for own in entering])) if entering else 0.0,
            entered=tuple(own.case.name for own in entering),
            left_out=left_out,
        )
        cases = [PseudoCase(own.case, self.path(own.case), own.foreground, record.scale, options) for own in entering]
        return PseudoLabels(cases, record)

    def path(self, case: CachedCase) -> Path:
        """The file of a prediction."""
        return self.folder / prediction_name(case.name)


@dataclass(frozen=True)
class _Seen:
    """A prediction in numbers.

    Attributes:
        case: the scan.
        kind: what its uncertainty is.
        mean: its mean inside the predicted structures, nats.
        volumes: class → predicted ml.
        foreground: `[M, 3]` voxels of the structures.
    """

    case: CachedCase
    kind: str
    mean: float
    volumes: Mapping[str, float]
    foreground: NDArray[np.int32]

    @classmethod
    def of(cls, case: CachedCase, prediction: StoredPrediction) -> _Seen:
        probability = from_log_probability(prediction.log_probability, 1.0, prediction.heads)
        codes = single_codes(probability, prediction.heads)
        inside = codes > 0
        known = prediction.mutual_information is not None
        uncertainty = uncertainty_of(probability, prediction.mutual_information, prediction.heads)
        return cls(
            case,
            Weighting.MUTUAL_INFORMATION.value if known else "predictive_entropy",
            float(uncertainty[inside].double().mean()) if bool(inside.any()) else 0.0,
            _volumes(codes, case),
            np.argwhere(inside.numpy()).astype(np.int32),
        )

    def fault(self, spans: Mapping[str, tuple[float, float]]) -> str | None:
        """Why the scan cannot enter."""
        if not len(self.foreground):
            return NO_STRUCTURE
        for name, (low, high) in spans.items():
            if not low <= self.volumes[name] <= high:
                return IMPLAUSIBLE.format(name=name, volume=self.volumes[name], low=low, high=high)
        return None


def _volumes(codes: torch.Tensor, case: CachedCase) -> dict[str, float]:
    """Class → ml."""
    voxel = abs(float(np.linalg.det(case.affine[:3, :3]))) / 1000
    return {
        name: float(case.heads.belongs(codes, number).sum()) * voxel
        for number, name in enumerate(case.classes, start=1)
    }


def plausible_volumes(labelled: Sequence[CachedCase], span: float) -> dict[str, tuple[float, float]]:
    """Returns class → ml, from the smallest annotated volume divided by `span` to the largest multiplied by it."""
    volumes = [_volumes(case.label(), case) for case in labelled]
    return {
        name: (min(own[name] for own in volumes) / span, max(own[name] for own in volumes) * span)
        for name in volumes[0]
    }

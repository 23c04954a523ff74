"""Options of the evaluation."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field, create_model

from data.options import Options
from pipeline.evaluation.case_row import METRICS
from pipeline.metrics.lesions import LesionOptions as LesionOptions
from pipeline.metrics.overlap import EmptyMaskPolicy
from pipeline.metrics.surface_distance import TOLERANCE
from pipeline.prediction.boundary_band import BAND
from pipeline.prediction.correlated_volume import LEVEL


class EvaluationSpace(StrEnum):
    """On which grid a prediction meets its reference."""

    NATIVE = "native"
    """The probabilities are carried back to the scan, and the mask made there is compared with the label as it was
    drawn. Needs the raw labels."""
    PREPROCESSED = "preprocessed"
    """The mask is compared with the preprocessed label, on the grid of the network. Needs the workspace alone."""


# The keys are those of the registry.
_of_each_metric: Any = {
    name: (EmptyMaskPolicy | None, Field(default=None, description=f"{metric.title}: {metric.empty}."))
    for name, metric in METRICS.items()
}
_Policies = create_model("_Policies", __base__=Options, **_of_each_metric)


class MetricPolicies(_Policies):
    """What empty masks give, metric by metric; `null` takes `evaluation.empty_masks`."""


_SCALED = ("fine_tune", "ensemble")
"""Arms that are judged after temperature scaling as well, unless a study names others."""


class CalibrationOptions(Options):
    """How probabilities, volumes and uncertainties are judged."""

    band: float = Field(default=BAND, gt=0)
    """Voxels within so many mm of the reference boundary count, the same for all arms."""
    bins: int = Field(default=15, ge=2)
    """Bins of equal mass of the expected calibration error."""
    clamp: float = Field(default=2.0**-12, gt=0, lt=0.1)
    """Smallest probability of a class before a logarithm is taken: it limits what a single confident error costs."""
    level: float = Field(default=LEVEL, gt=0, lt=1)
    """Coverage of the volume interval."""
    temperature_scaled: tuple[str, ...] | None = None
    """Arms that are also judged after temperature scaling, cross-fitted over two halves of the test patients; by
    default `fine_tune` and `ensemble`, where the study has them."""

    def is_scaled(self, arm: str) -> bool:
        """Whether an arm is also judged after temperature scaling."""
        return arm in (_SCALED if self.temperature_scaled is None else self.temperature_scaled)


class EvaluationOptions(Options):
    """How predictions are measured and averaged."""

    space: EvaluationSpace = EvaluationSpace.NATIVE
    """Where overlap, distances and volumes are measured. Calibration is always measured on the preprocessed grid."""
    empty_masks: EmptyMaskPolicy = EmptyMaskPolicy.REWARD_AGREEMENT
    """What empty masks give."""
    empty_masks_by_metric: MetricPolicies = Field(default_factory=MetricPolicies)
    """Other policies for single metrics."""
    surface_tolerance: float = Field(default=TOLERANCE, gt=0)
    """Tolerance of the surface Dice in mm."""
    lesions: LesionOptions | None = None
    """Lesion-wise sensitivity, precision and F1, for structures that come in several pieces; `null` leaves them out."""
    calibration: CalibrationOptions | None = Field(default_factory=CalibrationOptions)
    """Calibration of the arms; `null` leaves it out."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples behind the intervals, those of the paired differences as well."""
    rivals: tuple[str, ...] | None = None
    """Arms that count as non-Bayesian: every other arm is compared with the best of them. By default the point
    estimates that neither start from a filter prior nor are held by one."""

    def policies(self) -> dict[str, EmptyMaskPolicy]:
        """Metric → what empty masks give it."""
        own = {name: getattr(self.empty_masks_by_metric, name) for name in MetricPolicies.model_fields}
        return {name: policy or self.empty_masks for name, policy in own.items()}

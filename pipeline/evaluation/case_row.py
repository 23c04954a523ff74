"""The registry of the metrics: each is a column of `cases.csv` that carries all that there is to know of it.

To add one, write its function and a field here. Options, tables, comparisons, report and methods text follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.metrics.lesions import LesionCounts, lesion_f1, lesion_precision, lesion_sensitivity
from pipeline.metrics.mask_pair import MaskPair
from pipeline.metrics.measure import Measure, measures
from pipeline.metrics.overlap import EmptyMask, EmptyMaskPolicy, dice, iou, relative_volume_error
from pipeline.metrics.surface_distance import average_surface_distance, hd95, surface_dice


@dataclass(frozen=True, kw_only=True)
class Metric(Measure):
    """A metric of a predicted mask.

    Attributes:
        words: as a sentence names it; `{tolerance}` stands for that of the surface Dice.
        measure: its function; of masks of which one is empty it gives its worst value, of two its best.
        empty: what best and worst value are, in words.
        overview: whether it stands in the first table of the report.
    """

    words: str
    measure: Callable[[MaskPair], float]
    empty: str = "best 1, worst 0"
    overview: bool = False

    def of(self, pair: MaskPair, policy: EmptyMaskPolicy = EmptyMaskPolicy.REWARD_AGREEMENT) -> float:
        """Measures a pair of masks; NaN where the policy leaves it out."""
        empty = self.which_empty(pair)
        return math.nan if empty is None or policy.leaves_out(empty) else self.measure(pair)

    def which_empty(self, pair: MaskPair) -> EmptyMask | None:
        """Returns which mask is empty in the eyes of the metric; None where it does not apply."""
        return pair.counts.empty


@dataclass(frozen=True, kw_only=True)
class LesionMetric(Metric):
    """A metric of lesions: empty is a mask without a lesion that counts."""

    empty: str = "best 1, worst 0; a mask without a counted lesion is empty"

    def which_empty(self, pair: MaskPair) -> EmptyMask | None:
        """Returns which mask has no lesion; None where lesions were not asked for."""
        return None if pair.lesions is None else pair.lesions.empty


def _of_lesions(function: Callable[[LesionCounts], float]) -> Callable[[MaskPair], float]:
    return lambda pair: math.nan if pair.lesions is None else function(pair.lesions)


_DICE = Metric(title="Dice", words="Dice", measure=lambda pair: dice(pair.counts), overview=True)
_IOU = Metric(title="IoU", words="intersection over union", measure=lambda pair: iou(pair.counts), overview=True)
_HD95 = Metric(
    title="HD95",
    unit="mm",
    words="the 95th percentile of the Hausdorff distance",
    measure=lambda pair: hd95(pair.distances),
    less_is_better=True,
    digits=2,
    empty="best 0 mm, worst the diagonal of the image",
    overview=True,
)
_AVERAGE_SURFACE_DISTANCE = Metric(
    title="Average surface distance",
    unit="mm",
    words="the average surface distance",
    measure=lambda pair: average_surface_distance(pair.distances),
    less_is_better=True,
    digits=2,
    empty="best 0 mm, worst the diagonal of the image",
)
_SURFACE_DICE = Metric(
    title="Surface Dice",
    words="the surface Dice at a tolerance of {tolerance:g} mm",
    measure=lambda pair: surface_dice(pair.distances, pair.tolerance),
)
_RELATIVE_VOLUME_ERROR = Metric(
    title="Relative volume error",
    words="the relative volume error",
    measure=lambda pair: relative_volume_error(pair.counts),
    less_is_better=True,
    digits=2,
    empty="best 0; worst 1, the whole volume is wrong",
    overview=True,
)
_LESION_SENSITIVITY = LesionMetric(
    title="Lesion-wise sensitivity",
    words="lesion-wise sensitivity",
    measure=_of_lesions(lesion_sensitivity),
    overview=True,
)
_LESION_PRECISION = LesionMetric(
    title="Lesion-wise precision", words="lesion-wise precision", measure=_of_lesions(lesion_precision), overview=True
)
_LESION_F1 = LesionMetric(title="Lesion-wise F1", words="lesion-wise F1", measure=_of_lesions(lesion_f1))


@dataclass(frozen=True)
class CaseRow:
    """What one trained arm reached on one label of one test case; NaN where the empty-mask policy leaves it out.

    Attributes:
        arm: preset name of the arm.
        n: number of target patients it learned from.
        repeat: which draw of patients and seed.
        case: test case.
        patient: whose case it is; averages and intervals are over patients.
        label: name of the structure.
        dice: Dice similarity coefficient.
        iou: intersection over union.
        tp: voxels in prediction and reference.
        fp: voxels in the prediction alone.
        fn: voxels in the reference alone.
        empty: which mask was empty, so that a reader can count what the policy touched.
        hd95: 95th percentile Hausdorff distance in mm.
        average_surface_distance: symmetric, in mm.
        surface_dice: normalised surface Dice at the study's tolerance.
        reference_ml: volume of the reference in ml.
        predicted_ml: volume of the prediction in ml.
        relative_volume_error: |predicted − reference| / reference volume.
        lesions_reference: lesions of the reference; None where lesions were not asked for.
        lesions_detected: those of them that the prediction covers.
        lesions_predicted: lesions of the prediction.
        lesions_true: those of them that lie on the reference.
        lesion_sensitivity: detected / reference lesions.
        lesion_precision: true / predicted lesions.
        lesion_f1: harmonic mean of the two.
    """

    arm: str
    n: int
    repeat: int
    case: str
    patient: str
    label: str
    dice: float = field(metadata=_DICE.column())
    iou: float = field(metadata=_IOU.column())
    tp: int = 0
    fp: int = 0
    fn: int = 0
    empty: str = EmptyMask.NEITHER.value
    hd95: float = field(default=math.nan, metadata=_HD95.column())
    average_surface_distance: float = field(default=math.nan, metadata=_AVERAGE_SURFACE_DISTANCE.column())
    surface_dice: float = field(default=math.nan, metadata=_SURFACE_DICE.column())
    reference_ml: float = math.nan
    predicted_ml: float = math.nan
    relative_volume_error: float = field(default=math.nan, metadata=_RELATIVE_VOLUME_ERROR.column())
    lesions_reference: int | None = None
    lesions_detected: int | None = None
    lesions_predicted: int | None = None
    lesions_true: int | None = None
    lesion_sensitivity: float = field(default=math.nan, metadata=_LESION_SENSITIVITY.column())
    lesion_precision: float = field(default=math.nan, metadata=_LESION_PRECISION.column())
    lesion_f1: float = field(default=math.nan, metadata=_LESION_F1.column())

    def which_empty(self, metric: str) -> EmptyMask | None:
        """Returns which mask was empty in the eyes of a metric; None where it was not measured."""
        if not isinstance(METRICS[metric], LesionMetric):
            return EmptyMask(self.empty)
        if self.lesions_reference is None or self.lesions_predicted is None:
            return None
        return LesionCounts(self.lesions_reference, 0, self.lesions_predicted, 0).empty


METRICS: dict[str, Metric] = measures(CaseRow)
"""Name → metric, in the order of tables."""

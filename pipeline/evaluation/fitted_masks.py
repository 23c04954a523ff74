"""The mask rule and the post-processing of an arm, chosen by the Dice of out-of-fold predictions.

The rule is that of nnU-Net (Isensee et al., Nature Methods 18, 2021): components of a structure are removed only if
that raises the mean Dice of the training patients, each predicted by models that did not learn from them. nnU-Net tries
the largest component; here smallest volumes are tried too, for structures in several pieces.

Three to eight patients are too few for a test of significance, which would refuse everything, and so few that one of
them can decide the mean. So a choice also has to raise more patients than it lowers. Removing distant crumbs passes:
patients without crumbs are neither raised nor lowered. Removing one patient's crumbs at the price of another's pieces
does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.arm_calibration import CalibrationCase
from pipeline.metrics.components import Connectivity, component_voxels, components
from pipeline.metrics.overlap import Mask, VoxelCounts, dice
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.post_processing import ComponentRule, Kept
from pipeline.prediction.reading import ReadingOptions

Scores = Mapping[str, float]
"""Patient → Dice."""

_STEPS = (1, 2, 5)
"""Smallest volumes that are tried, in mm³: these times powers of ten."""
_SAME = 1e-9
"""Scores that differ by less are equal."""


@dataclass(frozen=True)
class Pieces:
    """The connected components of one structure in the mask of one case.

    Attributes:
        patient: whose case it is.
        voxels: `[N]`, size of each.
        correct: `[N]`, voxels of each that the reference has.
        reference: voxels of the reference.
        reference_pieces: components of the reference.
        voxel_volume: of the grid, in mm³.
    """

    patient: str
    voxels: NDArray[np.int64]
    correct: NDArray[np.int64]
    reference: int
    reference_pieces: int
    voxel_volume: float

    @classmethod
    def of(cls, mask: Mask, reference: Mask, voxel_volume: float, patient: str, connectivity: Connectivity) -> Pieces:
        """Finds the components of a mask `[X, Y, Z]` and of its reference."""
        numbered = components(mask, connectivity)
        voxels = component_voxels(numbered)
        correct = np.bincount(numbered[reference], minlength=len(voxels) + 1)[1:]
        pieces = int(components(reference, connectivity).max(initial=0))
        return cls(patient, voxels, correct, int(np.count_nonzero(reference)), pieces, voxel_volume)

    def dice(self, rule: ComponentRule) -> float:
        """The Dice of what a rule keeps; of an absent structure 1 if nothing is kept, else 0."""
        kept = rule.kept(self.voxels, self.voxel_volume)
        correct = int(self.correct[kept].sum())
        return dice(VoxelCounts(correct, int(self.voxels[kept].sum()) - correct, self.reference - correct))


def rule_scores(pieces: Sequence[Pieces], rule: ComponentRule) -> Scores:
    """Returns each patient's Dice of what a rule keeps of a structure, the mean over the patient's cases."""
    of_patient: dict[str, list[float]] = {}
    for own in pieces:
        of_patient.setdefault(own.patient, []).append(own.dice(rule))
    return {patient: float(np.mean(values)) for patient, values in of_patient.items()}


def is_better(scores: Scores, than: Scores) -> bool:
    """Whether scores of the same patients have a higher mean, and are higher for more patients than they are lower."""
    gains = np.array([scores[patient] - than[patient] for patient in than])
    raised, lowered = np.count_nonzero(gains > _SAME), np.count_nonzero(gains < -_SAME)
    return bool(len(gains) and gains.mean() > _SAME and raised > lowered)


def fit_component_rule(pieces: Sequence[Pieces]) -> ComponentRule:
    """Chooses what is kept of a structure: everything, unless a rule is better (`is_better`).

    Of the rules that are better, the one with the highest mean is taken. Rules that remove the same crumbs are equal.
    Then the largest component is taken if it is among them, because new scans may have larger crumbs; else the
    middle one of the smallest volumes, as far from the crumbs that it removes as from the pieces that it keeps. The
    largest component is not tried for a structure that an annotator has drawn in several pieces: a network that misses
    the smaller ones now would never be allowed to find them.

    Args:
        pieces: of this structure, of all out-of-fold predictions.
    """
    everything = ComponentRule()
    plain = rule_scores(pieces, everything)
    tried = [ComponentRule(minimum_volume=volume) for volume in smallest_volumes(pieces)]
    if all(own.reference_pieces <= 1 for own in pieces):
        tried.insert(0, ComponentRule(keep=Kept.LARGEST))
    means = {}
    for number, rule in enumerate(tried):
        found = rule_scores(pieces, rule)
        if is_better(found, plain):
            means[number] = float(np.mean(list(found.values())))
    best = [tried[number] for number, mean in means.items() if mean > max(means.values()) - _SAME]
    if not best:
        return everything
    return best[0] if best[0].keep is Kept.LARGEST else best[(len(best) - 1) // 2]


def smallest_volumes(pieces: Sequence[Pieces]) -> list[float]:
    """Returns the smallest volumes to try, ascending: round numbers of mm³ that lie between those of the components."""
    volumes = np.concatenate([own.voxels * own.voxel_volume for own in pieces]) if pieces else np.empty(0)
    if not volumes.size:
        return []
    low, high = float(volumes.min()), float(volumes.max())
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [volume for power in powers for step in _STEPS if low < (volume := step * 10.0**power) <= high]


@dataclass(frozen=True)
class ReadMasks:
    """The masks that a reading makes of out-of-fold predictions.

    Attributes:
        reading: the reading.
        pieces: class → components of its mask in each case, before any is removed.
    """

    reading: ReadingOptions
    pieces: Mapping[str, Sequence[Pieces]]

    @classmethod
    def of(cls, reading: ReadingOptions, cases: Sequence[CalibrationCase]) -> ReadMasks:
        """Makes the masks of cases that were read without a temperature."""
        whole = reading.model_copy(update={"post_processing": {}})
        pieces: dict[str, list[Pieces]] = {}
        for case in cases:
            mask, voxel_volume = case.read_again(whole).mask, math.prod(case.spacing)
            for number, (name, rule) in enumerate(zip(case.labels, reading.rules(case.labels), strict=True), start=1):
                # What nobody has annotated is neither right nor wrong.
                own = case.heads.belongs(mask, number) & case.annotated
                reference = case.heads.belongs(case.reference, number)
                pieces.setdefault(name, []).append(
                    Pieces.of(own, reference, voxel_volume, case.patient, rule.connectivity)
                )
        return cls(reading, pieces)

    def with_fitted_rules(self) -> ReadMasks:
        """Returns the reading with the best rule of each class for which it has none."""
        open_classes = [name for name in self.pieces if name not in self.reading.post_processing]
        fitted = {name: fit_component_rule(self.pieces[name]) for name in open_classes}
        changing = {name: rule for name, rule in fitted.items() if not rule.keeps_everything}
        rules = {**self.reading.post_processing, **changing}
        return ReadMasks(self.reading.model_copy(update={"post_processing": rules}), self.pieces)

    def scores(self) -> Mapping[str, Scores]:
        """Class → Dice of each patient, of what is kept."""
        rules = self.reading.rules(tuple(self.pieces))
        return {name: rule_scores(own, rule) for (name, own), rule in zip(self.pieces.items(), rules, strict=True)}

    def dice(self) -> dict[str, float]:
        """Class → mean Dice over patients."""
        return {name: float(np.mean(list(own.values()))) for name, own in self.scores().items()}

    def patient_scores(self) -> Scores:
        """Patient → mean Dice over classes."""
        of_classes = list(self.scores().values())
        return {
            patient: float(np.mean([own[patient] for own in of_classes])) for own in of_classes[:1] for patient in own
        }


def fit_masks(given: ReadMasks, cases: Sequence[CalibrationCase]) -> ReadMasks:
    """Returns the mask of the best expected Dice if it is better (`is_better`), else the most probable one.

    Each is compared with the post-processing that fits it, because a lower threshold finds more crumbs.

    Args:
        given: of the arm's own mask rule, which stays without any predictions.
        cases: out-of-fold predictions.
    """
    if not cases:
        return given

    def read(rule: MaskRule) -> ReadMasks:
        return ReadMasks.of(given.reading.model_copy(update={"mask": rule}), cases).with_fitted_rules()

    plain, best_dice = read(MaskRule.MOST_PROBABLE), read(MaskRule.EXPECTED_DICE)
    return best_dice if is_better(best_dice.patient_scores(), plain.patient_scores()) else plain

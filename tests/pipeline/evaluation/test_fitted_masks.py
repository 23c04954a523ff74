"""Which post-processing and which mask out-of-fold predictions speak for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.evaluation.arm_calibration import CalibrationCase
from pipeline.evaluation.fitted_masks import Pieces, ReadMasks, fit_component_rule, fit_masks, is_better
from pipeline.evaluation.fitted_reading import fitted_reading
from pipeline.evaluation.options import CalibrationOptions
from pipeline.metrics.components import Connectivity
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.post_processing import ComponentRule, Kept
from pipeline.prediction.reading import ReadingOptions

LARGEST, EVERYTHING = ComponentRule(keep=Kept.LARGEST), ComponentRule()
Piece = tuple[int, int]
"""Voxels of a component, and how many of them the reference has."""


def pieces(patient: str, *found: Piece, reference: int = 1000, drawn_in: int = 1, voxel: float = 1.0) -> Pieces:
    sizes = np.array(found, dtype=np.int64).reshape(-1, 2)
    return Pieces(patient, sizes[:, 0], sizes[:, 1], reference, drawn_in if reference else 0, voxel)


def test_crumbs_of_a_structure_in_one_piece_leave_the_largest_component() -> None:
    crumbs = [pieces("a", (900, 850), (40, 0), (7, 0)), pieces("b", (880, 870)), pieces("c", (950, 900), (3, 0))]
    assert fit_component_rule(crumbs) == LARGEST


def test_pieces_that_belong_to_the_structure_stay() -> None:
    several = [pieces(p, (500, 450), (400, 380), (3, 0), drawn_in=2) for p in "abc"]
    rule = fit_component_rule(several)
    # Round, and as far from the crumbs of 3 mm³ as from the pieces of 400.
    assert (rule.keep, rule.minimum_volume) == (Kept.ALL, 20.0)
    without_crumbs = [pieces(p, (500, 450), (400, 380), drawn_in=2) for p in "abc"]
    assert fit_component_rule(without_crumbs) == EVERYTHING


def test_a_structure_that_was_drawn_in_pieces_is_not_reduced_to_one() -> None:
    # The network misses the second piece as yet; of the largest component alone the Dice would be as high.
    several = [pieces(p, (600, 550), (3, 0), drawn_in=2) for p in "abc"]
    assert fit_component_rule(several).keep is Kept.ALL
    assert fit_component_rule(several).minimum_volume > 3


def test_volumes_are_in_cubic_millimetres() -> None:
    several = [pieces(p, (500, 450), (400, 380), (3, 0), drawn_in=2, voxel=27.0) for p in "abc"]
    least = fit_component_rule(several).minimum_volume
    assert 3 * 27 < least < 400 * 27
    assert least in {m * 10.0**k for m in (1, 2, 5) for k in range(6)}


def test_a_mean_that_one_patient_decides_is_not_enough() -> None:
    # Removing what is below 200 helps one patient more than it harms the two others together.
    helped, harmed = pieces("a", (500, 500), *[(150, 0)] * 9), [pieces(p, (800, 750), (180, 180)) for p in "bc"]
    means = [np.mean([own.dice(r) for own in (helped, *harmed)]) for r in (EVERYTHING, LARGEST)]
    assert means[1] > means[0] + 0.02
    assert fit_component_rule([helped, *harmed]) == EVERYTHING
    assert fit_component_rule([helped]) == LARGEST
    plain = {"a": 0.2, "b": 0.9, "c": 0.9}
    assert not is_better({"a": 0.9, "b": 0.8, "c": 0.8}, plain)
    assert not is_better({"a": 0.9, "b": 0.8, "c": 0.9}, plain)
    assert is_better({"a": 0.9, "b": 0.9, "c": 0.9}, plain)
    assert is_better({"a": 0.9, "b": 0.95, "c": 0.8}, plain)
    # More patients, but a lower mean.
    assert not is_better({"a": 0.25, "b": 0.95, "c": 0.2}, plain)
    assert not is_better(plain, plain)
    assert not is_better({}, {})


def test_cases_of_a_patient_count_once() -> None:
    one_patient = [pieces("a", (900, 850), (40, 0)), pieces("a", (900, 850), (40, 0)), pieces("a", (900, 850), (40, 0))]
    # The largest component is wrong in two others: two patients are lowered, one is raised, whatever its cases.
    others = [pieces(p, (500, 100), (490, 480), reference=1000) for p in "bc"]
    assert fit_component_rule([*one_patient, *others]).keep is Kept.ALL
    assert fit_component_rule(one_patient) == LARGEST


def test_what_was_found_of_an_absent_structure_is_removed() -> None:
    absent = [pieces(p, (20, 0), (9, 0), reference=0) for p in "ab"]
    present = [pieces(p, (900, 850)) for p in "cd"]
    rule = fit_component_rule([*absent, *present])
    assert rule.keep is Kept.ALL
    assert 20 < rule.minimum_volume <= 900
    assert [own.dice(rule) for own in (*absent, *present)][:2] == [1.0, 1.0]


def test_nothing_found_or_nothing_there_changes_nothing() -> None:
    assert fit_component_rule([]) == EVERYTHING
    assert fit_component_rule([pieces(p) for p in "abc"]) == EVERYTHING
    assert fit_component_rule([pieces(p, reference=0) for p in "abc"]) == EVERYTHING


def test_pieces_are_counted_on_the_masks() -> None:
    mask, reference = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    mask[1:4, 1:4, 1:4], mask[7, 7, 7] = True, True
    reference[2:5, 1:4, 1:4], reference[8, 0, 0] = True, True
    found = Pieces.of(mask, reference, 2.0, "p", Connectivity.CORNERS)
    assert (found.voxels.tolist(), found.correct.tolist()) == ([27, 1], [18, 0])
    assert (found.reference, found.reference_pieces) == (28, 2)
    assert found.dice(EVERYTHING) == pytest.approx(2 * 18 / (28 + 28))
    assert found.dice(LARGEST) == pytest.approx(2 * 18 / (27 + 28))


SHAPE = (20, 20, 20)


def case(number: int, *, crumb: float = 0.0, rim: float = 0.0, labels: Sequence[str] = ("blob",)) -> CalibrationCase:
    """A cube of 6 voxels in each class, predicted with certainty; a rim around it of so much probability, and a crumb.

    The rim belongs to the reference.
    """
    probability = np.zeros((len(labels), *SHAPE), np.float32)
    reference = np.zeros(SHAPE, np.int64)
    for k in range(len(labels)):
        outer = (slice(1 + 10 * k, 9 + 10 * k), slice(1, 9), slice(1, 9))
        inner = (slice(2 + 10 * k, 8 + 10 * k), slice(2, 8), slice(2, 8))
        probability[k][outer], probability[k][inner] = rim, 0.97
        probability[k, 3 + 10 * k, 17, 15 + number % 3] = crumb
        reference[outer if rim else inner] = k + 1
    mask = np.where(probability.max(0) > 0.5, probability.argmax(0) + 1, 0)
    return CalibrationCase(
        f"c{number}", f"p{number}", tuple(labels), (1.0, 1.0, 2.0), probability, mask, reference, None, None, 1
    )


OPTIONS = CalibrationOptions()


def test_the_fitted_reading_has_rules_for_classes_without_one() -> None:
    cases = [case(number, crumb=0.9, labels=("core", "rim")) for number in range(3)]
    declared = ReadingOptions(post_processing={"core": EVERYTHING})
    assert fitted_reading(declared, cases, OPTIONS).post_processing == {"core": EVERYTHING, "rim": LARGEST}
    assert fitted_reading(ReadingOptions(), cases, OPTIONS).post_processing == {"core": LARGEST, "rim": LARGEST}
    clean = [case(number) for number in range(3)]
    assert fitted_reading(ReadingOptions(), clean, OPTIONS).post_processing == {}


def test_the_mask_rule_is_fitted_only_where_that_is_asked_for() -> None:
    cases = [case(number, rim=0.46) for number in range(3)]
    for given in MaskRule:
        assert fitted_reading(ReadingOptions(mask=given), cases, OPTIONS).mask is given
        assert fitted_reading(ReadingOptions(mask=given), cases, OPTIONS, fit_mask=True).mask is MaskRule.EXPECTED_DICE
        # Without a rim, both masks are the same, and the simpler rule is taken.
        clean = [case(number) for number in range(3)]
        assert fitted_reading(ReadingOptions(mask=given), clean, OPTIONS, fit_mask=True).mask is MaskRule.MOST_PROBABLE
        assert fitted_reading(ReadingOptions(mask=given), [], OPTIONS, fit_mask=True).mask is given


def test_masks_are_compared_with_the_post_processing_that_fits_each() -> None:
    # Crumbs of .46 are in the mask of the best expected Dice alone, and outweigh its rim.
    cases = [case(number, rim=0.46) for number in range(3)]
    for own in cases:
        # Farther away than the band that the threshold is found in.
        own.probability[0, :8, 15:, :9] = own.probability[0, 12:, 15:, :9] = 0.46
    given = ReadMasks.of(ReadingOptions(mask=MaskRule.EXPECTED_DICE), cases)
    assert given.dice()["blob"] < ReadMasks.of(ReadingOptions(), cases).dice()["blob"]
    found = fit_masks(given, cases).reading
    assert (found.mask, found.post_processing) == (MaskRule.EXPECTED_DICE, {"blob": LARGEST})


def test_masks_are_made_under_the_temperature() -> None:
    cases = [case(number, rim=0.3) for number in range(3)]
    cold, warm = (
        ReadMasks.of(ReadingOptions(mask=MaskRule.EXPECTED_DICE, logit_temperature=t), cases).dice()["blob"]
        for t in (0.2, 4.0)
    )
    assert cold < 0.8 < warm


def test_the_correlation_is_that_of_what_is_kept() -> None:
    """Voxels of a crumb that is removed would be voxels in doubt of the volume."""
    declared = ReadingOptions(voxel_correlation=0.5, post_processing={"blob": LARGEST})
    cases = [case(number, rim=0.4) for number in range(4)]
    alone = fitted_reading(declared, cases, OPTIONS).voxel_correlation
    crumbs = [case(number, rim=0.4) for number in range(4)]
    for own in crumbs:
        own.probability[0, 14:18, 14:18, 14:18] = 0.8
    with_crumbs = [
        fitted_reading(reading, crumbs, OPTIONS)
        for reading in (declared, declared.model_copy(update={"post_processing": {"blob": EVERYTHING}}))
    ]
    assert with_crumbs[0].voxel_correlation == pytest.approx(alone, rel=0.1)
    assert with_crumbs[1].voxel_correlation != pytest.approx(alone, rel=0.1)

"""A brain mask that reaches into the scalp is suspect."""

from __future__ import annotations

import numpy as np
import pytest

from data.volume import Volume
from preprocessing.mask_rim import scalp_share
from preprocessing.skull_strip import SkullStrip, SkullStripOptions
from preprocessing.subject import Subject

SPACING = np.array([2.0, 2.0, 3.0])
SHAPE = (96, 104, 64)
BRAIN, SKULL, SCALP = 68.0, 74.0, 84.0
"""Outer radii in mm."""


def radius() -> np.ndarray:
    index = np.stack(np.indices(SHAPE), axis=-1) - (np.array(SHAPE) - 1) / 2
    return np.linalg.norm(index * SPACING, axis=-1)


def head(scalp: float = 900.0) -> Volume:
    """Brain of 300, dark skull, bright scalp, and bright lesions deep and at the edge of the brain."""
    r, rng = radius(), np.random.default_rng(0)
    array = np.select([r < BRAIN, r < SKULL, r < SCALP], [300.0, 40.0, scalp], 5.0)
    array += rng.normal(0, 15, SHAPE)
    for depth in (30, 62):
        centre = (np.array(SHAPE) - 1) / 2 + [depth / 2, 0, 0]
        distance = np.linalg.norm((np.stack(np.indices(SHAPE), axis=-1) - centre) * SPACING, axis=-1)
        array[(distance < 12) & (r < BRAIN)] = 800
    return Volume(array.astype(np.float32), np.diag([*SPACING, 1.0]))


def mask(outer: float, side: float = np.inf) -> np.ndarray:
    """The brain, and all up to a radius on one side of a plane at `side` mm."""
    r = radius()
    x = (np.indices(SHAPE)[0] - (SHAPE[0] - 1) / 2) * SPACING[0]
    return (r < BRAIN) | ((r < outer) & (x < side))


def test_the_mask_of_the_brain_holds_no_scalp_though_lesions_are_bright() -> None:
    assert scalp_share(head(), mask(BRAIN)) == 0
    assert scalp_share(head(), mask(SKULL)) < 0.02
    assert scalp_share(head(), mask(BRAIN - 6)) < 0.02


def test_a_mask_into_the_scalp_is_seen_and_part_of_one_is_too() -> None:
    assert scalp_share(head(), mask(SKULL + 5)) > 0.4
    assert 0.05 < scalp_share(head(), mask(SKULL + 5, side=-20)) < 0.4


def test_where_the_scalp_is_not_bright_nothing_is_said() -> None:
    assert scalp_share(head(scalp=250.0), mask(SKULL + 5)) == 0
    assert scalp_share(head(), np.zeros(SHAPE, bool)) == 0


@pytest.mark.parametrize(("outer", "told"), [(BRAIN, False), (SKULL + 5, True)])
def test_the_step_says_it_of_a_mask_that_came_with_the_case(outer: float, told: bool) -> None:
    image = head()
    subject = Subject("a", {"FLAIR": image}, mask=image.with_array(mask(outer).astype(np.uint8)))
    _, record = SkullStrip(SkullStripOptions()).apply(subject)
    assert any("may hold scalp" in reason for reason in record["suspect"]) == told
    assert (record["scalp_share"] > 0.05) == told

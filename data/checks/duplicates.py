"""Images that occur twice: exactly (by content), or nearly (rescans, two sides of one head)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data.checks.finding import Finding, Level
from data.checks.summary import CaseSummary

DUPLICATE_IMAGE, NEAR_DUPLICATE = "duplicate_image", "near_duplicate"
"""Names of the checks in findings."""

# OASIS rescans, whose pairs are known, reach ratios of .09 to .30; the next pairs .86 and more.
_SMALLEST_CORRELATION = 0.9
_LARGEST_RATIO = 0.4
_LARGEST_FAMILY = 4
# Fewer cases do not show what is usual.
_SMALLEST_COHORT = 5
_STEP_TOLERANCE = 5e-7


def check_duplicates(cases: Sequence[CaseSummary]) -> Iterator[Finding]:
    """The same voxels under two names: in two cases, or in two channels of one case."""
    holders: dict[str, list[tuple[CaseSummary, str]]] = defaultdict(list)
    for case in cases:
        for channel, digest in (case.content or {}).items():
            holders[digest].append((case, channel))
    for same in holders.values():
        (case, channel), *others = same
        for other, other_channel in others:
            if other.name == case.name:
                found = f"{channel} and {other_channel} hold the same voxels"
                fix = "find the file that belongs there"
                yield Finding(Level.ERROR, case.name, "duplicate_channel", found, fix)
                continue
            known = other.patient == case.patient
            found = f"{other_channel} holds the same voxels as {channel} of case {case.name!r}"
            found += " of the same patient" if known else f" of patient {case.patient!r}"
            fix = "remove one of the two cases" + (
                "" if known else ", or at least give them one patient in patients.csv"
            )
            yield Finding(Level.WARNING if known else Level.ERROR, other.name, DUPLICATE_IMAGE, found, fix)


def similar_pairs(similarity: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Finds pairs that are far more alike than either is to the rest of the cohort.

    The cases most similar to a case are close to it if the next one is 2.5 times as dissimilar. A pair is reported if
    each is close to the other. A threshold on the correlations `[N, N]` alone would depend on organ and sequence.
    """
    count = len(similarity)
    if count < _SMALLEST_COHORT:
        return []
    close: list[set[int]] = []
    for row in range(count):
        order = [int(i) for i in np.argsort(-similarity[row], kind="stable") if i != row]
        distance = 1.0 - similarity[row, order]
        family: set[int] = set()
        for size in range(1, min(_LARGEST_FAMILY, count - 1)):
            alike = similarity[row, order[size - 1]] >= _SMALLEST_CORRELATION
            if size < len(order) and alike and distance[size - 1] <= _LARGEST_RATIO * distance[size]:
                family = set(order[:size])
        close.append(family)
    return [(i, j) for i in range(count) for j in range(i + 1, count) if j in close[i] and i in close[j]]


def _resembling(cases: Sequence[CaseSummary]) -> Iterator[tuple[CaseSummary, CaseSummary, str]]:
    for step in sorted({case.thumbnail_step for case in cases if case.thumbnail is not None}):
        group = [case for case in cases if case.thumbnail is not None and case.thumbnail_step == step]
        pictures = np.stack([case.thumbnail for case in group if case.thumbnail is not None]).astype(np.float64)
        similarity = pictures @ pictures.T
        for i, j in similar_pairs(similarity):
            yield group[i], group[j], f"look alike (correlation {similarity[i, j]:.2f})"


def _same_step(cases: Sequence[CaseSummary]) -> Iterator[tuple[CaseSummary, CaseSummary, str]]:
    stepped = sorted((case.intensity_step, case.name, case) for case in cases if case.intensity_step is not None)
    families: list[list[tuple[float, CaseSummary]]] = []
    for step, _, case in stepped:
        if families and step - families[-1][-1][0] <= _STEP_TOLERANCE * step:
            families[-1].append((step, case))
        else:
            families.append([(step, case)])
    for family in families:
        if 2 <= len(family) <= _LARGEST_FAMILY:  # A step that many share comes from a site, not from a scan.
            for i, (step, case) in enumerate(family):
                for _, other in family[i + 1 :]:
                    yield case, other, f"have grey values in steps of {step:.6g}, which no other case has"


def check_near_duplicates(
    cases: Sequence[CaseSummary], splits: Mapping[str, Collection[str]] | None = None
) -> Iterator[Finding]:
    """Hints at cases of one patient that are not grouped: rescans, or two crops of one scan.

    A pair on two sides of a split is a warning.
    """
    side = {name: label for label, names in (splits or {}).items() for name in names}
    exact = {digest for case in cases for digest in (case.content or {}).values()}
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for first, second, reason in [*_resembling(cases), *_same_step(cases)]:
        shared = exact & set((first.content or {}).values()) & set((second.content or {}).values())
        if first.patient != second.patient and not shared:
            one, two = sorted((first.name, second.name))
            reasons[one, two].append(reason)
    for (one, two), why in sorted(reasons.items()):
        found = f"{one} and {two} may be scans of one patient: they {' and '.join(why)}"
        separated = one in side and two in side and side[one] != side[two]
        level = Level.WARNING if separated else Level.INFO
        found += f"; one is in {side[one]!r}, the other in {side[two]!r}" if separated else ""
        yield Finding(level, one, NEAR_DUPLICATE, found, "if they are, give them one patient in patients.csv")

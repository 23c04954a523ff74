"""Checks of the scale of grey values, of a case and of a cohort; the rule is that of `data.hounsfield`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from data.checks.finding import Finding, Level
from data.checks.observation import CaseObservation
from data.checks.summary import CaseSummary
from data.hounsfield import ValueScale, channel_modality, range_fault
from data.modality import Modality
from data.plain_number import plain_number

CHECK = "value_range"
_FEWEST, _MANY = 3, 4
"""A CT without air is odd among CTs with air if these are at least the first, and the second times as many."""


def check_value_range(case: CaseObservation) -> Iterator[Finding]:
    """The values of an image are not of the modality that the study, or the channel's name, gives it."""
    for name, volume in case.images.items():
        modality = channel_modality(name, case.modality)
        fault = None if modality is None else range_fault(volume.array, modality)
        if fault is not None:
            yield Finding(Level.WARNING, case.case.name, CHECK, f"{name}: {fault.text}", fault.fix)


def check_value_ranges(cases: Sequence[CaseSummary], modality: Modality | None) -> Iterator[Finding]:
    """Some cases hold Hounsfield units and others do not, though the channel is not declared as CT.

    Where the modality is known, each case is judged by itself (`check_value_range`). For CT one question remains that a
    single case cannot answer: whether it is a crop without air, or on a scale that makes air look like tissue.
    """
    for channel in dict.fromkeys(name for case in cases for name in case.scales):
        scales = {case.name: case.scales[channel] for case in cases if channel in case.scales}
        if (known := channel_modality(channel, modality)) is not None:
            yield from _airless(channel, scales) if known is Modality.CT else ()
            continue
        # All others are crops without air, which prove nothing.
        sound = [name for name, scale in scales.items() if scale.is_ct]
        others = {name: scale.fault for name, scale in scales.items() if scale.fault is not None}
        if not sound or not others:
            continue
        mostly_ct = 2 * len(sound) >= len(scales)
        for name, fault in others.items():
            if fault.is_ct or mostly_ct:
                found = f"{channel}: {fault.text}; {len(sound)} of the {len(scales)} cases hold Hounsfield units"
                # Another modality among CTs may be intended where none is declared; an offset never is.
                level = Level.WARNING if fault.is_ct else Level.INFO
                yield Finding(level, name, CHECK, found, fault.fix)
        if not mostly_ct:
            for name in sound:
                found = f"{channel}: looks like CT in Hounsfield units; {len(others)} of the {len(scales)} cases do not"
                yield Finding(Level.INFO, name, CHECK, found, "check that the case belongs to this dataset")


def _airless(channel: str, scales: Mapping[str, ValueScale]) -> Iterator[Finding]:
    """CTs without air among CTs with it: crops, or values clipped, divided or shifted by an unusual number."""
    sound = [name for name, scale in scales.items() if scale.is_ct]
    airless = {name: scale for name, scale in scales.items() if not scale.is_ct and scale.fault is None}
    if len(sound) < max(_FEWEST, _MANY * len(airless)):
        return
    for name, scale in airless.items():
        found = f"{channel}: the lowest value is {plain_number(scale.lowest)}, and {len(sound)} of the {len(scales)} "
        found += "cases hold air near -1,000"
        fix = "unless it is a crop within the body, check that the values are Hounsfield units and not clipped"
        yield Finding(Level.WARNING, name, CHECK, found, fix)

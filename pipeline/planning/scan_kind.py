"""The modality: told by Hounsfield units where there are any, else asked for."""

from __future__ import annotations

from collections.abc import Sequence

from data.dataset import Dataset
from data.errors import ConfigError
from data.hounsfield import channel_modality, looks_like_ct
from data.modality import Modality

_SCANS = 3
"""Scans that are read; all have to look like CT."""


def modality_of(
    dataset: Dataset, channels: Sequence[str], given: Modality | None, option: str, of_pack: Modality | None = None
) -> tuple[Modality, str]:
    """Returns the modality of a dataset, and how it is known.

    Args:
        dataset: the scans.
        channels: those that are used.
        given: what the command line says, which the checks compare with the values.
        option: the option that says it, for the error.
        of_pack: that of a source pack, taken where the scans do not tell; the checks look for signs against it.

    Raises:
        ConfigError: the scans do not tell.
        DataError: a scan cannot be read.
    """
    if given is not None:
        return given, f"as {option} says"
    if all(channel_modality(name, None) is Modality.CT for name in channels):
        return Modality.CT, "the channel is named CT"
    if all(looks_like_ct(case.channels[channels[0]].read().array) for case in dataset.cases[:_SCANS]):
        return Modality.CT, "the values are Hounsfield units with air"
    if of_pack is not None:
        return of_pack, "that of the source pack"
    raise ConfigError(
        f"{dataset.root}: the scans do not tell whether they show whole heads, skull-stripped brains or something else",
        expected=f"{option} mr_head (whole heads), mr_brain (skull-stripped), mr (any other MR) or ct",
        fix=f"add {option}",
    )

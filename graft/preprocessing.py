"""Preprocessing of one scan: `preprocess(image, "mr_brain")`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from data.errors import ConfigError
from data.label_map import as_brain_mask, as_label_map
from data.modality import Modality
from data.option_faults import fault_at
from data.shared_grid import place
from data.volume import Volume
from graft.images import Image, Images, given_channels, read_scan, volume_of
from pipeline.config.merging import merged
from pipeline.deployment.suspicion import chain_reasons
from preprocessing.chain import Chain, PreprocessingOptions, default_options
from preprocessing.step import Interpolation


@dataclass(frozen=True)
class Preprocessed:
    """A scan on the grid that a network takes.

    Attributes:
        channels: channel → volume, float32.
        mask: 1 in the brain or other content, uint8; None where no step makes one.
        label: the label map on the same grid, int16, if one was given.
        records: what each step did, JSON-able.
        warnings: implausible outcomes of steps; empty if there are none.
    """

    channels: dict[str, Volume]
    mask: Volume | None
    label: Volume | None
    records: list[dict[str, Any]]
    warnings: tuple[str, ...]
    _chain: Chain = field(repr=False)

    def to_scan(self, volume: Volume, *, label: bool = True) -> Volume:
        """Carries a volume from the preprocessed grid back to that of the raw scan's first channel.

        Args:
            volume: on the preprocessed grid.
            label: whether it is a label map or mask; otherwise values are interpolated linearly.

        Raises:
            PreprocessingError: the volume does not lie on the preprocessed grid.
        """
        return self._chain.invert(volume, self.records, Interpolation.NEAREST if label else Interpolation.LINEAR)


def preprocess(
    image: Images,
    modality: str = "mr",
    options: Mapping[str, Any] | None = None,
    *,
    label: Image | None = None,
    brain_mask: Image | None = None,
) -> Preprocessed:
    """Runs the preprocessing chain of a study on a scan.

    Args:
        image: a path, an image of nibabel or SimpleITK, a `Volume`, or a pair of array and affine; for several channels
            a mapping from channel to any of these; or a case of a study, whose label is ignored.
        modality: `mr`, `mr_brain` (skull-stripped), `mr_head` or `ct`; it sets the defaults of the chain.
        options: changes of these defaults, as under `preprocessing` in a configuration.
        label: a label map on the grid of one channel, which is processed as well.
        brain_mask: a ready-made brain mask on the grid of one channel, which skull-stripping then uses.

    Raises:
        ConfigError: the modality or an option is unknown.
        DataError: an image cannot be used.
        PreprocessingError: a step cannot be run.
    """
    if modality not in set(Modality):
        names = ", ".join(Modality)
        raise ConfigError(f"the modality {modality!r} is unknown", expected=f"one of {names}", fix="name one of these")
    defaults = default_options(Modality(modality)).model_dump(mode="json")
    try:
        chosen = PreprocessingOptions.model_validate(merged(defaults, dict(options or {})))
    except ValidationError as error:
        raise ConfigError(f"preprocessing: {fault_at(error)}", fix="see docs/reference/config.md") from error
    scan = read_scan(image, given_channels(image)).subject
    if label is not None:
        drawn = as_label_map(volume_of(label, "label"), "label")
        scan = replace(scan, label=place(drawn, scan.channels, "label").volume)
    if brain_mask is not None:
        made = as_brain_mask(volume_of(brain_mask, "brain mask"), "brain mask")
        scan = replace(scan, mask=place(made, scan.channels, "brain mask").volume)
    chain = Chain(chosen)
    done, records = chain.apply(scan)
    warnings = tuple(chain_reasons(records))
    return Preprocessed(dict(done.channels), done.mask, done.label, records, warnings, chain)

"""MONAI transforms of a bundle: Graft's preprocessing as far as it needs only the scan, and its inverse.

A bundle contains a copy of this file and of the steps, so that its volumes equal Graft's voxel by voxel. MONAI's own
resampling and percentiles differ in the last digits, and its grid by part of a voxel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from data.volume import Volume
from models.heads import Heads
from pipeline.prediction.dice_thresholds import MaskRule, mask_thresholds
from pipeline.prediction.native_mask import native_mask
from pipeline.prediction.post_processing import ComponentRule
from preprocessing.cropping import Cropping, CroppingOptions
from preprocessing.intensity import Intensity, IntensityOptions
from preprocessing.orientation import Orientation, OrientationOptions
from preprocessing.padding import Padding, PaddingOptions
from preprocessing.padding_removal import PaddingRemoval, PaddingRemovalOptions
from preprocessing.resampling import Resampling, ResamplingOptions
from preprocessing.step import Interpolation, Step
from preprocessing.subject import Subject

RECORDS = "graft_records"
"""Key of a case under which the records of the steps are kept, as JSON."""


def portable_steps(chain: Mapping[str, Any]) -> list[Step]:
    """Makes the steps of a chain that need no template, registration or brain mask, in the chain's order.

    Args:
        chain: step → its options; `None` is off.
    """
    make: dict[str, Callable[[Any], Step]] = {
        "padding_removal": lambda o: PaddingRemoval(PaddingRemovalOptions(**o)),
        "canonical_orientation": lambda o: Orientation(OrientationOptions(**o)),
        "resampling": lambda o: Resampling(ResamplingOptions(**o)),
        "intensity": lambda o: Intensity(IntensityOptions(**o)),
        "cropping": lambda o: Cropping(CroppingOptions(**o)),
        "padding": lambda o: Padding(PaddingOptions(**o)),
    }
    if unknown := set(chain) - set(make):
        raise ValueError(f"a bundle cannot run {', '.join(sorted(unknown))}")
    return [step(chain[name]) for name, step in make.items() if chain.get(name) is not None]


class ToNetworkGridd(MapTransform):
    """Applies the steps of the chain to raw scans `[C, X, Y, Z]`.

    Args:
        keys: of the scans.
        channels: number of channels.
        chain: step → its options.
    """

    def __init__(self, keys: Hashable | Sequence[Hashable], channels: int, chain: Mapping[str, Any]) -> None:
        super().__init__(keys)
        self.channels = channels
        self.steps = portable_steps(chain)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the case with its scans on the network's grid and the records of the steps."""
        found = dict(data)
        for key in self.keys:
            scan = found[key]
            if len(scan) != self.channels:
                raise ValueError(f"{scan.meta.get('filename_or_obj')}: {len(scan)} channels, not {self.channels}")
            affine = np.asarray(scan.affine.cpu(), dtype=np.float64)
            arrays = np.asarray(scan.cpu(), dtype=np.float32)
            volumes = {str(number): Volume(array, affine) for number, array in enumerate(arrays)}
            subject = Subject(str(key), volumes)
            records = []
            for step in self.steps:
                subject, record = step.apply(subject)
                records.append(record)
            found[key] = _tensor(subject.image(), subject.reference.affine, scan)
            found[RECORDS] = json.dumps(records)
        return found


class ToScanGridd(MapTransform):
    """Carries probabilities `[C, X, Y, Z]` to the grid of the input and makes the mask there.

    Args:
        keys: of the probabilities.
        chain: step → its options; empty if the input is already on the network's grid.
        values: value of each class in the mask, without the background's 0.
        rule: how the mask is made.
        components: options of what is kept of the components of each class; everything without any.
        heads: whether the classes exclude each other or overlap.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        chain: Mapping[str, Any],
        values: Sequence[int],
        rule: str,
        components: Sequence[Mapping[str, Any]] = (),
        heads: str = Heads.EXCLUSIVE,
    ) -> None:
        super().__init__(keys)
        self.steps = portable_steps(chain)
        self.values = tuple(values)
        self.rule = MaskRule(rule)
        self.components = tuple(ComponentRule(**own) for own in components)
        self.heads = Heads(heads)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the case with masks `[1, X, Y, Z]` in place of the probabilities."""
        found = dict(data)
        records = json.loads(found.get(RECORDS, "[]"))
        for key in self.keys:
            probability = found[key]
            affine = np.asarray(probability.affine.cpu(), dtype=np.float64)
            arrays = self.heads.foreground(np.asarray(probability.cpu()))
            spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
            thresholds = mask_thresholds(self.rule, arrays, spacing, self.heads)
            maps = (self._back(Volume(array, affine), records) for array in arrays)
            mask = native_mask(maps, self.values, thresholds, self.components, self.heads)
            found[key] = _tensor(mask.array[None], mask.affine, probability)
        return found

    def _back(self, volume: Volume, records: Sequence[dict[str, Any]]) -> Volume:
        for step, record in zip(reversed(self.steps), reversed(records), strict=True):
            volume = step.invert(volume, record, Interpolation.LINEAR)
        return volume


def _tensor(array: NDArray[Any], affine: NDArray[np.float64], like: MetaTensor) -> MetaTensor:
    """Puts an array on its grid; MONAI writes it unchanged if the original affine is the same."""
    meta = {
        "filename_or_obj": like.meta["filename_or_obj"],
        "spatial_shape": np.asarray(array.shape[1:]),
        "original_affine": np.array(affine),
    }
    return MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(np.array(affine)), meta=meta)

"""Skull-stripping: the brain mask of a raw head scan, made without downloaded weights, and judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from data.errors import PreprocessingError
from data.options import Options
from data.plain_number import plain_number, plain_span
from data.volume import Volume
from preprocessing.brain_extraction import SkullStripMethod, extract_brain
from preprocessing.content import content_mask
from preprocessing.external_brain_extraction import run_hd_bet, run_synthstrip
from preprocessing.grid import resample
from preprocessing.mask_rim import scalp_share
from preprocessing.step import Interpolation, Record, Step
from preprocessing.subject import Subject

_LEAST_PIECE = 0.98
"""Smallest share of a mask that its largest piece holds."""
_BOX_SHARES = (0.35, 0.75)
"""Shares of its bounding box that a brain fills: about half of it."""
_LEAST_METRIC = 0.28
"""Mutual information in nats that a registration of the template to a head reaches."""
_LARGEST_SCALP_SHARE = 0.05
"""Largest share of the mask's outer 6 mm that looks like scalp."""


class PlausibilityOptions(Options):
    """Volumes of brain masks that are not suspect; change them for children, animals or parts of a brain."""

    smallest_volume: float = Field(default=750.0, ge=0, description="Smallest volume of the mask, in ml.")
    largest_volume: float = Field(default=2300.0, gt=0, description="Largest volume of the mask, in ml.")


class SkullStripOptions(Options):
    """How the brain mask is made and judged."""

    method: SkullStripMethod = Field(default=SkullStripMethod.COMBINED, description="How the brain is found.")
    use_ready_mask: bool = Field(default=True, description="Use the case's own brain mask if it has one.")
    channel: str | None = Field(
        default=None, description="The channel that the mask is made from; the first by default."
    )
    rim: float = Field(
        default=1.2,
        ge=0,
        description="combined: log-odds added to both opinions; about as many mm of fluid are kept around the brain. "
        "Published masks differ in where they draw the edge, and brain that was cut off cannot be recovered.",
    )
    weights: Path | None = Field(default=None, description="Weights of the external program, if it needs a path.")
    plausibility: PlausibilityOptions = Field(default=PlausibilityOptions(), description="When a mask is suspect.")


class SkullStrip(Step[SkullStripOptions]):
    """Makes the brain mask. The image itself is kept: later steps use the mask and set the outside to 0."""

    name: ClassVar[str] = "skull_strip"

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Adds the mask on the reference's grid."""
        facts: dict[str, Any]
        if subject.mask is not None and self.options.use_ready_mask:
            mask, facts = _on_reference(subject.mask, subject.reference), {"method": "ready-made"}
            scalp = scalp_share(subject.reference, mask.array > 0)
        else:
            name = self.options.channel or subject.reference_name
            if name not in subject.channels:
                raise PreprocessingError(
                    f"case {subject.name} has no channel {name} to make the brain mask from",
                    expected=f"one of {', '.join(subject.channels)}",
                    fix="correct preprocessing.skull_strip.channel",
                )
            made, facts = self._extract(subject.channels[name])
            facts = {"method": self.options.method.value, "channel": name} | facts
            mask = _on_reference(made, subject.reference)
            scalp = scalp_share(subject.channels[name], made.array > 0)
        suspect = implausible(mask, self.options.plausibility)
        if (metric := facts.get("metric")) is not None and metric < _LEAST_METRIC:
            suspect.append(f"the template fits the head badly (mutual information {metric:.2f} nats)")
        suspect += facts.pop("suspect", [])
        if scalp > _LARGEST_SCALP_SHARE:
            found = f"{scalp:.0%} of its outer 6 mm is brighter than the brain and continues outside"
            suspect.append(f"the brain mask may hold scalp: {found}")
        facts["volume_ml"] = float(mask.array.sum()) * mask.voxel_volume / 1000
        facts["scalp_share"] = scalp
        return replace(subject, mask=mask), self.record(suspect, **facts)

    def _extract(self, volume: Volume) -> tuple[Volume, dict[str, Any]]:
        if self.options.method is SkullStripMethod.CONTENT:
            return volume.with_array(content_mask(volume).astype(np.uint8)), {}
        if self.options.method is SkullStripMethod.HD_BET:
            return run_hd_bet(volume, self.options.weights), {}
        if self.options.method is SkullStripMethod.SYNTHSTRIP:
            return run_synthstrip(volume, self.options.weights), {}
        return extract_brain(volume, self.options.method, self.options.rim)


def implausible(mask: Volume, limits: PlausibilityOptions) -> list[str]:
    """Returns the reasons why a mask cannot be a whole brain; none if it can."""
    inside: NDArray[np.bool_] = mask.array > 0
    if not inside.any():
        return ["the brain mask is empty"]
    reasons = []
    millilitres = float(inside.sum()) * mask.voxel_volume / 1000
    if not limits.smallest_volume <= millilitres <= limits.largest_volume:
        usual = plain_span(limits.smallest_volume, limits.largest_volume)
        reasons.append(f"the brain mask has a volume of {plain_number(millilitres)} ml; {usual} ml is plausible")
    pieces, count = ndimage.label(inside)
    share = float(np.bincount(pieces.ravel())[1:].max() / inside.sum())
    if share < _LEAST_PIECE:
        reasons.append(f"the brain mask is in {count} pieces, the largest of which holds {share:.0%}")
    box = ndimage.find_objects(inside.astype(np.int8))[0]
    filled = float(inside[box].mean())
    if not _BOX_SHARES[0] <= filled <= _BOX_SHARES[1]:
        reasons.append(f"the brain mask fills {filled:.0%} of its bounding box")
    return reasons


def _on_reference(mask: Volume, reference: Volume) -> Volume:
    mask = mask.with_array((mask.array > 0).astype(np.uint8))
    if mask.same_grid(reference):
        return mask
    return resample(mask, reference.shape, reference.affine, Interpolation.NEAREST)

"""What a source pack decides of a plan: grid, patches and chain are those that its networks know, where they can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.case import Case
from data.modality import Modality
from pipeline.packs.pack_record import PackRecord
from pipeline.planning.fingerprint import Structures
from pipeline.planning.grid_dice import best_dice
from pipeline.planning.spacing import Spacing
from pipeline.training.patches import PatchOptions
from preprocessing.chain import PreprocessingOptions, default_options

_FOREGROUND_SHARE = 0.5
"""Share of the patches that are centred on a structure, where a patch does not show the whole scan."""


def grid_of_pack(
    pack: PackRecord, own: Spacing, why_own: str, cases: Sequence[Case], structures: Structures
) -> tuple[Spacing, str, str | None]:
    """Returns the pack's grid unless it is too coarse for a structure of the target and the target's own is finer.

    Args:
        pack: the source.
        own: spacing in mm that the target's scans suggest.
        why_own: why they do.
        cases: annotated ones that are looked at.
        structures: what is segmented.

    Returns:
        mm along each axis, why, and what is lost where it is not the pack's.
    """
    chain = pack.preprocessing.resampling
    theirs = pack.source.spacing if chain is None else chain.spacing
    shown = _shown(theirs)
    reachable, possible = (best_dice(cases, structures, spacing) for spacing in (theirs, own))
    lacking = [name for name, dice in reachable.items() if dice.too_coarse and possible[name].median > dice.median]
    if not lacking:
        return theirs, "that of the source pack's networks", None
    worst = min(lacking, key=lambda name: reachable[name].median)
    lost = (
        f"the source pack's networks see {shown} mm, on which {worst} could reach a Dice of "
        f"{reachable[worst].median:.3f} at most; the grid is the target's own, {_shown(own)} mm, and what was learned "
        "on the other one may not transfer"
    )
    return own, f"{why_own}, because that of the source pack, {shown} mm, is too coarse for {worst}", lost


def patches_of_pack(pack: PackRecord, scan: Sequence[int]) -> tuple[PatchOptions, bool]:
    """Returns the pack's patches, and whether one shows a whole scan of so many voxels."""
    whole = all(side <= patch for side, patch in zip(scan, pack.patches.size, strict=True))
    share = pack.patches.foreground_share if whole else max(pack.patches.foreground_share, _FOREGROUND_SHARE)
    return pack.patches.model_copy(update={"foreground_share": share}), whole


def planned_chain(pack: PackRecord | None, modality: Modality) -> PreprocessingOptions:
    """Returns the chain of the target but for its grid: the pack's for scans of its modality, else the default one."""
    return pack.preprocessing if pack is not None and pack.modality is modality else default_options(modality)


def chain_changes(chain: PreprocessingOptions, modality: Modality) -> dict[str, Any]:
    """Step → what a chain has otherwise than the default one of a modality, but for the grid."""
    usual, found = (options.model_dump(mode="json") for options in (default_options(modality), chain))
    return {
        step: _changes(usual[step], own) for step, own in found.items() if step != "resampling" and own != usual[step]
    }


def outside_window(chain: PreprocessingOptions, foreground: tuple[float, float]) -> str | None:
    """Says that structures have Hounsfield units which the window of a CT's chain cuts off, where they have."""
    window = chain.intensity
    if window is None or (foreground[0] >= window.window_low and foreground[1] <= window.window_high):
        return None
    return (
        f"the structures have {foreground[0]:.0f} to {foreground[1]:.0f} HU, and the source pack's window from "
        f"{window.window_low:.0f} to {window.window_high:.0f} HU cuts some of it off"
    )


def scan_voxels(extent: NDArray[np.float64], grid: Spacing) -> tuple[int, ...]:
    """Voxels of a scan of a size in mm."""
    return tuple(np.maximum(1, np.rint(extent / np.asarray(grid))).astype(int).tolist())


def _changes(usual: Any, found: Any) -> Any:
    if not isinstance(usual, dict) or not isinstance(found, dict):
        return found
    return {key: _changes(usual.get(key), own) for key, own in found.items() if own != usual.get(key)}


def _shown(spacing: Spacing) -> str:
    return " × ".join(f"{side:g}" for side in spacing)

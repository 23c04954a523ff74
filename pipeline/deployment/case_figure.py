"""The picture of a predicted case: three planes through its largest piece, and the whole field of view.

The upper rows show the scan and the entropy around the structure. The last row shows the whole field of view with the
mask of all slices as a shadow, so that distant findings, right or wrong, are visible. A scan that is unlike those of
the training has a row more: how unlike each place is, in the slices where that is largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data.plain_number import plain_number
from data.volume import Volume
from pipeline.evaluation.dice_fit import DiceEstimate
from pipeline.report.overlay_figure import PLANES, Scene, shadow_figure, slice_figure

_DPI = 110
_INCHES = 2.6
_MARGIN = 25.0
_WHOLE = 1e6
"""Margin in mm that shows the whole field of view."""
_WARNING = "#ffb000"
_ROWS = "rows: scan; predictive entropy; {}whole field of view with the mask of all slices"
_UNLIKENESS = "how unlike the training scans each place is; "


def draw_case(
    path: Path,
    image: Volume,
    mask: Volume,
    entropy: Volume,
    largest: float,
    structures: Mapping[str, Mapping[str, Any]],
    reasons: Sequence[str],
    unlikeness: Volume | None = None,
) -> None:
    """Writes the picture: the scan above, the entropy below, the contour of the mask on both.

    Args:
        path: the PNG.
        image: the scan.
        mask: label map on the same grid.
        entropy: nats, on the same grid.
        largest: nats; the entropy is drawn as a share of it, its largest value.
        structures: class → its numbers, for the headline.
        reasons: why the case is suspect.
        unlikeness: how unlike the training scans each place is, on the same grid, of a scan that is.
    """
    nothing = np.broadcast_to(np.zeros((), dtype=np.uint8), mask.shape)
    share = entropy.array / np.float32(largest)
    scene = Scene.oriented(image.array, nothing, mask.array, share, image.affine)
    rows = [
        [_tile(slice_figure(scene, plane, _MARGIN, entropy=below, inches=_INCHES)) for plane in PLANES]
        for below in (False, True)
    ]
    if unlikeness is not None:
        rows.append(_unlike(image, nothing, mask, unlikeness))
    rows.append([_tile(shadow_figure(scene, plane, inches=_INCHES)) for plane in PLANES])
    tiles = np.vstack([np.hstack(row) for row in rows])
    headline, warnings = _texts(
        path.stem.removesuffix("_desc-graft_dseg"), structures, reasons, _UNLIKENESS if unlikeness is not None else ""
    )
    height, width = tiles.shape[0] / _DPI, tiles.shape[1] / _DPI
    room = 0.2 * (len(headline) + len(warnings)) + 0.15
    figure = Figure(figsize=(width, height + room), facecolor="black")
    FigureCanvasAgg(figure)
    figure.figimage(tiles, 0, 0, origin="upper")
    for line, (text, colour) in enumerate([(t, "white") for t in headline] + [(t, _WARNING) for t in warnings]):
        top = 1 - (0.12 + 0.2 * line) / (height + room)
        figure.text(0.1 / width, top, text, color=colour, fontsize=8, va="top", parse_math=False)
    figure.savefig(path, dpi=_DPI, facecolor="black", metadata={"Software": None})


def _unlike(image: Volume, nothing: Any, mask: Volume, unlikeness: Volume) -> list[Any]:
    """The tiles of the places that are most unlike the training scans, as a share of the most unlike one."""
    share = unlikeness.array / max(float(unlikeness.array.max()), 1e-12)
    scene = Scene.oriented(image.array, nothing, mask.array, share.astype(np.float32), image.affine)
    through = np.array(np.unravel_index(np.argmax(scene.entropy), scene.entropy.shape))
    return [
        _tile(slice_figure(scene, plane, _WHOLE, entropy=True, through=through, inches=_INCHES)) for plane in PLANES
    ]


def _tile(figure: Figure) -> Any:
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _texts(
    case: str, structures: Mapping[str, Mapping[str, Any]], reasons: Sequence[str], more_rows: str
) -> tuple[list[str], list[str]]:
    """The headline and the warnings, in lines that fit."""
    parts = [case]
    for name, own in structures.items():
        dice = DiceEstimate(**own["dice"]).words(suspect=bool(reasons)) if own["dice"] else ""
        parts.append(f"{name} {plain_number(own['volume_ml'])} ml" + (f", {dice}" if dice else ""))
    headline = wrap("   ".join(parts) + f"   ({_ROWS.format(more_rows)})", 125)
    return headline, [line for reason in reasons for line in wrap(f"LOOK: {reason}", 125)]

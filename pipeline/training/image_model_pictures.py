"""Pictures of what an image model makes of scans, as numbers: written at the end of its training for the report.

All are the middle slice of the window in the middle of a scan, so that they cost one pass each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.image_models.image_model import ImageModel
from models.latent_walks import by_use, straight_line, walks_along_axes
from pipeline.storage.cached_image import FOREGROUND, CachedImage
from pipeline.storage.tensors import save_tensors

PICTURES = "pictures.safetensors"
"""Tensors `[S, X, Y]`: `original`, `shown` and `reconstructed` slices of the first channel of S scans. Of a variational
model also `traversal` `[A, P, X, Y]`, P points along each of the A axes of its latent in most use, and `interpolation`
`[P, X, Y]`, between the first two scans."""
_SCANS, _POINTS, _AXES, _REACH = 3, 5, 6, 2.0


@torch.no_grad()
def write_pictures(
    folder: Path,
    model: ImageModel,
    scans: Sequence[CachedImage],
    patch: Sequence[int],
    generator: torch.Generator,
    device: torch.device,
) -> None:
    """Computes the pictures of a model in evaluation mode, of the first scans of different patients."""
    chosen = list({scan.patient: scan for scan in reversed(scans)}.values())[::-1][:_SCANS]
    windows, found = [_middle(scan, patch, device) for scan in chosen], dict[str, list[Tensor]]()
    for image, foreground in windows:
        shown, _ = model.corrupted(image, foreground, generator)
        for name, own in (("original", image), ("shown", shown), ("reconstructed", model(shown))):
            found.setdefault(name, []).append(_slice(own))
    tensors = {name: torch.stack(slices) for name, slices in found.items()}
    about: dict[str, Any] = {"scans": [scan.name for scan in chosen]}
    if model.normal is not None:
        walks, latent = _walks(model, [image for image, _ in windows])
        tensors |= walks
        about |= latent
    save_tensors(folder / PICTURES, tensors, about)


def _walks(model: ImageModel, images: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Decoded walks through the latent, which start at the first image; an axis is a channel, moved everywhere."""
    codes = [model.code(image)[0] for image in images]
    columns = torch.cat([code.flatten(1) for code in codes], dim=1)
    activity = columns.var(1, correction=0)
    axes = by_use(activity)[:_AXES]
    grid = torch.linspace(-_REACH, _REACH, _POINTS, device=columns.device)
    points = walks_along_axes(codes[0], activity.sqrt(), axes, grid)
    like = images[0]
    walked = torch.stack([torch.stack([_slice(model.decode(own[None], like)) for own in row]) for row in points])
    shares = torch.linspace(0, 1, _POINTS, device=columns.device)
    line = straight_line(codes[0], codes[min(1, len(codes) - 1)], shares)
    between = torch.stack([_slice(model.decode(own[None], like)) for own in line])
    about = {
        "axes": axes.tolist(),
        "activity": activity.double().tolist(),
        "grid": grid.tolist(),
        "shares": shares.tolist(),
    }
    return {"traversal": walked, "interpolation": between}, about


def _middle(scan: CachedImage, patch: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Image `[1, C, *patch]` and foreground `[1, *patch]` of the window in the middle."""
    start = (np.asarray(scan.shape) - np.asarray(patch)) // 2
    image, codes = scan.patch(start, patch)
    return image[None].to(device), (codes == FOREGROUND)[None].to(device)


def _slice(images: Tensor) -> Tensor:
    """The middle slice of the first channel of the first image."""
    return images[0, 0, :, :, images.shape[-1] // 2].float().cpu()

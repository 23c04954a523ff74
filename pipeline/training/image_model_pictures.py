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
from pipeline.storage.file_names import PICTURES
from pipeline.storage.tensors import save_tensors

_SCANS, _ENCODED = 3, 32
_POINTS, _AXES, _REACH = 5, 6, 2.0


@torch.no_grad()
def write_pictures(
    folder: Path,
    model: ImageModel,
    scans: Sequence[CachedImage],
    patch: Sequence[int],
    generator: torch.Generator,
    device: torch.device,
) -> None:
    """Computes the pictures of a model in evaluation mode, of the first scans of different patients.

    They are tensors `[S, X, Y]`: `original`, `shown` and `reconstructed` slices of the first channel of S scans. Of a
    variational model also `traversal` `[A, P, X, Y]`, P points along each of A principal axes of the encodings, and
    `interpolation` `[P, X, Y]`, between the first two scans.
    """
    everyone = list({scan.patient: scan for scan in reversed(scans)}.values())[::-1]
    chosen, found = everyone[:_SCANS], dict[str, list[Tensor]]()
    for scan in chosen:
        image, foreground = _middle(scan, patch, device)
        shown, _ = model.corrupted(image, foreground, generator)
        for name, own in (("original", image), ("shown", shown), ("reconstructed", model(shown))):
            found.setdefault(name, []).append(_slice(own))
    tensors = {name: torch.stack(slices) for name, slices in found.items()}
    about: dict[str, Any] = {"scans": [scan.name for scan in chosen]}
    if model.normal is not None:
        walks, latent = _walks(model, [_middle(scan, patch, device)[0] for scan in everyone[:_ENCODED]])
        tensors |= walks
        about |= latent
    save_tensors(folder / PICTURES, tensors, about)


def _walks(model: ImageModel, images: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Decoded walks through the latent: along the principal axes of the encodings, and from the first to the second.

    A single channel says little: moved everywhere by the same amount, it is removed by the norms of the decoder.
    """
    codes, like = torch.stack([model.code(image)[0] for image in images]), images[0]
    flat = codes.flatten(1)
    mean = flat.mean(0)
    _, lengths, directions = torch.linalg.svd(flat - mean, full_matrices=False)
    variances = lengths.square() / len(flat)
    axes = by_use(variances)[: min(_AXES, len(flat) - 1)]
    grid = torch.linspace(-_REACH, _REACH, _POINTS, device=flat.device)
    shares = torch.linspace(0, 1, _POINTS, device=flat.device)
    points = walks_along_axes(torch.zeros_like(variances), variances.sqrt(), axes, grid) @ directions + mean
    line = straight_line(codes[0], codes[min(1, len(codes) - 1)], shares)

    def decoded(latents: Tensor) -> Tensor:
        return torch.stack([_slice(model.decode(own.reshape(1, *codes.shape[1:]), like)) for own in latents])

    tensors = {"interpolation": decoded(line)}
    if len(axes):
        tensors["traversal"] = torch.stack([decoded(row) for row in points])
    about = {
        "encoded": len(images),
        "explained": (variances[axes] / variances.sum().clamp_min(1e-12)).tolist(),
        "activity": codes.movedim(1, 0).flatten(1).var(1, correction=0).tolist(),
        "grid": grid.tolist(),
        "shares": shares.tolist(),
    }
    return tensors, about


def _middle(scan: CachedImage, patch: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Image `[1, C, *patch]` and foreground `[1, *patch]` of the window in the middle."""
    start = (np.asarray(scan.shape) - np.asarray(patch)) // 2
    image, codes = scan.patch(start, patch)
    return image[None].to(device), (codes == FOREGROUND)[None].to(device)


def _slice(images: Tensor) -> Tensor:
    """The middle slice of the first channel of the first image."""
    return images[0, 0, :, :, images.shape[-1] // 2].float().cpu()

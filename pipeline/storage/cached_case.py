"""A preprocessed case for training and prediction: tensors on disk, read patch by patch.

Needs neither SimpleITK nor nilearn, so a workspace can be carried to a machine that has only torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from safetensors import safe_open

from models.heads import IGNORED, Heads
from pipeline.storage.digest import array_digest, digest
from pipeline.storage.tensors import load_about

ARRAYS = "arrays.safetensors"
IMAGE_DIGEST = "image_sha256"
"""Key of the image's digest in the description of the arrays."""
SCAN_BOX = "scan"
"""Key of the box of voxels that preprocessing did not add, where it padded: first and end along each axis."""


@dataclass(frozen=True)
class PatchPart:
    """What of a patch lies inside a volume.

    Attributes:
        box: of the volume's arrays.
        pads: voxels that the patch adds at the beginning and the end of each axis, the last axis first.
    """

    box: tuple[slice, ...]
    pads: list[int]


@dataclass(frozen=True)
class CachedCase:
    """One case of the workspace.

    Attributes:
        name: the case.
        patient: whose scan it is.
        folder: the folder of its preprocessing unit.
        classes: class name → values in the label map; class number k (from 1) is the k-th name.
        ignored: values of voxels without annotation.
    """

    name: str
    patient: str
    folder: Path
    classes: Mapping[str, Sequence[int]]
    ignored: Sequence[int] = ()

    @cached_property
    def heads(self) -> Heads:
        """What the channels of a network for these classes stand for, and the codes of the label."""
        return Heads.of(self.classes)

    @property
    def path(self) -> Path:
        """The file of its arrays."""
        return self.folder / ARRAYS

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        with safe_open(self.path, framework="numpy") as stream:
            return tuple(stream.get_slice("image").get_shape()[1:])

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """`[4, 4]`, voxels of the preprocessed grid to RAS+ mm."""
        return np.asarray(load_about(self.path)["affine"], dtype=np.float64)

    @cached_property
    def image_digest(self) -> str:
        """Digest of the image and its grid, without the label: of what a prediction depends on."""
        about = load_about(self.path)
        # Arrays written by an earlier version do not have it.
        image = about.get(IMAGE_DIGEST) or array_digest(self.image().numpy())
        return digest({"image": image, "affine": about["affine"]})

    @property
    def spacing(self) -> NDArray[np.float64]:
        """`[3]` mm between voxel centres."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def channels(self) -> int:
        """Number of image channels."""
        with safe_open(self.path, framework="numpy") as stream:
            return int(stream.get_slice("image").get_shape()[0])

    def image(self) -> torch.Tensor:
        """Reads the whole image, `[C, X, Y, Z]` float32."""
        with safe_open(self.path, framework="pt") as stream:
            return stream.get_tensor("image")

    @cached_property
    def scan(self) -> tuple[slice, slice, slice]:
        """The part of the arrays that is the scan; around it lies what preprocessing padded."""
        x, y, z = load_about(self.path).get(SCAN_BOX) or [(0, n) for n in self.shape]
        return slice(*x), slice(*y), slice(*z)

    def label(self) -> torch.Tensor:
        """Reads the whole label map as codes of `heads`, `[X, Y, Z]` int64, 0 for background.

        What padding added around the scan is not annotated.
        """
        return self._codes(tuple(slice(0, n) for n in self.shape))

    def mask(self) -> torch.Tensor:
        """Reads the mask of the patient's content in the scan, `[X, Y, Z]` bool."""
        with safe_open(self.path, framework="pt") as stream:
            return stream.get_tensor("mask") > 0

    def _codes(self, box: tuple[slice, ...]) -> torch.Tensor:
        """Reads the codes in a box of the arrays."""
        with safe_open(self.path, framework="numpy") as stream:
            label = stream.get_slice("label")[box]
        return self._annotated(self.heads.codes(label, self.classes, self.ignored), box)

    def _annotated(self, codes: NDArray[np.int64], box: tuple[slice, ...]) -> torch.Tensor:
        """Takes the annotation from what padding added around the scan."""
        for axis, (part, scan) in enumerate(zip(box, self.scan, strict=True)):
            index = np.arange(part.start, part.stop)
            np.moveaxis(codes, axis, 0)[(index < scan.start) | (index >= scan.stop)] = IGNORED
        return torch.from_numpy(codes)

    @property
    def annotated_voxels(self) -> int:
        """Number of voxels that count in a loss."""
        if not self.ignored:
            return math.prod(own.stop - own.start for own in self.scan)
        return int(np.count_nonzero(self.label().numpy() != IGNORED))

    @cached_property
    def foreground(self) -> NDArray[np.int32]:
        """`[M, 3]` indices of the foreground voxels."""
        return np.argwhere(self.label().numpy() > 0).astype(np.int32)

    def patch(self, start: NDArray[np.integer], size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads a patch that begins at `start`; it may reach beyond the volume.

        Outside the volume, the image repeats its edge. Nothing outside the scan is annotated, be it padding of the
        patch or of preprocessing: it counts neither in a loss nor in N_vox.

        Returns:
            Image `[C, *size]` float32, codes `[*size]` int64.
        """
        part = self.part(start, size)
        label = functional.pad(self._codes(part.box), part.pads, value=IGNORED)
        return self.image_patch(part), label

    def part(self, start: NDArray[np.integer], size: Sequence[int]) -> PatchPart:
        """The part of the volume that a patch which begins at `start` takes from it."""
        low = np.clip(start, 0, np.asarray(self.shape) - 1)
        high = np.clip(np.asarray(start) + size, low + 1, self.shape)
        before = low - start
        after = np.asarray(size) - before - (high - low)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        # torch pads the last axis first.
        return PatchPart(box, [int(n) for axis in (2, 1, 0) for n in (before[axis], after[axis])])

    def image_patch(self, part: PatchPart) -> torch.Tensor:
        """Reads the image of a patch, `[C, *size]` float32; outside the volume it repeats the edge."""
        with safe_open(self.path, framework="pt") as stream:
            image: torch.Tensor = stream.get_slice("image")[(slice(None), *part.box)]
        return functional.pad(image[None], part.pads, mode="replicate")[0] if any(part.pads) else image

    def in_scan(self, part: PatchPart) -> torch.Tensor:
        """Whether the voxels of a patch are of the scan, `[*size]` bool, and not added by padding."""
        inside = torch.ones([own.stop - own.start for own in part.box], dtype=torch.bool)
        for axis, (own, scan) in enumerate(zip(part.box, self.scan, strict=True)):
            index = torch.arange(own.start, own.stop)
            inside.movedim(axis, 0)[(index < scan.start) | (index >= scan.stop)] = False
        return functional.pad(inside, part.pads, value=False)

"""A preprocessed case as an image and its foreground, for what learns without labels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional
from safetensors import safe_open

from pipeline.storage.cached_case import CachedCase, PatchPart

FOREGROUND = 1
"""Code of a voxel of the patient's content in the scan; 0 is what lies around it."""


class CachedImage(CachedCase):
    """A case whose codes say what is foreground. Its label is never read, and it need not have one."""

    @classmethod
    def of(cls, case: CachedCase) -> CachedImage:
        """The image of a case."""
        return cls(case.name, case.patient, case.folder, {"foreground": (FOREGROUND,)})

    def _codes(self, box: tuple[slice, ...]) -> torch.Tensor:
        """Reads the foreground in a box of the arrays; what padding added around the scan is neither."""
        with safe_open(self.path, framework="numpy") as stream:
            codes = (stream.get_slice("mask")[box] > 0).astype(np.int64)
        return self._annotated(codes, box)

    def content_patch(self, part: PatchPart) -> torch.Tensor:
        """Reads where content is in a patch, `[*size]` bool; outside the volume it repeats the edge, like images."""
        with safe_open(self.path, framework="pt") as stream:
            content: torch.Tensor = (stream.get_slice("mask")[part.box] > 0).float()
        return functional.pad(content[None, None], part.pads, mode="replicate")[0, 0] > 0

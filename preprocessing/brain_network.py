"""The brain network: a small U-Net that finds the brain in a head of any contrast, with weights that ship with Graft.

The weights come from `preprocessing/train_brain_network.py`, which trains on random heads only.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from data.errors import PreprocessingError
from data.torch_threads import torch_threads
from data.volume import Volume
from preprocessing.content import largest_component
from preprocessing.grid import coarse, resample
from preprocessing.step import Interpolation

if TYPE_CHECKING:
    import torch

WEIGHTS = Path(__file__).parent / "weights" / "brain_network.safetensors"
SPACING = 4.0
"""Voxel size in mm that the network sees."""
FEATURES = (8, 16, 32, 64, 64, 8)
_MULTIPLE = 16
_AIR = 2
"""Fewest voxels of air on each side: a head that touches the edge of its field of view is found less well without."""


def build_network() -> torch.nn.Module:
    """Builds the untrained network: `[N, 1, X, Y, Z]` in, logits of the same shape out; sizes are multiples of 16."""
    from monai.networks.nets import BasicUNet

    return BasicUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        features=FEATURES,
        norm=("instance", {"affine": True}),
        upsample="nontrainable",
    )


@lru_cache(maxsize=2)
def load_network(path: Path = WEIGHTS) -> torch.nn.Module:
    """Loads the trained network.

    Raises:
        PreprocessingError: the weights are missing or of another network.
    """
    import torch
    from safetensors.torch import load_file

    if not path.exists():
        raise PreprocessingError(
            f"the weights {path} are missing", fix="make them with python -m preprocessing.train_brain_network"
        )
    network = build_network()
    try:
        network.load_state_dict({name: value.to(torch.float32) for name, value in load_file(path).items()})
    except RuntimeError as error:
        raise PreprocessingError(f"{path} does not fit the network", expected=f"features {FEATURES}") from error
    return network.eval()


def save_network(network: torch.nn.Module, path: Path, facts: dict[str, Any]) -> None:
    """Writes the weights in half precision, with how they were made as one key of sorted JSON."""
    import torch
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().to(torch.float16).contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, path, metadata={"graft": json.dumps(facts, sort_keys=True)})


def brain_logits(volume: Volume, network: torch.nn.Module) -> Volume:
    """Returns the network's logits `[X, Y, Z]` on a world-aligned 4 mm grid around a head scan."""
    import torch

    from preprocessing.random_heads import normalised

    small = coarse(volume, SPACING)
    # Instance normalisation needs more than one voxel at the coarsest level.
    room = [max(2 * _AIR + (-n - 2 * _AIR) % _MULTIPLE, 2 * _MULTIPLE - n) for n in small.shape]
    width = [(r // 2, r - r // 2) for r in room]
    # The network takes a second with one thread.
    with torch_threads(1), torch.inference_mode():
        image = normalised(torch.from_numpy(small.array)[None])[0].numpy()
        padded = torch.from_numpy(np.pad(image, width))[None, None]
        # A head is nearly symmetric: the mirrored scan is a second opinion.
        logits = (network(padded) + network(padded.flip(2)).flip(2))[0, 0].numpy() / 2
    inner = tuple(slice(low, low + n) for (low, _), n in zip(width, small.shape, strict=True))
    return small.with_array(np.ascontiguousarray(logits[inner]))


def mask_from_logits(logits: Volume, grid: Volume) -> Volume:
    """Returns the brain mask uint8 on a volume's grid: logits above 0, the largest piece, holes filled."""
    brain = largest_component(ndimage.binary_opening(logits.array > 0))
    near = ndimage.binary_dilation(brain, iterations=2)
    kept = logits.with_array(np.where(near, logits.array, np.float32(-10.0)))
    fine = resample(kept, grid.shape, grid.affine, Interpolation.LINEAR, fill=-10.0, antialias=False)
    return grid.with_array(ndimage.binary_fill_holes(fine.array > 0).astype(np.uint8))

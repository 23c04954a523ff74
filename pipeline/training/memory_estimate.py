"""Estimates the memory of a training before it starts, and finds a setting that fits.

The network runs one step at the size of its patches on the meta device, where tensors have shapes but no data, while
`LiveMemory` tracks the live tensors. So activations, backward gradients and the tensors of the loss are counted, not
guessed, without the memory or time of a real step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from data.errors import TrainingError
from models.deep_supervision import DeepSupervisionLoss
from models.networks.factory import NetworkOptions, NetworkRecord, coarsest_factors, meta_network
from models.networks.imported_network import run_without_values
from models.objectives import SegmentationLoss
from pipeline.training.computing import Precision
from pipeline.training.live_memory import LiveMemory
from pipeline.training.patches import PatchOptions

_ADAM_STATES = 2
_LARGE_BLOCK = 1 << 25


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of a training, in addition to the process itself.

    Attributes:
        parameters: weights; their gradients take as much, the two moments of AdamW twice as much.
        activations: largest amount that forward, loss and backward hold at any time.
        workspace: copies made by the kernels of the largest convolution, and holes in the heap.
        record: the network.
        patches: the estimated setting.
        precision: of the forward and backward passes.
        device: where it will train.
    """

    parameters: int
    activations: int
    workspace: int
    record: NetworkRecord
    patches: PatchOptions
    precision: Precision
    device: str

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the patches."""
        return (2 + _ADAM_STATES) * self.parameters

    @property
    def total(self) -> int:
        """All bytes."""
        return self.fixed + self.activations + self.workspace

    def describe(self) -> str:
        """Returns one line with the total and its parts."""
        parts = ", ".join(
            f"{name} {in_words(size)}"
            for name, size in [
                ("weights", self.parameters),
                ("gradients", self.parameters),
                ("AdamW", _ADAM_STATES * self.parameters),
                ("activations", self.activations),
                ("workspace", self.workspace),
            ]
        )
        size = "×".join(map(str, self.patches.size))
        return f"{in_words(self.total)} for {self.patches.batch} patches of {size} voxels ({parts})"

    def at(self, patches: PatchOptions) -> MemoryEstimate:
        """Returns the estimate for other patches."""
        if patches == self.patches:
            return self
        network = (self.record.options, self.record.in_channels, self.record.out_channels)
        return estimate_training_memory(*network, patches, precision=self.precision, device=self.device)

    def fits(self, patches: PatchOptions, available: int) -> bool:
        """Whether other patches fit into the available bytes."""
        # A linear estimate spares most of the runs; with smaller patches, more of the blocks come from the heap.
        share = _voxels(patches) / _voxels(self.patches)
        roughly = self.fixed + share * (self.activations + self.workspace)
        return roughly <= available and self.at(patches).total <= available


def estimate_training_memory(
    network: NetworkOptions,
    channels: int,
    classes: int,
    patches: PatchOptions,
    *,
    precision: str = Precision.FLOAT32,
    device: str = "cpu",
) -> MemoryEstimate:
    """Estimates the memory of training a network with AdamW.

    Args:
        network: options of the network.
        channels: image channels.
        classes: classes, background included.
        patches: size and number of the patches that one process computes at a time.
        precision: of the forward and backward passes, a value of `Precision`; weights stay float32.
        device: where it will train, `cpu` or a CUDA device.

    Raises:
        NetworkCodeError: an imported network cannot be run on the meta device.
    """
    record = NetworkRecord(network, channels, classes)
    weights = sum(p.numel() * p.element_size() for p in meta_network(record).parameters())
    half = Precision(precision) is not Precision.FLOAT32
    memory = _follow_step(record, patches, half)
    # glibc takes blocks below 32 MiB from a heap, in which freed blocks leave holes: in measurements, up to the size of
    # the live blocks. CUDA memory comes from torch's own allocator.
    holes = memory.small_peak if torch.device(device).type == "cpu" else 0
    return MemoryEstimate(
        parameters=weights,
        # Autocast also keeps the weights in half precision while the graph is alive.
        activations=memory.peak + (weights // 2 if half else 0),
        # A convolution works on copies of input and output, and of their gradients, in its own format.
        workspace=2 * memory.convolution + holes,
        record=record,
        patches=patches,
        precision=Precision(precision),
        device=device,
    )


def _follow_step(record: NetworkRecord, patches: PatchOptions, half: bool) -> LiveMemory:
    """Tracks forward, loss and backward on the meta device; weights and their gradients do not count."""
    # The meta device has no autocast; a network in half precision has the same activations.
    kind = torch.bfloat16 if half else torch.float32
    network = meta_network(record).to(kind).train()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    loss = DeepSupervisionLoss(SegmentationLoss())
    with run_without_values(record.options), LiveMemory(_LARGE_BLOCK) as memory:
        images = torch.empty(patches.batch, record.in_channels, *patches.size, dtype=kind, device="meta")
        labels = torch.empty(patches.batch, *patches.size, dtype=torch.int64, device="meta")
        loss(network(images), labels).backward()
    return memory


def require_memory(estimate: MemoryEstimate, available: int, units: int = 1) -> None:
    """Refuses a training that would not fit into its share of the available bytes if `units` train at a time.

    Raises:
        TrainingError: a unit's share is too small; names a setting that fits.
    """
    share = available // units
    if estimate.total <= share:
        return
    beside = f" for each of {units} trainings at a time" if units > 1 else ""
    fitting = fitting_patches(estimate, share)
    if fitting is None:
        fix = "give the network fewer channels"
    else:
        settings = [f"patches.batch to {fitting.batch}"] if fitting.batch < estimate.patches.batch else []
        settings += [f"patches.size to {list(fitting.size)}"] if fitting.size != estimate.patches.size else []
        fix = f"set {' and '.join(settings)} ({in_words(estimate.at(fitting).total)})"
    at_a_time = available // estimate.total
    if at_a_time:
        fix += f", or train {at_a_time} at a time (--jobs {at_a_time})"
    raise TrainingError(
        f"a training takes about {estimate.describe()}, but only {in_words(share)} are free{beside}",
        expected=f"at most {in_words(share)}",
        fix=fix,
    )


def fitting_patches(estimate: MemoryEstimate, available: int) -> PatchOptions | None:
    """Returns the setting that fits and is closest to the estimated one: fewer patches, else a single smaller patch.

    A smaller patch keeps its shape as far as the network allows: the longest axis is shortened first, to multiples of
    the network's coarsest voxel, and to at least two such voxels. `None` if not even the smallest patch fits.
    """
    candidates = _smaller(estimate.patches, coarsest_factors(estimate.record.options))
    return next((patches for patches in candidates if estimate.fits(patches, available)), None)


def _smaller(patches: PatchOptions, factors: tuple[int, int, int]) -> Iterator[PatchOptions]:
    for batch in range(patches.batch, 0, -1):
        yield patches.model_copy(update={"batch": batch})
    size = list(patches.size)
    while True:
        shortened = [
            max(factor * ((side - 1) // factor), min(side, 2 * factor))
            for side, factor in zip(size, factors, strict=True)
        ]
        candidates = [axis for axis in range(3) if shortened[axis] < size[axis]]
        if not candidates:
            return
        longest = max(candidates, key=lambda axis: size[axis])
        size[longest] = shortened[longest]
        yield patches.model_copy(update={"batch": 1, "size": tuple(size)})


def in_words(size: int) -> str:
    """Writes bytes as `3.2 GB` or `410 MB` (powers of 1000)."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _voxels(patches: PatchOptions) -> int:
    return patches.batch * math.prod(patches.size)

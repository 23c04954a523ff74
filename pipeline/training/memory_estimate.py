"""How much memory a training will take, before it starts, and which setting would fit.

The network of the training runs one step at the size of its patches on the meta device, where tensors have shapes but
no bytes, while `LiveMemory` follows what lives. So activations, gradients on their way back and the tensors of the loss
are counted, not guessed, and it costs neither the memory nor the time of the step.
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
from models.objectives import SegmentationLoss, SegmentationLossOptions
from pipeline.training.computing import Precision
from pipeline.training.live_memory import LiveMemory
from pipeline.training.patches import PatchOptions

_ADAM_STATES = 2
_LARGE_BLOCK = 1 << 25


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a training takes beside the process itself.

    Attributes:
        parameters: weights.
        gradients: of the weights.
        optimiser: the two moments of AdamW.
        activations: most that forward, loss and backward hold at any moment.
        workspace: copies that the kernels of the largest convolution make, and holes in the heap.
        record: the network.
        patches: the setting that was estimated.
        precision: of the forward and backward passes.
        device: where it will train.
    """

    parameters: int
    gradients: int
    optimiser: int
    activations: int
    workspace: int
    record: NetworkRecord
    patches: PatchOptions
    precision: Precision
    device: str

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the patches."""
        return self.parameters + self.gradients + self.optimiser

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.fixed + self.activations + self.workspace

    def describe(self) -> str:
        """Returns one line with the total and its parts."""
        parts = ", ".join(
            f"{name} {in_words(size)}"
            for name, size in [
                ("weights", self.parameters),
                ("gradients", self.gradients),
                ("AdamW", self.optimiser),
                ("activations", self.activations),
                ("workspace", self.workspace),
            ]
        )
        size = "×".join(map(str, self.patches.size))
        return f"{in_words(self.total)} for {self.patches.batch} patches of {size} voxels ({parts})"

    def at(self, patches: PatchOptions) -> MemoryEstimate:
        """Returns the estimate for other patches."""
        record = self.record
        return estimate_training_memory(
            record.options,
            record.in_channels,
            record.out_channels,
            patches,
            precision=self.precision,
            device=self.device,
        )

    def fits(self, patches: PatchOptions, available: int) -> bool:
        """Tells whether other patches fit into so many bytes."""
        # Linear in the voxels, which spares most of the runs; in smaller patches more of the blocks are of the heap.
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
    """Estimates what a training of a network with AdamW takes.

    Args:
        network: which network.
        channels: image channels.
        classes: classes, background included.
        patches: size and number of the patches that one process computes at a time.
        precision: numbers of the forward and backward passes, a value of `Precision`; weights stay float32.
        device: where it will train, `cpu` or a CUDA device.

    Raises:
        NetworkCodeError: an imported network cannot be run on the meta device.
    """
    record = NetworkRecord(network, channels, classes)
    weights = sum(p.numel() * p.element_size() for p in meta_network(record).parameters())
    half = Precision(precision) is not Precision.FLOAT32
    memory = _follow_step(record, patches, half)
    # glibc takes blocks below 32 MiB from a heap, in which freed blocks leave holes: by measurement up to as much as
    # lives in it. CUDA memory comes from torch's own allocator.
    holes = memory.small_peak if torch.device(device).type == "cpu" else 0
    return MemoryEstimate(
        parameters=weights,
        gradients=weights,
        optimiser=_ADAM_STATES * weights,
        # Autocast keeps the weights in half precision too while the graph lives.
        activations=memory.peak + (weights // 2 if half else 0),
        # A convolution computes on copies of input and output, and of their gradients, in a format of its own.
        workspace=2 * memory.convolution + holes,
        record=record,
        patches=patches,
        precision=Precision(precision),
        device=device,
    )


def _follow_step(record: NetworkRecord, patches: PatchOptions, half: bool) -> LiveMemory:
    """Follows forward, loss and backward on the meta device; weights and their gradients do not count."""
    # The meta device has no autocast; a network of half precision has the same activations.
    kind = torch.bfloat16 if half else torch.float32
    network = meta_network(record).to(kind).train()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    loss = DeepSupervisionLoss(SegmentationLoss(SegmentationLossOptions()))
    with run_without_values(record.options), LiveMemory(_LARGE_BLOCK) as memory:
        images = torch.empty(patches.batch, record.in_channels, *patches.size, dtype=kind, device="meta")
        labels = torch.empty(patches.batch, *patches.size, dtype=torch.int64, device="meta")
        loss(network(images), labels).backward()
    return memory


def require_memory(estimate: MemoryEstimate, available: int, units: int = 1) -> None:
    """Refuses a training that would not fit.

    Args:
        estimate: of one unit.
        available: bytes that are there for all units, see `available_memory`.
        units: how many train at a time.

    Raises:
        TrainingError: one unit's share is less than it needs; names a setting that fits.
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
    """Returns the setting nearest to the estimated one that fits: fewer patches, else one patch that is smaller.

    A smaller patch keeps its shape as far as the network allows: the longest axis is shortened first, to multiples of
    what the network halves down to one voxel, and to no less than two voxels of the coarsest level.

    Args:
        estimate: of the setting that was asked for.
        available: bytes that are there for one training.

    Returns:
        Patches of the same choice, or None if not even the smallest fit.
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

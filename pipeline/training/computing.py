"""How a training computes: device, precision, memory format, compilation and several processes, by accelerate."""

from __future__ import annotations

from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any

import torch
from pydantic import Field

from data.errors import ConfigError
from data.options import Options
from data.torch_threads import torch_threads


class Precision(StrEnum):
    """Floating-point type of the network's computations; weights and losses are always float32."""

    AUTO = "auto"
    """`bfloat16` where the processor or GPU has instructions for it, else `float32`; a study continues in the precision
    that it started with, even on another machine."""
    FLOAT32 = "float32"
    """Single precision."""
    BFLOAT16 = "bfloat16"
    """Half the memory, with the range of float32; faster where the processor supports it, otherwise much slower."""
    FLOAT16 = "float16"
    """For GPUs without bfloat16; the loss is scaled against underflow."""


_ACCELERATE_NAMES = {Precision.FLOAT32: "no", Precision.BFLOAT16: "bf16", Precision.FLOAT16: "fp16"}


def has_bfloat16(device: str) -> bool:
    """Whether the processor or GPU has instructions for bfloat16.

    Without them the numbers are converted back and forth, and a step of the residual U-Net takes longer than in float32
    (benchmarks/precision_step.py).
    """
    if torch.device(device).type == "cuda":
        # A job's GPU, while this machine has none: all GPUs for networks of this kind have had them since 2020.
        return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    # Every processor with AMX also has AVX-512 for bfloat16. Processors other than x86 were not measured.
    return torch.cpu._is_avx512_bf16_supported()


def fastest_precision(device: str) -> Precision:
    """What `auto` stands for on a device."""
    return Precision.BFLOAT16 if has_bfloat16(device) else Precision.FLOAT32


class ComputingOptions(Options):
    """How networks compute in `train-source` and `infer`; results depend on it in the last digits."""

    precision: Precision = Precision.AUTO
    """Floating-point type of the forward and backward passes."""
    channels_last: bool = Field(default=False)
    """Source networks store volumes with the channels last (`channels_last_3d`); faster on some GPUs, not on a CPU."""
    compile: bool = False
    """Compile source networks with `torch.compile`; needs a C++ compiler, useful for long trainings on a GPU."""


class Computing:
    """Puts a network and its optimiser on the device, and runs their steps there.

    Raises:
        ConfigError: float16 on a CPU.
    """

    def __init__(self, options: ComputingOptions, device: str) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        if options.precision is Precision.FLOAT16 and device == "cpu":
            raise ConfigError(
                "`computing.precision: float16` on a CPU", expected="a GPU", fix="set it to auto or float32"
            )
        precision = fastest_precision(device) if options.precision is Precision.AUTO else options.precision
        self._options = options
        # accelerate keeps one precision per process, and a worker process may train for one study after another.
        AcceleratorState._reset_state()
        # accelerate sets the threads of torch, too.
        with torch_threads(torch.get_num_threads()):
            self._accelerator = Accelerator(cpu=device == "cpu", mixed_precision=_ACCELERATE_NAMES[precision])

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self._accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self._accelerator.is_main_process

    @property
    def scaler(self) -> Any:
        """Scaler of the gradients in float16, else None."""
        return self._accelerator.scaler

    @property
    def gradient_scale(self) -> float:
        """Factor on the gradients of a backward pass, until they are clipped."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    def place(self, network: torch.nn.Module) -> torch.nn.Module:
        """Moves a network to the device, in its memory format."""
        network = network.to(self.device)
        return network.to(memory_format=torch.channels_last_3d) if self._options.channels_last else network  # type: ignore[call-overload]

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network as called in a step: compiled, and with gradients averaged over the processes."""
        called: torch.nn.Module = torch.compile(network) if self._options.compile else network  # type: ignore[assignment]
        if self._accelerator.num_processes > 1:
            called = self._accelerator.prepare_model(called, evaluation_mode=False)
        return called

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Moves images `[N, C, X, Y, Z]` to the device, in the network's memory format."""
        if self._options.channels_last:
            return images.to(self.device, memory_format=torch.channels_last_3d, non_blocking=True)
        return images.to(self.device, non_blocking=True)

    def optimiser(self, optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimiser with the scaling that float16 needs."""
        return self._accelerator.prepare_optimizer(optimiser) if self.scaler is not None else optimiser

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass; its outputs must be converted to float32 before the loss."""
        return self._accelerator.autocast()

    def backward(self, loss: torch.Tensor) -> None:
        """Computes the gradients."""
        self._accelerator.backward(loss)

    def share_of_mean(self, count: torch.Tensor) -> torch.Tensor | float:
        """A count divided by its mean over the processes that train together: 1 in a process that trains alone.

        The weight of a process's mean over so many voxels: the average of weighted means is the mean over all voxels.
        """
        if self._accelerator.num_processes == 1:
            return 1.0
        mean: torch.Tensor = self._accelerator.reduce(count.float(), reduction="mean")
        return count / mean.clamp_min(1)

    def clip(self, parameters: list[torch.nn.Parameter], largest: float) -> torch.Tensor:
        """Clips the norm of the gradient and returns the norm before clipping."""
        norm = self._accelerator.clip_grad_norm_(parameters, largest)
        return torch.as_tensor(0.0 if norm is None else norm)

    def wait(self) -> None:
        """Waits for all processes."""
        self._accelerator.wait_for_everyone()

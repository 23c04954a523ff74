"""The device that torch computes on."""

from __future__ import annotations

import os

from data.errors import ConfigError


def chosen_device(asked: str) -> str:
    """Returns `cpu` or `cuda`.

    Args:
        asked: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Raises:
        ConfigError: `cuda` is requested but not available, or the name is unknown.
    """
    import torch

    if asked not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"the device {asked!r} is unknown", expected="auto, cpu or cuda", fix="name one of these")
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise ConfigError(
            "--device cuda: torch finds no CUDA device", expected="a GPU", fix="use --device cpu or install its driver"
        )
    return "cuda" if available and asked != "cpu" else "cpu"


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]

"""The device that torch computes on."""

from __future__ import annotations

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

"""Conversion of a network to ONNX."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from data.errors import ConfigError, ModelError

logger = logging.getLogger(__name__)

INPUT, OUTPUT = "image", "logits"
_PACKAGES = ("onnx", "onnxscript")


def require_onnx() -> None:
    """Requires the packages of the extra `export`.

    Raises:
        ConfigError: one is missing.
    """
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"graft export needs the package{'s' if len(missing) > 1 else ''} {' and '.join(missing)}",
            fix='run `pip install ".[export]"` in the folder of Graft\'s clone',
        )


def write_onnx(network: nn.Module, channels: int, patch: Sequence[int], path: Path) -> bool:
    """Writes a network, in evaluation mode on the CPU, as one ONNX file.

    Its input is `image` `[N, C, X, Y, Z]`, its output `logits` `[N, C, X, Y, Z]`.

    Returns:
        Whether N, X, Y and Z are free; otherwise only N is free and the others are the window's, because the exporter
        cannot follow the network at other sizes.

    Raises:
        ModelError: the exporter cannot follow the network at all.
    """
    example = torch.zeros(2, channels, *patch)
    batch = torch.export.Dim("batch", min=1)
    free = {0: batch} | dict.fromkeys((2, 3, 4), torch.export.Dim.DYNAMIC)
    try:
        _convert(network, example, free, path)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        logger.info("ONNX with a window of fixed size, because the exporter cannot leave sizes open (%s)", error)
        try:
            _convert(network, example, {0: batch}, path)
        except (torch.onnx.OnnxExporterError, RuntimeError) as fixed:
            raise ModelError(
                f"the network cannot be converted to ONNX ({str(fixed).strip().splitlines()[0]})",
                expected="a forward pass that torch.export can follow",
                fix="add --set onnx=false, or change the network",
            ) from fixed
        return False
    return True


def _convert(network: nn.Module, example: torch.Tensor, free: Mapping[int, object], path: Path) -> None:
    import onnx

    chatty = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [own.level for own in chatty]
    for own in chatty:
        own.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # The exporter warns of its own deprecated calls.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (example,),
                path,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(dict(free),),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        for own, level in zip(chatty, levels, strict=True):
            own.setLevel(level)
    onnx.checker.check_model(str(path), full_check=True)

"""The definition of a network in a bundle: MONAI's and imported networks by name, Graft's own by a copied source."""

from __future__ import annotations

from typing import Any

from models.networks.factory import NetworkOptions, without_deep_supervision
from models.networks.imported_network import ImportedNetworkOptions
from models.networks.monai_networks import DynUNetOptions, UNetOptions
from models.networks.residual_unet import ResidualUNetOptions
from pipeline.deployment.bundle_text import require_words
from pipeline.deployment.vendored_source import vendored_name

INFERENCE = "configs/inference.json"
"""The file of a bundle that defines the network."""

RESIDUAL_UNET = "models.networks.residual_unet"


def network_modules(options: NetworkOptions) -> tuple[str, ...]:
    """Modules of Graft that the bundle needs a copy of for this network."""
    return (RESIDUAL_UNET,) if isinstance(options, ResidualUNetOptions) else ()


def network_definition(options: NetworkOptions, in_channels: int, out_channels: int) -> dict[str, Any]:
    """Returns the component of a bundle's configuration that builds the network, without heads on coarser levels.

    Raises:
        ModelError: MONAI would evaluate an option of an imported network.
    """
    options = without_deep_supervision(options)
    ends = {"in_channels": in_channels, "out_channels": out_channels}
    if isinstance(options, ResidualUNetOptions):
        module = vendored_name(RESIDUAL_UNET)
        sizes = {"_target_": f"{module}.ResidualUNetOptions", **options.model_dump(mode="json")}
        return {"_target_": f"{module}.ResidualUNet", "options": sizes, **ends}
    if isinstance(options, ImportedNetworkOptions):
        require_words(options.options, INFERENCE)
        target = {"_target_": options.factory.replace(":", "."), "channels": in_channels, "classes": out_channels}
        return {**options.options, **target}
    norm = ["INSTANCE", {"affine": True}]
    if isinstance(options, UNetOptions):
        return {
            "_target_": "monai.networks.nets.UNet",
            "spatial_dims": 3,
            **ends,
            "channels": list(options.channels),
            "strides": [2] * (len(options.channels) - 1),
            "num_res_units": options.residual_units,
            "norm": norm,
            "dropout": options.dropout,
        }
    if isinstance(options, DynUNetOptions):
        levels = len(options.channels)
        return {
            "_target_": "monai.networks.nets.DynUNet",
            "spatial_dims": 3,
            **ends,
            "kernel_size": [3] * levels,
            "strides": [1] + [2] * (levels - 1),
            "upsample_kernel_size": [2] * (levels - 1),
            "filters": list(options.channels),
            "res_block": options.residual,
            "dropout": options.dropout or None,
            "norm_name": norm,
            "deep_supervision": False,
        }
    return {
        "_target_": "monai.networks.nets.SegResNet",
        "spatial_dims": 3,
        "init_filters": options.initial_channels,
        **ends,
        "dropout_prob": options.dropout or None,
        "blocks_down": list(options.encoder_blocks),
        "blocks_up": list(options.decoder_blocks),
    }

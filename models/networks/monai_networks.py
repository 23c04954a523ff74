"""MONAI's UNet, DynUNet and SegResNet as configurable networks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from data.options import Options
from models.networks.residual_unet import require_supervised_levels

PositiveInt = Annotated[int, Field(ge=1)]


class _OneHeadOptions(Options):
    """Base of networks without heads on coarser levels; reports it where they are requested."""

    @model_validator(mode="before")
    @classmethod
    def _no_deep_supervision(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "deep_supervision" in raw:
            raise ValueError(
                f"the network '{raw.get('name', cls.__name__)}' has no deep supervision; residual_unet and dynunet have"
            )
        return raw


class UNetOptions(_OneHeadOptions):
    """MONAI `UNet` (Kerfoot et al. 2018): residual units, strided and transposed 3×3×3 convolutions."""

    name: Literal["unet"] = "unet"
    channels: tuple[PositiveInt, ...] = Field(
        default=(16, 32, 64, 128), min_length=2, description="Feature channels at each level, finest first."
    )
    residual_units: int = Field(default=2, ge=0, description="Convolutions per residual unit; 0 for plain ones.")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout after each convolution.")


class DynUNetOptions(Options):
    """MONAI `DynUNet` (the network family of nnU-Net, Isensee et al. 2021)."""

    name: Literal["dynunet"] = "dynunet"
    channels: tuple[PositiveInt, ...] = Field(
        default=(32, 64, 128, 256), min_length=3, description="Feature channels at each level, finest first."
    )
    residual: bool = Field(default=False, description="Residual blocks instead of plain ones.")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout after each convolution.")
    deep_supervision: int = Field(default=0, ge=0, description="Number of coarser levels with a head while training.")

    @model_validator(mode="after")
    def _enough_levels(self) -> Self:
        require_supervised_levels(self.deep_supervision, len(self.channels))
        return self


class SegResNetOptions(_OneHeadOptions):
    """MONAI `SegResNet` (Myronenko 2018, without the auto-encoder branch)."""

    name: Literal["segresnet"] = "segresnet"
    initial_channels: int = Field(
        default=16, ge=8, multiple_of=8, description="Channels of the finest level; doubled per level."
    )
    encoder_blocks: tuple[PositiveInt, ...] = Field(
        default=(1, 2, 2, 4), min_length=2, description="Residual blocks of the encoder at each level."
    )
    decoder_blocks: tuple[PositiveInt, ...] = Field(
        default=(1, 1, 1), min_length=1, description="Residual blocks of the decoder at each level, coarsest first."
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout after the stem.")

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        if len(self.decoder_blocks) != len(self.encoder_blocks) - 1:
            raise ValueError("decoder_blocks must have one level less than encoder_blocks")
        return self


def build_unet(options: UNetOptions, in_channels: int, out_channels: int) -> nn.Module:
    """Builds MONAI's UNet with stride 2 between levels and affine instance normalisation."""
    from monai.networks.nets import UNet

    network: nn.Module = UNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=options.channels,
        strides=(2,) * (len(options.channels) - 1),
        num_res_units=options.residual_units,
        norm=("INSTANCE", {"affine": True}),
        dropout=options.dropout,
    )
    return network


def build_dynunet(options: DynUNetOptions, in_channels: int, out_channels: int) -> nn.Module:
    """Builds MONAI's DynUNet with 3×3×3 kernels, stride 2 between levels and affine instance normalisation."""
    from monai.networks.nets import DynUNet

    levels = len(options.channels)
    network: nn.Module = DynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(options.channels),
        res_block=options.residual,
        dropout=options.dropout or None,
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=options.deep_supervision > 0,
        deep_supr_num=max(options.deep_supervision, 1),
    )
    # DynUNet registers every block twice, in lists and in the nest of skip layers that its forward runs through. The
    # lists go: safetensors refuses shared tensors, and functional_call does not restore modules with two names.
    for name in ("input_block", "downsamples", "bottleneck", "upsamples", "deep_supervision_heads"):
        if hasattr(network, name):
            delattr(network, name)
    return network


def build_segresnet(options: SegResNetOptions, in_channels: int, out_channels: int) -> nn.Module:
    """Builds MONAI's SegResNet with group normalisation and trilinear upsampling."""
    from monai.networks.nets import SegResNet

    network: nn.Module = SegResNet(
        spatial_dims=3,
        init_filters=options.initial_channels,
        in_channels=in_channels,
        out_channels=out_channels,
        dropout_prob=options.dropout or None,
        blocks_down=options.encoder_blocks,
        blocks_up=options.decoder_blocks,
    )
    return network

"""The residual 3D U-Net of the Deep Weight Prior study: pre-activation blocks, additive skips, instance normalisation.

Source: Kuzina, Egorov, Burnaev, "Bayesian generative models for knowledge transfer in MRI semantic segmentation
problems", Frontiers in Neuroscience 13:844 (2019). With the default options and one input channel the network has
184,336 filters of 3×3×3 and about 5.0 million weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import torch.nn.functional as functional
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn

from data.errors import ModelError
from data.options import Options

Stride = tuple[Literal[1, 2], Literal[1, 2], Literal[1, 2]]
"""Of one level along the three axes; 1 leaves an axis as it is."""


def require_supervised_levels(supervised: int, levels: int) -> None:
    """Refuses heads on the finest or the coarsest level.

    Raises:
        ValueError: there are more heads than levels between these two.
    """
    if supervised > levels - 2:
        raise ValueError(f"deep_supervision can be at most {levels - 2} with {levels} levels")


class ResidualUNetOptions(Options):
    """Size of the residual U-Net. The defaults are the published network."""

    name: Literal["residual_unet"] = "residual_unet"
    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(16, 32, 64, 128), min_length=2, description="Feature channels at each resolution level, finest first."
    )
    encoder_blocks: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(0, 2, 2, 5),
        description="Residual blocks of the encoder at each level; the first block of every level but the finest "
        "halves the resolution. The finest level may have none (the stem alone).",
    )
    strides: tuple[Stride, ...] | None = Field(
        default=None,
        description="How each level but the finest reduces the three axes, such as `[[2, 2, 1], [2, 2, 2], [2, 2, 2]]` "
        "for thick slices; by default every level halves all of them.",
    )
    decoder_blocks: int = Field(default=1, ge=1, le=8, description="Residual blocks of the decoder at each level.")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Channel dropout before each block's last filter.")
    deep_supervision: int = Field(
        default=0, ge=0, description="Number of coarser decoder levels that get a head of their own during training."
    )

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        if len(self.encoder_blocks) != len(self.channels):
            raise ValueError(f"encoder_blocks has {len(self.encoder_blocks)} levels, channels {len(self.channels)}")
        if any(count < 1 for count in self.encoder_blocks[1:]):
            raise ValueError(
                "every level below the finest needs at least one encoder block, which halves the resolution"
            )
        if self.strides is not None:
            if len(self.strides) != len(self.channels) - 1:
                raise ValueError(f"strides has {len(self.strides)} entries; {len(self.channels) - 1} levels need one")
            if (1, 1, 1) in self.strides:
                raise ValueError("the stride [1, 1, 1] reduces nothing: leave the level out")
        require_supervised_levels(self.deep_supervision, len(self.channels))
        return self

    @model_serializer(mode="wrap")
    def _without_default_strides(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Networks that were trained before strides could be chosen keep their recipes, and are not trained again.
        content: dict[str, Any] = serialise(self)
        if self.strides is None:
            content.pop("strides", None)
        return content

    @property
    def level_strides(self) -> tuple[Stride, ...]:
        """Stride of each level but the finest."""
        return self.strides or ((2, 2, 2),) * (len(self.channels) - 1)

    @property
    def reduction(self) -> tuple[int, int, int]:
        """Voxels of the image along each axis that one voxel of the coarsest level stands for."""
        x, y, z = (math.prod(along) for along in zip(*self.level_strides, strict=True))
        return x, y, z


class ResidualBlock(nn.Module):
    """InstanceNorm → ReLU → 3×3×3 convolution, twice, added to the input (projected where the shape changes)."""

    def __init__(self, in_channels: int, out_channels: int, stride: Stride = (1, 1, 1), dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.InstanceNorm3d(in_channels, affine=True)
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.InstanceNorm3d(out_channels, affine=True)
        self.dropout = nn.Dropout3d(dropout)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv3d | None = None
        if stride != (1, 1, 1) or in_channels != out_channels:
            self.shortcut = nn.Conv3d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Maps `[N, in, X, Y, Z]` to `[N, out, X/stride, Y/stride, Z/stride]` (rounded up)."""
        activated = functional.relu(self.norm1(features))
        # Pre-activation networks project the activated input (He et al. 2016, "Identity mappings", section 3).
        shortcut = features if self.shortcut is None else self.shortcut(activated)
        branch = self.conv1(activated)
        branch = self.conv2(self.dropout(functional.relu(self.norm2(branch))))
        return shortcut + branch


class UpStage(nn.Module):
    """1×1×1 convolution, trilinear interpolation to the skip's size, addition of the skip, residual blocks."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Conv3d(in_channels, out_channels, 1, bias=False)
        self.blocks = nn.Sequential(
            *(ResidualBlock(out_channels, out_channels, dropout=dropout) for _ in range(blocks))
        )

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """Maps features `[N, in, x, y, z]` and skip `[N, out, X, Y, Z]` to `[N, out, X, Y, Z]`."""
        upsampled = functional.interpolate(
            self.project(features), size=skip.shape[2:], mode="trilinear", align_corners=False
        )
        result: Tensor = self.blocks(upsampled + skip)
        return result


class Head(nn.Module):
    """InstanceNorm → ReLU → 1×1×1 convolution to the class logits."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm3d(in_channels, affine=True)
        self.conv = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Maps `[N, in, X, Y, Z]` to logits `[N, out, X, Y, Z]`."""
        logits: Tensor = self.conv(functional.relu(self.norm(features)))
        return logits


class ResidualUNet(nn.Module):
    """Residual 3D U-Net with additive skips."""

    def __init__(self, options: ResidualUNetOptions, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.options = options
        channels = options.channels
        self.stem = nn.Conv3d(in_channels, channels[0], 3, padding=1, bias=False)
        self.encoder = nn.ModuleList()
        width = channels[0]
        for level, count in enumerate(options.encoder_blocks):
            blocks = nn.Sequential()
            for index in range(count):
                stride = options.level_strides[level - 1] if level > 0 and index == 0 else (1, 1, 1)
                blocks.append(ResidualBlock(width, channels[level], stride, options.dropout))
                width = channels[level]
            self.encoder.append(blocks)
        self.decoder = nn.ModuleList(
            UpStage(coarse, fine, options.decoder_blocks, options.dropout)
            for coarse, fine in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.head = Head(channels[0], out_channels)
        _initialise(self)
        # Made last, so that one seed gives the other weights the same values with and without deep supervision.
        coarse_widths = channels[1 : 1 + options.deep_supervision]
        self.coarse_heads = nn.ModuleList(Head(coarse, out_channels) for coarse in coarse_widths)
        _initialise(self.coarse_heads)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Computes the class logits.

        Args:
            image: `[N, C, X, Y, Z]`, of any size that leaves more than one voxel at the coarsest level.

        Returns:
            Logits `[N, K+1, X, Y, Z]`; while training with deep supervision, a list of logits, finest first, each at
            the resolution of its level.

        Raises:
            ModelError: if the image is too small for the number of levels.
        """
        decoded = self.decode(self.encode(image))
        logits: Tensor = self.head(decoded[-1])
        if not (self.training and len(self.coarse_heads)):
            return logits
        coarse = decoded[-2::-1]
        return [logits, *(head(features) for head, features in zip(self.coarse_heads, coarse, strict=False))]

    def encode(self, image: Tensor) -> list[Tensor]:
        """Computes the features of every level, `[N, channels, …]` each, finest first; the last are the bottleneck.

        Raises:
            ModelError: if the image is too small for the number of levels.
        """
        reduction = self.options.reduction
        if all(size <= factor for size, factor in zip(image.shape[2:], reduction, strict=True)):
            size = "×".join(str(s) for s in image.shape[2:])
            raise ModelError(
                f"a patch of {size} voxels leaves one voxel at the coarsest of {len(self.encoder)} levels",
                expected=f"more than {_in_words(reduction)} voxels along at least one axis",
                fix="enlarge the patch, use a finer spacing, or give the network fewer channels",
            )
        features = self.stem(image)
        levels: list[Tensor] = []
        for level in self.encoder:
            features = level(features)
            levels.append(features)
        return levels

    def decode(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Computes the decoder's features from those of the encoder's levels, coarsest first; the head is left out."""
        features = levels[-1]
        decoded: list[Tensor] = []
        for stage, skip in zip(self.decoder, levels[-2::-1], strict=True):
            features = stage(features, skip)
            decoded.append(features)
        return decoded


def _in_words(reduction: tuple[int, int, int]) -> str:
    return str(reduction[0]) if len(set(reduction)) == 1 else "×".join(map(str, reduction))


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def first_block_prefix(options: ResidualUNetOptions) -> str:
    """Returns the name prefix of the encoder's first residual block, the one that follows the stem."""
    level = next(index for index, count in enumerate(options.encoder_blocks) if count > 0)
    return f"encoder.{level}.0."

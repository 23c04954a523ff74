"""What an image model learns from scans without labels: five objectives, each with its settings.

All reconstruct the image. They differ in what makes that hard enough to be worth learning: the input is corrupted
(`denoising`, `masked`), or all has to pass through a bottleneck that is sparse, insensitive to the input, or random.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from data.options import Options


class Denoising(Options):
    """Coarse noise is added to the foreground, and the clean image is to be found.

    Source: Kascenas, Pugeault, O'Neil, "Denoising autoencoders for unsupervised anomaly detection in brain MRI", MIDL
    2022 (PMLR 172:653-664): noise drawn on a coarse grid, interpolated linearly and shifted at random.
    """

    kind: Literal["denoising"] = "denoising"
    noise_spacing: int = Field(
        default=8, ge=1, description="Voxels between the points at which noise is drawn; the paper has 128 / 16 = 8."
    )
    noise_level: float = Field(
        default=1.0,
        gt=0,
        description="Standard deviation of the noise at these points, in the units of the scaled image.",
    )


class Masked(Options):
    """Blocks of the image are hidden, and what is in them is to be found.

    Sources: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022; with a U-Net in 3D: Wald et al.,
    "Revisiting MAE pre-training for 3D medical image segmentation", CVPR 2025.
    """

    kind: Literal["masked"] = "masked"
    block: int = Field(default=8, ge=1, description="Voxels along each edge of a block.")
    hidden_share: float = Field(default=0.6, gt=0, lt=1, description="Probability that a block is hidden.")


class SparsePenalty(StrEnum):
    """How much a bottleneck is in use."""

    L1 = "l1"
    """Mean absolute value of the standardised activations (Olshausen and Field 1996)."""
    KL = "kl"
    """KL divergence of the share of each channel's numbers above one standard deviation, by a logistic function, from a
    small share (Ng, "Sparse autoencoder", CS294A lecture notes 2011, section 3)."""


class Sparse(Options):
    """Few activations of the bottleneck are large; the decoder sees nothing else."""

    kind: Literal["sparse"] = "sparse"
    penalty: SparsePenalty = Field(default=SparsePenalty.L1, description="What is penalised.")
    weight: float = Field(default=0.1, ge=0, description="Of the penalty, beside the mean squared error.")
    activation: float = Field(default=0.05, gt=0, lt=1, description="With `penalty: kl`: the share that is aimed at.")


class Contractive(Options):
    """The bottleneck changes little where the image does; the decoder sees nothing else.

    Sources: Rifai et al., "Contractive auto-encoders: explicit invariance during feature extraction", ICML 2011, for
    the squared Frobenius norm of the Jacobian; Hoffman, Roberts, Yaida, "Robust learning with Jacobian regularization",
    arXiv 1908.02729, for its estimate by random projections.
    """

    kind: Literal["contractive"] = "contractive"
    weight: float = Field(default=0.01, ge=0, description="Of the penalty, beside the mean squared error.")
    projections: int = Field(default=1, ge=1, description="Random projections for each step.")


class Variational(Options):
    """A normal bottleneck, and a normal image around what the decoder makes of it, with a learned standard deviation.

    Sources: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014; Rybkin, Daniilidis, Levine, "Simple and
    effective VAE training with calibrated decoders", ICML 2021.
    """

    kind: Literal["variational"] = "variational"
    latent_channels: int = Field(default=8, ge=1, description="Channels of the latent at the coarsest level.")
    samples: int = Field(
        default=1,
        ge=1,
        description="K: draws for each image of a step; 1 is the ELBO with its KL in closed form, more the importance-"
        "weighted bound (Burda, Grosse, Salakhutdinov 2016).",
    )
    score_samples: int = Field(default=8, ge=1, description="K of the bound that scores a scan.")


ImageObjective = Annotated[
    Denoising | Masked | Sparse | Contractive | Variational,
    Field(discriminator="kind"),
]
OBJECTIVE_NAMES: tuple[str, ...] = tuple(
    own.model_fields["kind"].default for own in (Denoising, Masked, Sparse, Contractive, Variational)
)
"""The kind of every objective."""


def needs_bottleneck(objective: ImageObjective) -> bool:
    """Whether the decoder sees the bottleneck alone: an image that is whole would go past it."""
    return not isinstance(objective, Denoising | Masked)

"""Images of no contrast in particular, made from labels and tissue classes.

Source: Billot et al., "SynthSeg: segmentation of brain MRI scans of any contrast and resolution without retraining",
Medical Image Analysis 86 (2023) 102789: a random normal distribution of intensities for each class, then blur, a bias
field and noise. There, labels cover the whole head. Labels of one structure do not, so all else is divided into tissue
classes by the intensities of the scan itself (k-means over its channels), and a structure has an intensity of its own
in a share of the draws only: in the others it looks like the tissue that its voxels resemble.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from data.options import Options

_MOST_VALUES = 20_000
"""Voxels of a scan that its classes are found from."""
_ROUNDS = 20
_LEAST_CONTRAST = 0.1
"""Of intensities that are drawn from 0 to 1: tissues that came out alike are not blown up to the range of a scan."""


class ContrastOptions(Options):
    """Ranges of what is drawn for an image. Its contrast is the standard deviation of the tissues' mean intensities."""

    classes: int = Field(default=5, ge=2, le=32)
    """Tissue classes that a source scan is divided into, by its own intensities."""
    own_intensity: float = Field(default=0.5, ge=0, le=1)
    """Probability that a structure of the label has an intensity of its own, and not those of the tissues it is in."""
    texture: float = Field(default=0.3, ge=0, le=2)
    """Largest standard deviation of the intensities within a class, as a share of the contrast."""
    blur: float = Field(default=1.0, ge=0)
    """Largest Gaussian scale of the smoothing, voxels."""
    bias: float = Field(default=0.1, ge=0, le=2)
    """Largest coefficient of the logarithm of the bias field, a polynomial of degree 3."""
    noise: float = Field(default=0.15, ge=0, le=2)
    """Largest standard deviation of the noise, as a share of the contrast."""


def tissue_centres(values: NDArray[np.floating], classes: int) -> NDArray[np.float32]:
    """Finds the centres of tissue classes by k-means, `[K, C]`, from the darkest class in the first channel on.

    It starts from the means of equally large parts of the voxels in the order of the first channel: nothing is drawn.

    Args:
        values: `[C, M]` intensities inside the scan's content.
        classes: K.
    """
    # scipy takes long to import, and a configuration needs only the options of this file.
    from scipy.cluster.vq import kmeans2

    ordered = values[:, np.argsort(values[0], kind="stable")]
    ordered = ordered[:, :: max(1, ordered.shape[1] // _MOST_VALUES)].T.astype(np.float64)
    start = np.stack([part.mean(axis=0) for part in np.array_split(ordered, classes)])
    centres, _ = kmeans2(ordered, start, iter=_ROUNDS, minit="matrix", missing="warn")
    return centres.astype(np.float32)


def tissue_classes(image: Tensor, centres: Tensor) -> Tensor:
    """Returns the class with the nearest centre for each voxel, `[X, Y, Z]` int64 from 0.

    Args:
        image: `[C, X, Y, Z]`.
        centres: `[K, C]`.
    """
    return torch.stack([(image - own[:, None, None, None]).square().sum(0) for own in centres]).argmin(0)


def random_contrast(
    tissue: Tensor,
    structures: Tensor,
    shares: Tensor,
    channels: int,
    options: ContrastOptions,
    generator: np.random.Generator,
) -> Tensor:
    """Draws an image, `[C, X, Y, Z]`, of mean 0 and standard deviation 1 over a scan of these shares of classes.

    Args:
        tissue: `[X, Y, Z]` classes from 0.
        structures: `[X, Y, Z]` codes of the label, 0 where there is none.
        shares: `[K]` share of each tissue class in the whole scan.
        channels: C; each has intensities of its own.
        options: what is drawn.
        generator: all draws.
    """
    codes = [int(code) for code in torch.unique(structures) if code > 0]
    classes, count = tissue.clone(), len(shares)
    for number, code in enumerate(codes):
        if generator.random() < options.own_intensity:
            classes[structures == code] = count + number
    drawn = [_channel(classes, shares, len(codes), options, generator) for _ in range(channels)]
    return torch.stack(drawn)


def _channel(
    classes: Tensor, shares: Tensor, structures: int, options: ContrastOptions, generator: np.random.Generator
) -> Tensor:
    """One channel: a normal distribution for each class, then what a scanner does to it."""
    from monai.networks.layers import GaussianFilter
    from monai.transforms import RandBiasField

    means = torch.from_numpy(generator.uniform(0, 1, len(shares) + structures)).float()
    mean = (shares * means[: len(shares)]).sum()
    contrast = (shares * (means[: len(shares)] - mean).square()).sum().sqrt().clamp_min(_LEAST_CONTRAST)
    deviations = contrast * torch.from_numpy(generator.uniform(0, options.texture, len(means))).float()
    signal = means[classes] + deviations[classes] * _normal(classes.shape, generator)
    if options.blur:
        signal = GaussianFilter(3, generator.uniform(0.0, options.blur) + 1e-3)(signal[None, None])[0, 0]
    if options.bias:
        field = RandBiasField(degree=3, coeff_range=(-options.bias, options.bias), prob=1.0)
        field.set_random_state(seed=int(generator.integers(2**32 - 1)))
        shading = torch.as_tensor(field(torch.ones(1, *signal.shape)))[0]
        # How bright the patch is belongs to the tissues.
        signal = signal * shading / shading.mean()
    signal = signal + contrast * generator.uniform(0.0, options.noise) * _normal(classes.shape, generator)
    variance = contrast.square() + (shares * deviations[: len(shares)].square()).sum()
    return (signal - mean) / variance.sqrt()


def _normal(shape: torch.Size, generator: np.random.Generator) -> Tensor:
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))

"""How far two samples of patches are apart: the squared maximum mean discrepancy on features of a fixed random network.

Sources: Gretton et al., "A kernel two-sample test", JMLR 13 (2012) 723, equation 3 (unbiased) and section 8 (a Gaussian
kernel as wide as the median distance); on features of a network, Bińkowski et al., "Demystifying MMD GANs", ICLR 2018.
Features of an untrained network favour no image that somebody else trained on, and need no download.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.random_streams import stream_seed

_WIDTHS = (16, 32, 64)


class RandomFeatureMap(nn.Module):
    """Features of patches: mean and standard deviation of the channels of a convolutional network with random weights.

    The weights are a function of the number of channels alone, so that distances of different studies can be compared.

    Args:
        channels: of the patches.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(stream_seed(0, "kernel distance", channels))
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *_WIDTHS), _WIDTHS, strict=False):
            convolution = nn.Conv3d(inputs, outputs, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, generator=generator)
            # Offsets of one are as large as what they are added to: the features then tell bright from dark, too.
            if convolution.bias is not None:
                nn.init.normal_(convolution.bias, generator=generator)
            layers += [convolution, nn.ReLU(), nn.AvgPool3d(2, ceil_mode=True)]
        self.layers = nn.Sequential(*layers[:-1])
        self.requires_grad_(False)

    def forward(self, patches: Tensor) -> Tensor:
        """Maps `[N, C, X, Y, Z]` to features `[N, 128]`."""
        found = self.layers(patches).flatten(2)
        return torch.cat([found.mean(2), found.std(2, correction=0)], dim=1)


def median_distance(features: Tensor) -> float:
    """Median of the distances between the rows of `[N, D]`, a width for the kernel; 1 if they are all alike."""
    return float(torch.pdist(features).median()) or 1.0


def squared_mmd(first: Tensor, second: Tensor, width: float) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy; it may be below 0.

    Args:
        first: `[N, D]` features, N ≥ 2.
        second: `[M, D]` features, M ≥ 2.
        width: σ of the kernel exp(−‖x − y‖² / 2σ²).
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * width**2))

    def within(x: Tensor) -> Tensor:
        values = kernel(x, x)
        return (values.sum() - values.trace()) / (len(x) * (len(x) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())

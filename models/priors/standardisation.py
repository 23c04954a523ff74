"""An affine map that takes filters to zero mean and unit covariance, with its Jacobian.

With a standard normal density behind it this map *is* a Gaussian prior; in front of a VAE or a mixture it leaves them
only what a Gaussian cannot describe.
"""

from __future__ import annotations

import math
from enum import StrEnum

import torch
from torch import Tensor, nn

from models.factorised_normal import FactorisedNormal
from models.filter_bank import FilterBank
from models.filters import FilterPositions
from models.priors.prior import check_known_layers, require_positions


class Covariance(StrEnum):
    """Form of a covariance matrix over the 27 numbers of a filter."""

    ISOTROPIC = "isotropic"
    """One variance for all."""
    DIAGONAL = "diagonal"
    """One variance for each number."""
    FULL = "full"
    """A full matrix, shrunk towards the isotropic one as far as Ledoit and Wolf (2004) advise."""
    LOW_RANK = "low_rank"
    """Probabilistic PCA (Tipping and Bishop 1999): a few directions and isotropic noise, a linear autoencoder."""
    FACTOR = "factor"
    """Factor analysis: a few directions and a noise variance for each number (scikit-learn)."""


class Scaling(StrEnum):
    """What filters are divided by before those of several layers are pooled."""

    NONE = "none"
    """Nothing: one density for the raw filters of the group."""
    LAYER = "layer"
    """The root mean square of the filters of their layer in the source networks."""
    FAN_IN = "fan_in"
    """The standard deviation that the initialisation of He et al. gives their layer, sqrt(2 / fan-in)."""


class Standardisation(nn.Module):
    """The map x = (w / s_layer − mean) · A, fitted so that x has zero mean and unit covariance."""

    def __init__(self, kernel_voxels: int) -> None:
        super().__init__()
        self.layer_ids: Tensor
        self.log_scales: Tensor
        self.mean: Tensor
        self.whitening: Tensor
        self.colouring: Tensor
        self.log_determinant: Tensor
        self.register_buffer("layer_ids", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("log_scales", torch.zeros(0))
        self.register_buffer("mean", torch.zeros(kernel_voxels))
        self.register_buffer("whitening", torch.eye(kernel_voxels))
        self.register_buffer("colouring", torch.eye(kernel_voxels))
        self.register_buffer("log_determinant", torch.zeros(()))

    @property
    def kernel_voxels(self) -> int:
        """Numbers per filter, D."""
        return len(self.mean)

    @property
    def needs_positions(self) -> bool:
        """Whether filters are divided by a scale of their layer."""
        return len(self.layer_ids) > 0

    def fit(self, bank: FilterBank, covariance: Covariance, rank: int, scaling: Scaling, zero_mean: bool) -> None:
        """Fits the map to a bank (maximum likelihood, or shrunk where the covariance says so)."""
        dtype, device = self.mean.dtype, self.mean.device
        scaled = bank.filters.double()
        if scaling is not Scaling.NONE:
            ids, log_scales = layer_log_scales(bank, scaling)
            self.layer_ids, self.log_scales = ids.to(device), log_scales.to(device, dtype)
            scaled = scaled / log_scales[torch.searchsorted(ids, bank.layer)].exp()[:, None]
        mean = torch.zeros_like(scaled[0]) if zero_mean else scaled.mean(0)
        values, vectors = covariance_eigen(scaled - mean, covariance, rank)
        self.mean = mean.to(device, dtype)
        self.whitening = (vectors * values.rsqrt()).to(device, dtype)
        self.colouring = (vectors * values.sqrt()).T.contiguous().to(device, dtype)
        self.log_determinant = (-0.5 * values.log().sum()).to(device, dtype)

    def free_parameters(self, covariance: Covariance, rank: int) -> int:
        """Returns the number of free parameters of the Gaussian that this map stands for."""
        dimension = self.kernel_voxels
        # One scale is that of the covariance itself. Scales by fan-in follow from the network, and are counted too:
        # the map does not remember where they came from, and the number is small.
        scales = max(len(self.layer_ids) - 1, 0)
        return dimension + covariance_parameters(covariance, dimension, rank) + scales

    def forward(self, filters: Tensor, where: FilterPositions | None) -> tuple[Tensor, Tensor]:
        """Maps filters `[F, D]` to standardised ones `[F, D]` and log |dx/dw| `[F]` (or a scalar)."""
        log_jacobian = self.log_determinant
        if self.needs_positions:
            log_scale = self._log_scale(where)
            filters = filters * torch.exp(-log_scale)[:, None]
            log_jacobian = log_jacobian - filters.shape[1] * log_scale
        return (filters - self.mean) @ self.whitening, log_jacobian

    def inverse(self, standardised: Tensor, where: FilterPositions | None) -> Tensor:
        """Maps standardised filters `[F, D]` back to raw weights `[F, D]`."""
        filters = standardised @ self.colouring + self.mean
        return filters * self._log_scale(where).exp()[:, None] if self.needs_positions else filters

    def centres(self, count: int, where: FilterPositions | None) -> Tensor:
        """Returns the mean of each of `count` filters, `[F, D]`, raw weights."""
        return self.inverse(self.mean.new_zeros(count, self.kernel_voxels), where)

    def log_normal(self, filters: Tensor, where: FilterPositions | None) -> Tensor:
        """Returns the log density `[F]` of filters `[F, D]` under the Gaussian that this map stands for."""
        standardised, log_jacobian = self(filters, where)
        return -0.5 * (standardised.square() + math.log(2 * math.pi)).sum(1) + log_jacobian

    def expected_log_normal(
        self, draw: Tensor, normal: FactorisedNormal | None, where: FilterPositions | None
    ) -> Tensor:
        """Returns E_q of that log density `[F]`: exact for normals q, at the draw `[F, D]` where q is none."""
        if normal is None:
            return self.log_normal(draw, where)
        return expected_normal(self.log_normal(normal.means, where), self.precisions(where), normal)

    def precisions(self, where: FilterPositions | None) -> Tensor:
        """Returns the diagonal of the inverse covariance, `[1, D]`, or `[F, D]` where layers have scales."""
        precisions = self.whitening.square().sum(1)[None]
        return precisions * torch.exp(-2 * self._log_scale(where))[:, None] if self.needs_positions else precisions

    def _log_scale(self, where: FilterPositions | None) -> Tensor:
        return self.log_scales[check_known_layers(self.layer_ids, require_positions(where))]


def expected_normal(at_means: Tensor, precisions: Tensor, normal: FactorisedNormal) -> Tensor:
    """Returns E_q log p of normals q = N(μ, diag σ²) under Gaussians: log p(μ) − ½ Σ_i (Σ⁻¹)_ii σ_i², `[F]`.

    Args:
        at_means: `[F]`, log p(μ).
        precisions: `[F, D]` or `[1, D]`, the diagonal of Σ⁻¹.
        normal: q.
    """
    return at_means - 0.5 * (precisions * normal.log_variances.exp()).sum(1)


def layer_log_scales(bank: FilterBank, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """Returns the sorted layer numbers `[L]` of a bank and the log of the scale of each `[L]` (float64)."""
    ids, rows = torch.unique(bank.layer, return_inverse=True)
    if scaling is Scaling.FAN_IN:
        channels = torch.zeros(len(ids), dtype=torch.int64).scatter_reduce(0, rows, bank.in_index + 1, "amax")
        return ids, 0.5 * torch.log(2.0 / (channels.double() * bank.kernel_voxels))
    squares = torch.zeros(len(ids), dtype=torch.float64).index_add(0, rows, bank.filters.double().square().mean(1))
    mean_square = squares / torch.bincount(rows, minlength=len(ids))
    return ids, 0.5 * torch.log(mean_square.clamp_min(torch.finfo(torch.float32).tiny))


def covariance_eigen(centred: Tensor, covariance: Covariance, rank: int) -> tuple[Tensor, Tensor]:
    """Estimates a covariance and returns its eigenvalues `[D]` and eigenvectors `[D, D]` in columns.

    Args:
        centred: `[F, D]` float64, with the mean subtracted.
        covariance: the form.
        rank: directions of the low-rank form.
    """
    count, dimension = centred.shape
    moments = centred.T @ centred / count
    # A group whose filters never vary along a direction (a dead layer) must not give an infinite density.
    floor = torch.diagonal(moments).mean().clamp_min(1e-30) * 1e-6
    identity = torch.eye(dimension, dtype=centred.dtype)
    if covariance is Covariance.ISOTROPIC:
        return torch.diagonal(moments).mean().clamp_min(floor).expand(dimension).clone(), identity
    if covariance is Covariance.DIAGONAL:
        return torch.diagonal(moments).clamp_min(floor), identity
    if covariance is Covariance.FACTOR:
        return _factor_eigen(centred, rank, floor)
    if covariance is Covariance.FULL:
        from sklearn.covariance import ledoit_wolf_shrinkage

        shrinkage = float(ledoit_wolf_shrinkage(centred.numpy(), assume_centered=True))
        moments = (1 - shrinkage) * moments + shrinkage * torch.diagonal(moments).mean() * identity
        values, vectors = torch.linalg.eigh(moments)
        return values.clamp_min(floor), vectors
    values, vectors = torch.linalg.eigh(moments)
    kept = min(rank, dimension - 1)
    noise = values[: dimension - kept].mean()
    values = torch.cat([noise.expand(dimension - kept), values[dimension - kept :]])
    return values.clamp_min(floor), vectors


def _factor_eigen(centred: Tensor, rank: int, floor: Tensor) -> tuple[Tensor, Tensor]:
    from sklearn.decomposition import FactorAnalysis

    # In units of the deviations, because the estimator's tolerances are absolute.
    deviations = centred.square().mean(0).clamp_min(floor).sqrt()
    analysis = FactorAnalysis(min(rank, centred.shape[1] - 1), svd_method="lapack").fit((centred / deviations).numpy())
    moments = torch.from_numpy(analysis.get_covariance()) * deviations[:, None] * deviations
    values, vectors = torch.linalg.eigh(moments)
    return values.clamp_min(floor), vectors


def covariance_parameters(covariance: Covariance, dimension: int, rank: int) -> int:
    """Returns the number of free parameters of a covariance over `dimension` numbers."""
    kept = min(rank, dimension - 1)
    # A factor loading is free up to a rotation of its directions.
    directions = dimension * kept - kept * (kept - 1) // 2
    return {
        Covariance.ISOTROPIC: 1,
        Covariance.DIAGONAL: dimension,
        Covariance.FULL: dimension * (dimension + 1) // 2,
        Covariance.LOW_RANK: directions + 1,
        Covariance.FACTOR: directions + dimension,
    }[covariance]

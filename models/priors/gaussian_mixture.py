"""A mixture of Gaussians over filters, fitted by expectation maximisation (scikit-learn)."""

from __future__ import annotations

import math
import warnings
from enum import StrEnum
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from data.options import Options
from models.filter_bank import FilterBank
from models.filters import KERNEL_VOXELS, FilterPositions
from models.priors.prior import FilterPrior, FitReport, Progress
from models.priors.standardisation import Covariance, Scaling, Standardisation, covariance_parameters
from models.random_draws import draw_seed, random_components, standard_normal

_ITERATIONS = 100
"""Largest number of iterations of expectation maximisation."""
_MOST_FILTERS = 50_000
"""More filters are sampled at random: they change the fit little, and an iteration takes time in proportion."""


class ComponentCovariance(StrEnum):
    """Covariance of each component of a Gaussian mixture."""

    SPHERICAL = "spherical"
    """One variance per component."""
    DIAGONAL = "diag"
    """One variance per component and number."""
    FULL = "full"
    """A full matrix per component."""


class GaussianMixtureOptions(Options):
    """Settings of a Gaussian mixture."""

    kind: Literal["gaussian_mixture"] = "gaussian_mixture"
    components: int = Field(default=8, ge=1, description="Number of Gaussians.")
    covariance: ComponentCovariance = Field(
        default=ComponentCovariance.FULL, description="Covariance of each component, after whitening."
    )
    scaling: Scaling = Field(default=Scaling.NONE, description="What filters are divided by before they are pooled.")
    regularisation: float = Field(
        default=1e-3, gt=0, description="Added to every variance, as a share of the group's own variance."
    )


class GaussianMixture(FilterPrior):
    """Mixture of Gaussians in the whitened space of its group; exact."""

    options: GaussianMixtureOptions
    log_weights: Tensor
    means: Tensor
    precision_cholesky: Tensor

    def __init__(self, options: GaussianMixtureOptions, kernel_voxels: int = KERNEL_VOXELS) -> None:
        super().__init__(options)
        self.standardisation = Standardisation(kernel_voxels)
        self.register_buffer("log_weights", torch.zeros(options.components))
        self.register_buffer("means", torch.zeros(options.components, kernel_voxels))
        self.register_buffer("precision_cholesky", torch.eye(kernel_voxels).repeat(options.components, 1, 1))

    @property
    def kernel_voxels(self) -> int:
        """Numbers per filter."""
        return self.standardisation.kernel_voxels

    @property
    def needs_positions(self) -> bool:
        """Whether filters are divided by a scale of their layer."""
        return self.options.scaling is not Scaling.NONE

    def free_parameters(self) -> int:
        """Returns the number of weights, means and covariances of all components."""
        components, dimension = self.means.shape
        forms = {ComponentCovariance.SPHERICAL: Covariance.ISOTROPIC, ComponentCovariance.DIAGONAL: Covariance.DIAGONAL}
        form = forms.get(self.options.covariance, Covariance.FULL)
        scales = max(len(self.standardisation.layer_ids) - 1, 0)
        return components - 1 + components * (dimension + covariance_parameters(form, dimension, 0)) + scales

    def _fit(self, bank: FilterBank, generator: torch.Generator | None, progress: Progress | None) -> FitReport:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture as Estimator

        options = self.options
        used = bank.subsample(_MOST_FILTERS, generator)
        dtype, device = self.means.dtype, self.means.device
        self.standardisation.fit(used, Covariance.FULL, 0, options.scaling, zero_mean=False)
        with torch.no_grad():
            standardised, _ = self.standardisation(used.filters.to(device, dtype), used.positions)
        estimator = Estimator(
            min(options.components, len(used)),
            covariance_type=str(options.covariance),
            reg_covar=options.regularisation,
            max_iter=_ITERATIONS,
            random_state=draw_seed(generator),
        )
        with warnings.catch_warnings():
            # A fit that has not converged is usable; the report states the number of iterations.
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(standardised.cpu().double().numpy())
        self.log_weights = torch.from_numpy(estimator.weights_).log().to(device, dtype)
        self.means = torch.from_numpy(estimator.means_).to(device, dtype)
        precisions = torch.from_numpy(estimator.precisions_cholesky_)
        if options.covariance is ComponentCovariance.SPHERICAL:
            precisions = precisions[:, None].expand(-1, self.kernel_voxels)
        if options.covariance is not ComponentCovariance.FULL:
            precisions = torch.diag_embed(precisions)
        self.precision_cholesky = precisions.to(device, dtype)
        if progress is not None:
            progress(1, 1)
        with torch.no_grad():
            filters = used.filters.to(device, dtype)
            log_density = float(self._log_prob(filters, used.positions, 1, None).double().mean())
        return FitReport(len(bank), len(used), steps=int(estimator.n_iter_), log_density=log_density)

    def _log_prob(
        self, filters: Tensor, where: FilterPositions | None, samples: int, generator: torch.Generator | None
    ) -> Tensor:
        standardised, log_jacobian = self.standardisation(filters, where)
        log_determinants = torch.diagonal(self.precision_cholesky, dim1=1, dim2=2).log().sum(1)
        scores = []
        for index in range(len(self.means)):
            whitened = (standardised - self.means[index]) @ self.precision_cholesky[index]
            normal = -0.5 * (whitened.square() + math.log(2 * math.pi)).sum(1)
            scores.append(self.log_weights[index] + normal + log_determinants[index])
        return torch.logsumexp(torch.stack(scores), dim=0) + log_jacobian

    def _sample(self, count: int, where: FilterPositions | None, generator: torch.Generator | None) -> Tensor:
        chosen = random_components(self.log_weights, count, generator)
        noise = standard_normal((count, self.kernel_voxels), self.means, generator)
        result = torch.zeros_like(noise)
        for index in range(len(self.means)):
            mine = chosen == index
            # x = μ + L⁻ᵀ ε for the precision L Lᵀ: its covariance is (L Lᵀ)⁻¹.
            colouring = torch.linalg.inv(self.precision_cholesky[index])
            result[mine] = self.means[index] + noise[mine] @ colouring
        return self.standardisation.inverse(result, where)

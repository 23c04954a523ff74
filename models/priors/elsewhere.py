"""The density of filters at positions that a prior has no centre for."""

from __future__ import annotations

import torch
from torch import Tensor

from models.factorised_normal import FactorisedNormal
from models.filter_bank import FilterBank
from models.priors.standardisation import Covariance, Scaling, Standardisation


class Elsewhere(Standardisation):
    """A pooled isotropic Gaussian around zero, in place of what is known at other positions (`known`, `[F]`)."""

    def fit_pooled(self, bank: FilterBank) -> None:
        """Fits it to all filters of a bank."""
        self.fit(bank, Covariance.ISOTROPIC, 0, Scaling.NONE, zero_mean=True)

    def log_prob(self, known: Tensor, score: Tensor, filters: Tensor) -> Tensor:
        """Completes the scores `[F]` of filters `[F, D]`."""
        return torch.where(known, score, self.log_normal(filters, None))

    def expected_log_prob(
        self, known: Tensor, expected: Tensor, draw: Tensor, normal: FactorisedNormal | None
    ) -> Tensor:
        """Completes the expected scores `[F]` of filters, given a draw `[F, D]` or their normals."""
        return torch.where(known, expected, self.expected_log_normal(draw, normal, None))

    def draws(self, known: Tensor, drawn: Tensor, noise: Tensor) -> Tensor:
        """Completes drawn filters `[F, D]` with standard normal noise `[F, D]`."""
        return torch.where(known[:, None], drawn, self.inverse(noise, None))

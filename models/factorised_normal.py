"""Independent normal distributions over rows of weights, as which a posterior has expectations in closed form."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class FactorisedNormal(NamedTuple):
    """N(means, exp(log_variances)) for each number, both `[F, D]`."""

    means: Tensor
    log_variances: Tensor

    def rows(self, rows: Tensor) -> FactorisedNormal:
        """Returns the distributions of some rows, differentiable."""
        return FactorisedNormal(self.means.index_select(0, rows), self.log_variances.index_select(0, rows))

    def split(self, sizes: list[int]) -> list[FactorisedNormal]:
        """Divides the rows into blocks."""
        parts = zip(self.means.split(sizes), self.log_variances.split(sizes), strict=True)
        return [FactorisedNormal(means, log_variances) for means, log_variances in parts]

"""A factor for each layer on how far its filters are from the centre of a Gaussian prior, learned on the target.

The prior is hierarchical: w_f ~ N(c_f, τ_l² Σ_f) for the filters f of a layer l. The source says what the shape Σ of
deviations is, and the target how large they are. The factor is the most probable one (empirical Bayes), in closed form:

    τ_l² = (Σ_f E_q (w_f − c_f)ᵀ Σ_f⁻¹ (w_f − c_f) + ν_l D) / (n_l D + ν_l D)

for n_l filters of D numbers. A posterior N(c, τ² Σ) has no KL whatever τ is, so that τ alone would shrink as far as the
data lets it. A scaled inverse χ² prior around 1 with the weight of ν_l filters holds it: τ_l ≥ √(ν_l / (n_l + ν_l)).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.filters import FilterPositions
from models.priors.prior import check_known_layers


class LayerScales(nn.Module):
    """The factors τ of the layers; empty as long as they are not learned."""

    layer_ids: Tensor
    log_values: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._weight = 0.0
        self._kernel_voxels = 0
        self.register_buffer("layer_ids", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.register_buffer("log_values", torch.zeros(0), persistent=False)
        self.register_buffer("counts", torch.zeros(0), persistent=False)

    def __bool__(self) -> bool:
        return len(self.layer_ids) > 0

    def begin(self, where: FilterPositions, weight: float, kernel_voxels: int) -> None:
        """Gives each layer of these filters a factor of 1, whose prior has the weight of this share of them."""
        layer_ids, counts = torch.unique(where.layer, return_counts=True)
        self.layer_ids, self.counts = layer_ids.to(self.layer_ids.device), counts.to(self.counts)
        self.log_values = torch.zeros_like(self.counts)
        self._weight, self._kernel_voxels = weight, kernel_voxels

    def forget(self) -> None:
        """Sets all factors to 1."""
        self.log_values = torch.zeros_like(self.log_values)

    def settle(self, squares: Tensor, where: FilterPositions) -> None:
        """Sets the factors from the expected squared distance `[F]` of each filter from its centre."""
        rows = check_known_layers(self.layer_ids, where)
        sums = torch.zeros_like(self.log_values, dtype=torch.float64).index_add(0, rows, squares.double())
        mean = sums / (self.counts.double() * self._kernel_voxels)
        values = 0.5 * torch.log((mean + self._weight) / (1 + self._weight))
        self.log_values = values.to(self.log_values)

    def log_factors(self, where: FilterPositions | None) -> Tensor | None:
        """Returns the log of the factor of each filter, `[F]`: 0 in layers without one; None where none is learned."""
        if not self or where is None:
            return None
        layer = where.layer.to(self.layer_ids.device).contiguous()
        rows = torch.searchsorted(self.layer_ids, layer).clamp(max=len(self.layer_ids) - 1)
        return self.log_values[rows] * (self.layer_ids[rows] == layer)

    def by_layer(self) -> dict[int, float]:
        """Returns number of the layer → its factor."""
        return dict(zip(self.layer_ids.tolist(), self.log_values.exp().tolist(), strict=True))

    def log_prob(self) -> Tensor:
        """Returns the log density of the factors up to a constant, a scalar in nats; 0 where all of them are 1."""
        strength = 0.5 * self._weight * self.counts * self._kernel_voxels
        return -(strength * (2 * self.log_values + torch.exp(-2 * self.log_values) - 1)).sum()

"""The weights of a network that are not 3×3×3 filters (1×1×1 convolutions, norms, biases, the head), as one column.

By default these weights are ordinary parameters of the network. They are held here if they have a distribution of their
own, or if the components of a mixture are different networks and each needs its own. Any posterior over rows can be
used: its rows are then single numbers, `[P, 1]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.errors import ModelError
from models.posteriors.posterior import Posterior


@dataclass(frozen=True)
class WeightLayout:
    """Where each parameter lies in a column of weights.

    Attributes:
        names: of the parameters.
        shapes: their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, network: nn.Module, names: Iterable[str]) -> WeightLayout:
        """Lays out the named parameters of a network, in the order of the network."""
        wanted = set(names)
        found = [(name, parameter.shape) for name, parameter in network.named_parameters() if name in wanted]
        return cls(tuple(name for name, _ in found), tuple(shape for _, shape in found))

    @property
    def counts(self) -> list[int]:
        """Number of weights of each parameter."""
        return [shape.numel() for shape in self.shapes]

    def join(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Puts parameters into one column, `[P, 1]`."""
        if not self.names:
            return torch.zeros(0, 1)
        return torch.cat([parameters[name].detach().reshape(-1, 1) for name in self.names])

    def split(self, column: Tensor) -> dict[str, Tensor]:
        """Splits a column `[P, 1]` into parameters by name; the inverse of `join`, differentiable."""
        parts = column.split(self.counts)
        return {name: part.reshape(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}


class OtherWeights(nn.Module):
    """Posteriors over the weights that are not filters, one for each component of the posterior over the filters.

    Args:
        layout: of the weights that are learned.
        posteriors: over rows `[P, 1]`, one for each component.
        fixed_layout: of the weights that are not learned and yet differ between components.
        fixed: `[C, Q, 1]`, their values.

    Raises:
        ModelError: if a posterior has another number of rows than the layout.
    """

    fixed: Tensor

    def __init__(
        self,
        layout: WeightLayout,
        posteriors: Sequence[Posterior],
        fixed_layout: WeightLayout | None = None,
        fixed: Tensor | None = None,
    ) -> None:
        super().__init__()
        if any(posterior.count != sum(layout.counts) for posterior in posteriors):
            found = [posterior.count for posterior in posteriors]
            raise ModelError(f"posteriors over {found} weights", expected=f"{sum(layout.counts)} weights each")
        self.layout = layout
        self.fixed_layout = fixed_layout or WeightLayout((), ())
        self.posteriors = nn.ModuleList(posteriors)
        self.register_buffer("fixed", torch.zeros(len(posteriors), 0, 1) if fixed is None else fixed)

    @property
    def names(self) -> set[str]:
        """Names of all parameters that are held here."""
        return {*self.layout.names, *self.fixed_layout.names}

    def posterior(self, component: int) -> Posterior:
        """Returns the posterior of one component."""
        posterior = self.posteriors[component]
        if not isinstance(posterior, Posterior):
            raise ModelError("the other weights hold a module that is not a posterior")
        return posterior

    def tensors(self, column: Tensor, component: int) -> dict[str, Tensor]:
        """Returns the parameters by name: those of a drawn column `[P, 1]` and those that a component keeps fixed."""
        return {**self.fixed_layout.split(self.fixed[component]), **self.layout.split(column)}

    def log_probs(self, column: Tensor) -> Tensor | None:
        """Returns the log density of a column under every component's posterior, `[C]`; None for point estimates."""
        posteriors = [self.posterior(index) for index in range(len(self.posteriors))]
        if not all(posterior.has_density for posterior in posteriors):
            return None
        return torch.stack([posterior.log_prob(column).sum() for posterior in posteriors])

    def train_component(self, index: int | None) -> None:
        """Chooses the component that is trained; the others are frozen."""
        for number, posterior in enumerate(self.posteriors):
            posterior.requires_grad_(number == index)

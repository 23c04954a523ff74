"""A mixture of mean-field distributions, one network-wide mode each, grown by maximum-entropy pursuit (MPVI).

q_{t+1} = (1 − α) q_t + α h. The new component h maximises the exact mixture objective
E_h [ log p(D, w) − log((1 − α) q_t(w) + α h(w)) ] with α fixed in the round. The first-order form
H[h] + λ ⟨h, log p(D, w) / q_t⟩ is an option; at λ = 1 it is unbounded wherever q_t is narrower than the posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from itertools import groupby
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from data.errors import ModelError
from data.options import Options
from models.factorised_normal import FactorisedNormal
from models.filters import FilterLayer
from models.posteriors.mean_field import MeanField, MeanFieldOptions
from models.posteriors.posterior import Posterior
from models.random_draws import random_components


class Repulsion(StrEnum):
    """How a new component is kept away from the existing ones."""

    MIXTURE = "mixture"
    """The exact entropy of the mixture, bounded by log 1/α: the default."""
    FIRST_ORDER = "first_order"
    """Entropy of h minus log q_t, as printed in the slides; unbounded where q_t is narrow."""
    NONE = "none"
    """Nothing: independent components, a Bayesian deep ensemble."""


class ComponentWeights(StrEnum):
    """The weights that the components have in predictions."""

    EQUAL = "equal"
    """The same for all."""
    ELBO = "elbo"
    """In proportion to exp(ELBO): the optimum of components that do not overlap; one usually gets all the weight."""


class MixtureOptions(Options):
    """Settings of a mixture posterior."""

    kind: Literal["mixture"] = "mixture"
    components: int = Field(
        default=3, ge=1, description="Number of components; they may start from different networks."
    )
    component: MeanFieldOptions = Field(default=MeanFieldOptions(), description="Settings of each component.")
    repulsion: Repulsion = Field(default=Repulsion.MIXTURE, description="How components are kept apart.")
    weights: ComponentWeights = Field(default=ComponentWeights.EQUAL, description="Weights of the components.")


class Mixture(Posterior):
    """A weighted mixture of network-wide mean-field components, trained one component at a time.

    Args:
        components: at least one, all over the same filters.
        weights: positive, one for each component; equal by default.
        repulsion: the form of the entropy while a component is trained.
    """

    log_weights: Tensor

    def __init__(
        self,
        components: Sequence[MeanField],
        weights: Sequence[float] | None = None,
        repulsion: Repulsion = Repulsion.MIXTURE,
    ) -> None:
        super().__init__()
        if not components or len({component.count for component in components}) != 1:
            raise ModelError("a mixture posterior needs components over the same filters", expected="one or more")
        given = [1.0] * len(components) if weights is None else list(weights)
        if len(given) != len(components) or min(given) <= 0:
            raise ModelError(f"mixture weights {given}", expected=f"{len(components)} positive numbers")
        self.components = nn.ModuleList(components)
        self.repulsion = repulsion
        self.register_buffer("log_weights", torch.tensor(given, dtype=components[0].means.dtype).log().log_softmax(0))
        self.active: int | None = None

    @classmethod
    def from_options(cls, options: MixtureOptions, means: Sequence[Tensor], layers: Sequence[FilterLayer]) -> Mixture:
        """Builds the mixture around the starting means of its components, `[F, 27]` each."""
        if len(means) != options.components:
            raise ModelError(
                f"{len(means)} starting points for a mixture posterior of {options.components} components",
                expected="one for each component",
                fix="train as many source networks as there are components, or lower 'components'",
            )
        components = [MeanField.from_options(options.component, start, layers) for start in means]
        return cls(components, repulsion=options.repulsion)

    def train_component(self, index: int | None) -> None:
        """Chooses the component that is trained; the others are frozen. None ends the training of components.

        While component t is trained, q_t is the mixture of the components before it.
        """
        self.active = index
        for number, component in enumerate(self.components):
            component.requires_grad_(number == index)

    @property
    def count(self) -> int:
        """Number of filters, F."""
        return self.component(0).count

    def component(self, index: int) -> MeanField:
        """Returns one of the components."""
        component = self.components[index]
        if not isinstance(component, MeanField):
            raise ModelError("a mixture posterior holds components that are not mean-field")
        return component

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draws from the component in training, or from one drawn by weight: all filters from the same, `[F, 27]`."""
        if self.active is not None:
            return self.component(self.active).sample(generator)
        return self.component(int(random_components(self.log_weights, 1, generator))).sample(generator)

    def draw_each(self, number: int, generator: torch.Generator | None = None) -> Iterator[tuple[int, Tensor]]:
        """Draws one after another, stratified: component shares as close to the weights as S allows.

        Systematic sampling: one random offset, and draws at equal steps of the cumulated weight.
        """
        if self.active is not None:
            indices = [self.active] * number
        else:
            device = self.log_weights.device if generator is None else generator.device
            offset = torch.rand(1, generator=generator, device=device).to(self.log_weights.device)
            ticks = (torch.arange(number, device=self.log_weights.device) + offset) / number
            chosen = torch.searchsorted(self.log_weights.exp().cumsum(0), ticks.to(self.log_weights.dtype))
            indices = chosen.clamp(max=len(self.components) - 1).tolist()
        for index, stratum in groupby(indices):
            for _, filters in self.component(index).draw_each(len(list(stratum)), generator):
                yield index, filters

    def mean(self) -> Tensor:
        """Returns the weighted mean of the components, `[F, 27]`, or the mean of the one in training."""
        return self._weighted(MeanField.mean)

    def normal(self) -> FactorisedNormal | None:
        """Returns the normals of the component in training, from which its draws come; otherwise `None`."""
        return None if self.active is None else self.component(self.active).normal()

    def entropy_per_filter(self) -> Tensor:
        """Returns the entropy of the component in training, or the weighted entropies of all, `[F]`.

        The entropy of the mixture itself exceeds this by at most log of the number of components for the whole network.
        """
        return self._weighted(MeanField.entropy_per_filter)

    def _weighted(self, value: Callable[[MeanField], Tensor]) -> Tensor:
        if self.active is not None:
            return value(self.component(self.active))
        weights = self.log_weights.exp()
        return torch.stack([weights[i] * value(self.component(i)) for i in range(len(self.components))]).sum(0)

    def log_prob(self, filters: Tensor) -> Tensor:
        """Returns the log density of each filter under its own marginal mixture, `[F]`."""
        scores = [self.log_weights[i] + self.component(i).log_prob(filters) for i in range(len(self.components))]
        return torch.logsumexp(torch.stack(scores), dim=0)

    def joint_log_prob(self, filters: Tensor, components: int | None = None, beside: Tensor | None = None) -> Tensor:
        """Returns log q(w) of the whole network, a scalar; of the first `components` alone if given, renormalised.

        Args:
            filters: `[F, 27]`.
            components: how many of the components count.
            beside: `[C]`, log density under each component of the weights drawn together with the filters.
        """
        number = len(self.components) if components is None else components
        scores = [self.component(index).log_prob(filters).sum() for index in range(number)]
        of_components = torch.stack(scores) if beside is None else torch.stack(scores) + beside[:number]
        return torch.logsumexp(self.log_weights[:number].log_softmax(0) + of_components, dim=0)

    def entropy_term(self, filters: Tensor, beside: Tensor | None = None) -> Tensor:
        """Returns the repulsive entropy of the component in training, `[F]`; a draw's share of the joint value.

        Only the sum over filters has a meaning: the logarithm of a mixture over whole networks does not split. Weights
        drawn `beside` the filters, `[C]`, count in the distance of the components; their entropy is not in the sum.
        """
        if not self.active or self.repulsion is Repulsion.NONE:
            return self.entropy_per_filter()
        component = self.component(self.active)
        entropy = component.entropy_per_filter()
        before = self.joint_log_prob(filters, self.active, beside)
        if self.repulsion is Repulsion.FIRST_ORDER:
            return entropy - before / self.count
        # −log((1−α) q_t + α h) = −log h − log(α + (1−α) q_t / h); the first part has a closed-form expectation.
        log_share = self.log_weights[: self.active + 1].log_softmax(0)[-1]
        log_rest = torch.log1p(-log_share.exp())
        own = component.log_prob(filters).sum()
        ratio = before - (own if beside is None else own + beside[self.active])
        return entropy - torch.logaddexp(log_share, log_rest + ratio) / self.count

    def set_weights_by_elbo(self, elbos: Sequence[float]) -> None:
        """Sets α ∝ exp(ELBO), the optimum for components that do not overlap (one usually gets all the weight)."""
        if len(elbos) != len(self.components) or not all(math.isfinite(value) for value in elbos):
            raise ModelError(f"ELBOs {list(elbos)}", expected=f"{len(self.components)} finite numbers")
        values = torch.tensor(elbos, dtype=torch.float64).log_softmax(0)
        self.log_weights = values.to(self.log_weights)


def combine(old: Mixture, new: Mixture, share_of_new: float) -> Mixture:
    """Returns (1 − α) q(w|D) + α q(w|D_new), the incremental use of a mixture, with α = `share_of_new`.

    Raises:
        ModelError: if α is not between 0 and 1 or the posteriors are not over the same filters.
    """
    if not 0 < share_of_new < 1:
        raise ModelError(f"a share of {share_of_new} for the new posterior", expected="a number between 0 and 1")
    weights = [(1 - share_of_new) * weight for weight in old.log_weights.exp().tolist()]
    weights += [share_of_new * weight for weight in new.log_weights.exp().tolist()]
    components = [part.component(i) for part in (old, new) for i in range(len(part.components))]
    return Mixture(components, weights, old.repulsion)

"""What every filter prior can do: be fitted to a bank, score filters, draw filters, be saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from data.errors import ModelError
from data.options import Options
from models.factorised_normal import FactorisedNormal
from models.filter_bank import FilterBank
from models.filters import FilterPositions

Progress = Callable[[int, int], None]
"""Called with the number of steps done and the number of all steps."""


@dataclass(frozen=True)
class FitReport:
    """The outcome of a fit.

    Attributes:
        filters_given: filters in the bank.
        filters_used: filters that were fitted to, fewer if they were sampled.
        steps: optimiser steps (or iterations); 0 for a closed form.
        log_density: mean log density of the filters used, nats per filter in raw units (a lower bound where the prior's
            `is_bound` says so).
        history: mean objective of each epoch, nats per filter in raw units.
    """

    filters_given: int
    filters_used: int
    steps: int
    log_density: float
    history: tuple[float, ...] = field(default=())


class FilterPrior(nn.Module, ABC):
    """A probability density over filters, in raw filter units."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        self.fitted: Tensor
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def fit(
        self, bank: FilterBank, generator: torch.Generator | None = None, progress: Progress | None = None
    ) -> FitReport:
        """Fits the density to a bank.

        Raises:
            ModelError: if the bank has another kernel size, is empty, or holds numbers that are not finite.
        """
        self.check_bank(bank)
        with torch.enable_grad():
            report = self._fit(bank, generator, progress)
        self.fitted.fill_(True)
        return report

    def check_bank(self, bank: FilterBank) -> None:
        """Refuses a bank that cannot be fitted to.

        Raises:
            ModelError: if it has another kernel size, is empty, or holds numbers that are not finite.
        """
        self._check_kernel(bank.filters, "filters of the bank")
        if len(bank) < 2:
            raise ModelError(
                f"a filter bank with {len(bank)} filters cannot be fitted",
                expected="two filters or more",
                fix="lower the norm threshold or choose a coarser grouping of layers",
            )
        if not torch.isfinite(bank.filters).all():
            raise ModelError("the filter bank holds numbers that are not finite", fix="train the source networks again")

    @abstractmethod
    def _fit(self, bank: FilterBank, generator: torch.Generator | None, progress: Progress | None) -> FitReport: ...

    def log_prob(
        self,
        filters: Tensor,
        where: FilterPositions | None = None,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Scores filters.

        Args:
            filters: `[F, 27]`, raw weights.
            where: their positions; needed by priors that condition on the layer or the position.
            samples: latent draws K of a lower bound; exact densities ignore it.
            generator: source of the latent draws.

        Returns:
            `[F]`, nats per filter in raw filter units: log p(w), or a lower bound on it in expectation (`is_bound`).

        Raises:
            ModelError: if the prior is not fitted, the kernel size is another one, or positions are missing.
        """
        self._check_fitted()
        self._check_kernel(filters, "filters to score")
        self._check_where(len(filters), where)
        return self._log_prob(filters, where, samples, generator)

    @abstractmethod
    def _log_prob(
        self, filters: Tensor, where: FilterPositions | None, samples: int, generator: torch.Generator | None
    ) -> Tensor: ...

    def expected_log_prob(
        self,
        draw: Tensor,
        normal: FactorisedNormal | None = None,
        where: FilterPositions | None = None,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Estimates E_q log p(w) of filters: by default, what `log_prob` gives for one draw from q.

        Args:
            draw: `[F, 27]`, a draw from q.
            normal: q as independent normals, where it is of that form; a prior that has the expectation in closed form
                uses it, and not the draw.
            where: positions of the filters.
            samples: latent draws K of a lower bound.
            generator: source of the latent draws.

        Returns:
            `[F]`, nats per filter in raw filter units.

        Raises:
            ModelError: as `log_prob` does.
        """
        return self.log_prob(draw, where, samples, generator)

    def score(self, bank: FilterBank, samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Scores the filters of a bank, `[F]`, as `log_prob` does.

        Raises:
            ModelError: as `log_prob` does.
        """
        return self.log_prob(bank.filters, bank.positions, samples, generator)

    def log_estimate(
        self, filters: Tensor, where: FilterPositions | None, samples: int, generator: torch.Generator | None
    ) -> Tensor:
        """Scores filters as `log_prob` does, `[F]`, by the log of an unbiased estimate of p(w).

        A mixture may add such estimates and remain a lower bound: the log of a sum is concave in the densities, but
        convex in their logs, so a noisy bound on a log would raise it.
        """
        return self.log_prob(filters, where, samples, generator)

    def sample(self, where: int | FilterPositions, generator: torch.Generator | None = None) -> Tensor:
        """Draws filters.

        Args:
            where: how many, or their positions (needed by priors that condition on them).
            generator: source of the draws.

        Returns:
            `[F, 27]`, raw weights.

        Raises:
            ModelError: if the prior is not fitted, or positions are needed and only a number is given.
        """
        self._check_fitted()
        count = where if isinstance(where, int) else len(where)
        positions = None if isinstance(where, int) else where
        self._check_where(count, positions)
        return self._sample(count, positions, generator)

    @abstractmethod
    def _sample(self, count: int, where: FilterPositions | None, generator: torch.Generator | None) -> Tensor: ...

    @property
    @abstractmethod
    def kernel_voxels(self) -> int:
        """Numbers per filter: those of the bank that it was fitted to, also where a state was loaded."""

    @property
    def is_bound(self) -> bool:
        """Whether `log_prob` is a lower bound (in expectation over its draws) and not exact."""
        return False

    @property
    def needs_positions(self) -> bool:
        """Whether the density depends on where a filter sits."""
        return False

    @abstractmethod
    def free_parameters(self) -> int:
        """Returns the number of free parameters of the density itself: its measure of simplicity.

        What only helps to compute the density (the encoder of a VAE) does not count.
        """

    def variational_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that are trained together with the posterior on the target; none by default."""
        return []

    def hyperprior_log_prob(self) -> Tensor:
        """Returns the log density of the prior's own trainable settings, a scalar in nats; 0 by default."""
        return torch.zeros((), device=self.fitted.device)

    def learn_layer_scales(self, where: FilterPositions, weight: float) -> None:
        """Gives each layer a factor on its deviations from the centre, which is 1 until it is settled.

        Args:
            where: positions of all filters that are learned.
            weight: of the value 1 against the filters of a layer, as a share of their number.

        Raises:
            ModelError: if that factor has no closed form.
        """
        raise ModelError(
            f"the filter prior {type(self).__name__} cannot have a learned scale for each layer",
            expected="a Gaussian, or a Gaussian of changes",
            fix="set `layer_scale: fixed` for this arm, or give it another prior",
        )

    def settle_layer_scales(self, draw: Tensor, normal: FactorisedNormal | None, where: FilterPositions) -> None:
        """Sets the factors to what is most probable for all filters that are learned, where the layers have factors.

        Args:
            draw: `[F, 27]`, a draw from q.
            normal: q as independent normals, where it is of that form.
            where: positions of the filters.
        """

    def layer_scales(self) -> dict[int, float]:
        """Returns number of the layer → its factor; none where the layers have none."""
        return {}

    def freeze_for_target(self) -> None:
        """Freezes everything but the variational parameters, for learning the target."""
        self.requires_grad_(False)
        for parameter in self.variational_parameters():
            parameter.requires_grad_(True)

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads a state dict; sizes that were learned from the bank, including the kernel size, are taken from it.

        Raises:
            ModelError: if the state does not belong to these options.
        """
        self._prepare_for_state(state)
        if any(tensor.dtype == torch.float64 for tensor in state.values()):
            self.double()
        self.resize_buffers(state)
        try:
            self.load_state_dict(dict(state))
        except RuntimeError as error:
            raise ModelError(
                f"a saved filter prior does not fit its options ({type(self).__name__}): {error}",
                fix="run 'graft fit-priors' again",
            ) from error

    def resize_buffers(self, state: Mapping[str, Tensor]) -> None:
        """Gives buffers whose sizes were learned from the bank the sizes that they have in a state dict."""
        for name, buffer in list(self.named_buffers()):
            if name in state and state[name].shape != buffer.shape:
                path, _, leaf = name.rpartition(".")
                owner = self.get_submodule(path) if path else self
                owner._buffers[leaf] = torch.empty_like(state[name])

    def _prepare_for_state(self, state: Mapping[str, Tensor]) -> None:
        """Builds the parts whose sizes depend on the bank, before a state dict is loaded."""

    def _prepare_part(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Does so for a prior that is a part of this one, given the state dict of the whole."""
        part: FilterPrior = getattr(self, name)
        start = f"{name}."
        part._prepare_for_state({key.removeprefix(start): own for key, own in state.items() if key.startswith(start)})

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise ModelError(
                f"the filter prior {type(self).__name__} is not fitted", fix="run 'graft fit-priors' first"
            )

    def _check_kernel(self, filters: Tensor, what: str) -> None:
        if filters.ndim != 2 or filters.shape[1] != self.kernel_voxels:
            raise ModelError(
                f"the {what} have shape {tuple(filters.shape)}",
                expected=f"(filters, {self.kernel_voxels}): this prior is for kernels of {self.kernel_voxels} voxels",
                fix="use networks with the kernel size that the prior was fitted to",
            )

    def _check_where(self, count: int, where: FilterPositions | None) -> None:
        if where is None:
            if self.needs_positions:
                require_positions(where)
        elif len(where) != count:
            raise ModelError(f"{len(where)} positions for {count} filters", expected="one position for each filter")


def check_known_layers(layer_ids: Tensor, where: FilterPositions) -> Tensor:
    """Returns the rows `[F]` of the filters' layers in the sorted table `layer_ids` `[L]`.

    Raises:
        ModelError: if a layer is not in the table.
    """
    layer = where.layer.to(layer_ids.device).contiguous()
    rows = torch.searchsorted(layer_ids, layer).clamp(max=len(layer_ids) - 1)
    if not torch.equal(layer_ids[rows], layer):
        unknown = sorted(set(torch.unique(layer).tolist()) - set(layer_ids.tolist()))
        raise ModelError(
            f"the filter prior does not know the layers numbered {unknown}",
            expected=f"layers among {layer_ids.tolist()}",
            fix="use the same network and grouping as in 'fit-priors', or a prior that does not depend on the layer",
        )
    return rows


def find_positions(keys: Tensor, where: FilterPositions) -> tuple[Tensor, Tensor]:
    """Returns the rows `[F]` of positions in a sorted table of their keys, and whether each is there `[F]`."""
    wanted = where.keys().to(keys.device)
    rows = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return rows, keys[rows] == wanted


def require_positions(where: FilterPositions | None) -> FilterPositions:
    """Returns the positions if there are any.

    Raises:
        ModelError: if there are none.
    """
    if where is None:
        raise ModelError(
            "a filter prior with these options depends on where a filter sits",
            expected="positions",
            fix="pass the positions of the filters",
        )
    return where

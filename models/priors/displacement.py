"""A density of what training adds to a filter: log p(w) = log p_change(w − w_start).

It is fitted to the changes of the source networks, w_T − w_0, from the weights that each started from: its random ones,
or those of the trunk that it branches from. On the target it is centred on the filters that the arm starts from. So any
density that is blind to positions becomes one that knows them, without channels that correspond between networks: each
network is compared with its own start alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.errors import ModelError
from data.options import Options
from models.factorised_normal import FactorisedNormal
from models.filter_bank import FilterBank
from models.filters import KERNEL_VOXELS, FilterPositions
from models.priors.elsewhere import Elsewhere
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.prior import FilterPrior, FitReport, Progress, find_positions, require_positions
from models.priors.reuse_or_redraw import ShapeOptions, build_shape
from models.random_draws import standard_normal


class DisplacementOptions(Options):
    """Settings of a density of changes."""

    kind: Literal["displacement"] = "displacement"
    change: ShapeOptions = Field(
        default=GaussianOptions(),
        description="The density of w − w_start; a spike is that of filters left as they were.",
    )

    @model_validator(mode="after")
    def _blind_to_positions(self) -> Self:
        if isinstance(self.change, GaussianOptions) and self.change.centre is not Centre.POOLED:
            raise ValueError("the start of the target is the centre of changes: set the centre of `change` to pooled")
        return self


class Displacement(FilterPrior):
    """A density of changes, centred on the filters of a start; filters without a start get a pooled Gaussian."""

    options: DisplacementOptions
    keys: Tensor
    starts: Tensor

    def __init__(self, options: DisplacementOptions, kernel_voxels: int = KERNEL_VOXELS) -> None:
        super().__init__(options)
        self.change = build_shape(options.change, kernel_voxels)
        self.elsewhere = Elsewhere(kernel_voxels)
        self._centred = False
        # A start belongs to one training on the target, so it is no part of what is saved.
        self.register_buffer("keys", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.register_buffer("starts", torch.zeros(0, kernel_voxels), persistent=False)

    def centre_on(self, filters: Tensor, where: FilterPositions) -> None:
        """Centres the density on the filters `[F, D]` that a network starts from, at their positions."""
        self._centred = True
        self.keys, order = where.keys().to(self.fitted.device).sort()
        self.starts = filters.detach().to(self.starts)[order]

    @property
    def kernel_voxels(self) -> int:
        """Numbers per filter, those of the density of changes."""
        return self.change.kernel_voxels

    @property
    def is_bound(self) -> bool:
        """Whether the density of changes is a bound."""
        return self.change.is_bound

    @property
    def needs_positions(self) -> bool:
        """True: the start of the filter at the position is part of the density."""
        return True

    def free_parameters(self) -> int:
        """Returns those of the density of changes."""
        return self.change.free_parameters()

    def variational_parameters(self) -> list[nn.Parameter]:
        """Returns those of the density of changes."""
        return self.change.variational_parameters()

    def hyperprior_log_prob(self) -> Tensor:
        """Returns that of the density of changes."""
        return self.change.hyperprior_log_prob()

    def learn_layer_scales(self, where: FilterPositions, weight: float) -> None:
        """Lets the density of changes have a scale for each layer."""
        self.change.learn_layer_scales(where, weight)

    def settle_layer_scales(self, draw: Tensor, normal: FactorisedNormal | None, where: FilterPositions) -> None:
        """Gives each layer the scale of its changes."""
        starts, known = self._starts(where)
        chosen = torch.nonzero(known).squeeze(1)
        self.change.settle_layer_scales(
            (draw - starts)[chosen], None if normal is None else _moved(normal, starts).rows(chosen), where[chosen]
        )

    def layer_scales(self) -> dict[int, float]:
        """Returns those of the density of changes."""
        return self.change.layer_scales()

    def _fit(self, bank: FilterBank, generator: torch.Generator | None, progress: Progress | None) -> FitReport:
        report = self.change.fit(bank.changes(), generator, progress)
        self.elsewhere.fit_pooled(bank)
        return replace(report, filters_given=len(bank))

    def score(self, bank: FilterBank, samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Scores what training added to each filter of a bank, `[F]`, each from its own start."""
        return self.change.score(bank.changes(), samples, generator)

    def _log_prob(
        self, filters: Tensor, where: FilterPositions | None, samples: int, generator: torch.Generator | None
    ) -> Tensor:
        positions = require_positions(where)
        starts, known = self._starts(positions)
        score = self.change.log_prob(filters - starts, positions, samples, generator)
        return self.elsewhere.log_prob(known, score, filters)

    def expected_log_prob(
        self,
        draw: Tensor,
        normal: FactorisedNormal | None = None,
        where: FilterPositions | None = None,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Returns E_q log p(w) of each filter, `[F]`, as the density of changes has it: exact for a Gaussian."""
        positions = require_positions(where)
        starts, known = self._starts(positions)
        moved = None if normal is None else _moved(normal, starts)
        expected = self.change.expected_log_prob(draw - starts, moved, positions, samples, generator)
        return self.elsewhere.expected_log_prob(known, expected, draw, normal)

    def _sample(self, count: int, where: FilterPositions | None, generator: torch.Generator | None) -> Tensor:
        positions = require_positions(where)
        starts, known = self._starts(positions)
        noise = standard_normal(starts.shape, starts, generator)
        drawn = starts + self.change.sample(positions, generator)
        return self.elsewhere.draws(known, drawn, noise)

    def _starts(self, where: FilterPositions) -> tuple[Tensor, Tensor]:
        """The start of each filter `[F, D]`, zero where there is none, and whether there is one `[F]`."""
        if self._centred and not len(self.keys):
            nowhere = torch.zeros(len(where), dtype=torch.bool, device=self.keys.device)
            return self.starts.new_zeros(len(where), self.kernel_voxels), nowhere
        if not self._centred:
            raise ModelError(
                "a density of changes does not know what the filters were before the change",
                expected="the filters that the network starts from",
                fix="centre the density on them with `centre_on`",
            )
        rows, known = find_positions(self.keys, where)
        return self.starts[rows] * known[:, None], known

    def _prepare_for_state(self, state: Mapping[str, Tensor]) -> None:
        self._prepare_part("change", state)


def _moved(normal: FactorisedNormal, starts: Tensor) -> FactorisedNormal:
    return FactorisedNormal(normal.means - starts, normal.log_variances)

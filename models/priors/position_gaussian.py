"""A Gaussian for each position of a network, centred on the filter that the source has there.

Positions correspond within one network (its snapshots, its fine-tunings) and among networks that branch from one trunk:
the channels of other networks are permuted. So mean and spread come from the snapshots of one network, or from the
branches of a trunk. The spread is SWAG-like (Maddox et al. 2019): variances of a handful of replicates, shrunk towards
those of the layer, kept above a floor.

Snapshots differ by the noise of the optimiser, branches by their patients as well. The target is a further branch, of
patients not seen so far: its deviations from the mean of B branches have 1 + 1/B times their variance, because the
mean itself is uncertain. With a full covariance, the positions of a layer share the shape of the branches' deviations
(Ledoit and Wolf 2004), and each has a variance of its own.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor, nn

from data.errors import ModelError
from models.filter_bank import FilterBank
from models.filters import FilterPositions
from models.priors.elsewhere import Elsewhere
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.prior import check_known_layers, find_positions
from models.priors.standardisation import Covariance, Scaling, covariance_eigen, layer_log_scales
from models.random_draws import standard_normal

logger = logging.getLogger(__name__)

_SHRINKAGES = (0.25, 1.0, 4.0, 16.0, 64.0)
"""Weights that are tried on replicates that are left out."""
_SHRINKAGE_OF_FEW = 4.0
_CHOSEN_ON = 20_000


class PositionGaussian(nn.Module):
    """Gaussians `N(mean_p, scale² (V_p + D_p D_pᵀ))` for the positions p of one source network, or of branches.

    Positions that the source does not have (a new stem or head) get an isotropic Gaussian pooled over the bank.

    Args:
        kernel_voxels: numbers per filter, D.
        scaled: whether a full covariance is a shape of the layer times the variance of each position.
    """

    def __init__(self, kernel_voxels: int, scaled: bool = False) -> None:
        super().__init__()
        self._scaled = scaled
        self.keys: Tensor
        self.means: Tensor
        self.variances: Tensor
        self.factors: Tensor
        self.layer_ids: Tensor
        self.layer_whitening: Tensor
        self.register_buffer("keys", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("means", torch.zeros(0, kernel_voxels))
        self.register_buffer("variances", torch.zeros(0, 1))
        self.register_buffer("factors", torch.zeros(0, kernel_voxels, 0))
        # Only the full covariance, which is shared by the positions of a layer, has this table.
        self.register_buffer("layer_ids", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("layer_whitening", torch.zeros(0, kernel_voxels, kernel_voxels))
        self.elsewhere = Elsewhere(kernel_voxels)
        self._logged_elsewhere = False

    @property
    def kernel_voxels(self) -> int:
        """Numbers per filter, D."""
        return self.means.shape[1]

    def fit(self, bank: FilterBank, options: GaussianOptions) -> None:
        """Fits means and spreads to all snapshots of one network; positions of a layer share a full covariance.

        The branches of a trunk are given as snapshots (`FilterBank.branches`).

        Raises:
            ModelError: if the bank holds several networks, or too few snapshots to estimate a spread.
        """
        _require_one_network(bank)
        if options.shrinkage is None:
            options = options.model_copy(update={"shrinkage": chosen_shrinkage(bank, options)})
        dtype, device = self.means.dtype, self.means.device
        keys, rows = torch.unique(bank.positions.keys(), return_inverse=True)
        counts = torch.bincount(rows, minlength=len(keys)).double()
        filters = bank.filters.double()
        average = torch.zeros(len(keys), filters.shape[1], dtype=torch.float64).index_add(0, rows, filters)
        average /= counts[:, None]
        means = self._last(bank, rows, len(keys)) if options.last_snapshot else average
        deviations = filters - average[rows]
        layer_ids, log_scales = layer_log_scales(bank, Scaling.LAYER)
        layer_rows = torch.searchsorted(layer_ids, keys >> 40)
        mean_squares = (2 * log_scales).exp()[layer_rows]
        floors = options.std_floor**2 * mean_squares[:, None]
        if options.relative_std is not None:
            variances = options.relative_std**2 * mean_squares[:, None]
        else:
            _require_two_snapshots(counts)
            spread = options.spread
            if options.centre is Centre.BRANCHES:
                spread *= math.sqrt(1 + 1 / float(counts.max()))
            squares = torch.zeros_like(average).index_add(0, rows, deviations.square()) * spread**2
            variances = _shrunk_variances(squares, counts - 1, layer_rows, options)
            if options.covariance is Covariance.FULL and self._scaled:
                # Filters that hardly move, dead ones among them, do not say how the others do.
                relative = deviations / torch.maximum(variances, floors).sqrt()[rows]
                self._fit_layer_shapes(relative, bank, layer_ids, options.std_floor)
            elif options.covariance is Covariance.FULL:
                self._fit_layer_matrices(deviations * spread, bank, layer_ids, options.std_floor, log_scales)
            if options.covariance is Covariance.LOW_RANK:
                factors = _deviation_factors(deviations, bank, rows, len(keys), options.rank) * spread
                # Half of the variance along the snapshots' deviations and half on the diagonal, as in SWAG.
                self.factors = (factors / math.sqrt(2.0)).to(device, dtype)
                variances = variances / 2
        self.keys = keys.to(device)
        self.means = means.to(device, dtype)
        self.variances = torch.maximum(variances, floors).to(device, dtype)
        self.elsewhere.fit_pooled(bank)

    @staticmethod
    def _last(bank: FilterBank, rows: Tensor, count: int) -> Tensor:
        order = torch.argsort(bank.snapshot, stable=True)
        # The maximum is deterministic; index assignment leaves open which of several rows wins.
        latest = torch.zeros(count, dtype=torch.int64)
        latest = latest.scatter_reduce(0, rows[order], torch.arange(len(order)), "amax", include_self=False)
        return bank.filters.double()[order[latest]]

    def _fit_layer_matrices(
        self, deviations: Tensor, bank: FilterBank, layer_ids: Tensor, floor: float, log_scales: Tensor
    ) -> None:
        matrices = []
        for number, log_scale in zip(layer_ids, log_scales, strict=True):
            mine = bank.layer == number
            freedom = max(int(mine.sum()) - len(torch.unique(bank.positions[mine].keys())), 1)
            moments = deviations[mine].T @ deviations[mine] / freedom
            values, vectors = torch.linalg.eigh(moments)
            values = values.clamp_min(float(floor**2 * (2 * log_scale).exp()))
            matrices.append(vectors * values.rsqrt())
        self.layer_ids = layer_ids.to(self.means.device)
        self.layer_whitening = torch.stack(matrices).to(self.means.device, self.means.dtype)

    def _fit_layer_shapes(self, relative: Tensor, bank: FilterBank, layer_ids: Tensor, floor: float) -> None:
        """Fits the shape of the deviations of each layer: matrices whose mean eigenvalue is 1."""
        shapes = []
        for number in layer_ids:
            values, vectors = covariance_eigen(relative[bank.layer == number], Covariance.FULL, 0)
            values = (values / values.mean()).clamp_min(floor**2)
            shapes.append(vectors * (values / values.mean()).rsqrt())
        self.layer_ids = layer_ids.to(self.means.device)
        self.layer_whitening = torch.stack(shapes).to(self.means.device, self.means.dtype)

    def free_parameters(self) -> int:
        """Returns the number of means, variances and factors of all positions, and of the layers' matrices."""
        triangles = len(self.layer_ids) * self.kernel_voxels * (self.kernel_voxels + 1) // 2
        variances = self.variances.numel() if self._scaled or not triangles else 0
        return self.means.numel() + self.factors.numel() + triangles + variances

    def log_prob(self, filters: Tensor, where: FilterPositions, log_spread: Tensor | None = None) -> Tensor:
        """Returns the scores `[F]` of filters `[F, D]` at positions; `log_spread` `[F]` rescales the deviations."""
        rows, known = self._rows(where.to(filters.device))
        deviation = filters - self.means[rows]
        log_scale = self._log_scales(rows, log_spread)
        deviation = deviation * torch.exp(-log_scale)[:, None]
        if len(self.layer_ids):
            score = self._full_log_prob(deviation, where)
        elif self.factors.shape[2]:
            score = torch.distributions.LowRankMultivariateNormal(
                torch.zeros_like(deviation),
                self.factors[rows],
                self.variances[rows].expand_as(deviation),
                validate_args=False,
            ).log_prob(deviation)
        else:
            variance = self.variances[rows].expand_as(deviation)
            score = -0.5 * (deviation.square() / variance + variance.log() + math.log(2 * math.pi)).sum(1)
        score = score - self.kernel_voxels * log_scale
        if bool(known.all()):
            return score
        if not self._logged_elsewhere:
            # Once: a training scores filters at every step.
            self._logged_elsewhere = True
            lacking = int((~known).sum())
            logger.info("%d filters at positions that the source network lacks get a pooled prior", lacking)
        return self.elsewhere.log_prob(known, score, filters)

    def _log_scales(self, rows: Tensor, log_spread: Tensor | None) -> Tensor:
        """The log of what deviations are divided by before their covariance is that of the table, `[F]`."""
        scales = torch.zeros_like(self.means[rows, 0]) if log_spread is None else log_spread
        if self._scaled and len(self.layer_ids):
            return scales + 0.5 * self.variances[rows, 0].log()
        return scales

    def _full_log_prob(self, deviation: Tensor, where: FilterPositions) -> Tensor:
        layer_rows = self._layer_rows(where)
        standardised = torch.zeros_like(deviation)
        for row in torch.unique(layer_rows).tolist():
            mine = torch.nonzero(layer_rows == row).squeeze(1)
            standardised = standardised.index_copy(0, mine, deviation[mine] @ self.layer_whitening[row])
        log_determinants = torch.linalg.slogdet(self.layer_whitening).logabsdet[layer_rows]
        return -0.5 * (standardised.square() + math.log(2 * math.pi)).sum(1) + log_determinants

    def precisions(self, where: FilterPositions, log_spread: Tensor | None = None) -> Tensor:
        """Returns the diagonal of the inverse covariance at each position, `[F, D]`; `log_spread` as in `log_prob`."""
        rows, known = self._rows(where)
        if len(self.layer_ids):
            found = self.layer_whitening.square().sum(2)[self._layer_rows(where)]
        else:
            found = self.variances[rows].reciprocal().expand_as(self.means[rows])
            if self.factors.shape[2]:
                # Woodbury: (V + D Dᵀ)⁻¹ = V⁻¹ − V⁻¹ D (1 + Dᵀ V⁻¹ D)⁻¹ Dᵀ V⁻¹.
                factors = self.factors[rows]
                scaled = found[:, :, None] * factors
                capacitance = torch.eye(factors.shape[2]).to(factors) + factors.mT @ scaled
                found = found - (torch.linalg.solve(capacitance, scaled.mT).mT * scaled).sum(2)
        found = found * torch.exp(-2 * self._log_scales(rows, log_spread))[:, None]
        return torch.where(known[:, None], found, self.elsewhere.precisions(None))

    def sample(self, where: FilterPositions, generator: torch.Generator | None, log_spread: Tensor | None) -> Tensor:
        """Draws one filter for each position, `[F, D]`."""
        rows, known = self._rows(where)
        means = self.means[rows]
        noise = standard_normal(means.shape, means, generator)
        if len(self.layer_ids):
            layer_rows = self._layer_rows(where)
            colouring = torch.linalg.inv(self.layer_whitening)
            deviation = torch.zeros_like(noise)
            for row in torch.unique(layer_rows).tolist():
                mine = layer_rows == row
                deviation[mine] = noise[mine] @ colouring[row]
        else:
            deviation = noise * self.variances[rows].sqrt()
            if self.factors.shape[2]:
                weights = standard_normal((len(rows), self.factors.shape[2], 1), means, generator)
                deviation = deviation + (self.factors[rows] @ weights).squeeze(2)
        deviation = deviation * self._log_scales(rows, log_spread).exp()[:, None]
        return self.elsewhere.draws(known, means + deviation, noise)

    def centres(self, where: FilterPositions) -> Tensor:
        """Returns the mean at each position, `[F, D]`; zero where the source network has none."""
        rows, known = self._rows(where)
        return self.means[rows] * known[:, None]

    def least_stds(self, where: FilterPositions) -> Tensor:
        """Returns the least standard deviation at each position along any direction, `[F]`."""
        rows, _ = self._rows(where)
        if len(self.layer_ids):
            # The columns of the whitening matrix are eigenvectors over deviations.
            least = self.layer_whitening.square().sum(1).amax(1).rsqrt()[self._layer_rows(where)]
            return least * self._log_scales(rows, None).exp()
        return self.variances[rows].amin(1).sqrt()

    def layer_root_mean_squares(self, layer_ids: Tensor) -> Tensor:
        """Returns the root mean square of the centres of each layer, `[L]`, for sorted layer numbers `[L]`."""
        rows = torch.searchsorted(layer_ids, self.keys >> 40)
        squares = torch.zeros_like(layer_ids, dtype=torch.float64)
        squares = squares.index_add(0, rows, self.means.double().square().mean(1))
        return (squares / torch.bincount(rows, minlength=len(layer_ids))).sqrt().to(self.means.dtype)

    def _rows(self, where: FilterPositions) -> tuple[Tensor, Tensor]:
        return find_positions(self.keys, where)

    def _layer_rows(self, where: FilterPositions) -> Tensor:
        return check_known_layers(self.layer_ids, where)


def chosen_shrinkage(replicates: FilterBank, options: GaussianOptions) -> float:
    """Chooses the weight of the layer's variance under which replicates that are left out are most likely.

    Each replicate is scored by a fit to the others, at up to 20,000 of the positions. Of two replicates one would be
    left, which has no spread: the weight is then 4 of them.
    """
    numbers = torch.unique(replicates.snapshot).tolist()
    if len(numbers) < 3 or options.relative_std is not None:
        return _SHRINKAGE_OF_FEW
    keys, rows = torch.unique(replicates.positions.keys(), return_inverse=True)
    part = replicates[rows % max(1, math.ceil(len(keys) / _CHOSEN_ON)) == 0]
    found = {}
    for weight in _SHRINKAGES:
        own = options.model_copy(update={"shrinkage": weight})
        found[weight] = sum(_left_out_score(part, number, own) for number in numbers)
    return max(found, key=lambda weight: found[weight])


def _left_out_score(replicates: FilterBank, number: int, options: GaussianOptions) -> float:
    """The mean log density of one replicate under a fit to the others, nats per filter."""
    left_out = replicates[replicates.snapshot == number]
    fit = PositionGaussian(replicates.kernel_voxels, scaled=options.centre is Centre.BRANCHES).double()
    fit.fit(replicates[replicates.snapshot != number], options)
    return float(fit.log_prob(left_out.filters.double(), left_out.positions).mean())


def _require_one_network(bank: FilterBank) -> None:
    if len(bank.networks) != 1:
        raise ModelError(
            f"a prior centred on source positions got filters of {len(bank.networks)} networks",
            expected="the snapshots of one network: channels of different networks do not correspond",
            fix="set the option 'network' or pass bank.of_network(number)",
        )


def _require_two_snapshots(counts: Tensor) -> None:
    if counts.max() < 2:
        raise ModelError(
            "one snapshot of the source network (or one branch of a trunk) says nothing about the spread at a position",
            expected="two snapshots (or branches) or more",
            fix="train with two cycles or more, with more networks on a trunk, or set 'relative_std'",
        )


def _shrunk_variances(squares: Tensor, freedom: Tensor, layer_rows: Tensor, options: GaussianOptions) -> Tensor:
    """Shrinks the variance of each position towards that of its layer: `[P, 1]`, or `[P, D]` for a diagonal."""
    if options.covariance is not Covariance.DIAGONAL:
        squares = squares.mean(1, keepdim=True)
    layers = int(layer_rows.max()) + 1
    pooled = torch.zeros(layers, squares.shape[1], dtype=squares.dtype).index_add(0, layer_rows, squares)
    pooled /= torch.zeros(layers, dtype=squares.dtype).index_add(0, layer_rows, freedom).clamp_min(1)[:, None]
    weight = options.shrinkage or 0.0
    return (weight * pooled[layer_rows] + squares) / (weight + freedom)[:, None].clamp_min(1e-12)


def _deviation_factors(deviations: Tensor, bank: FilterBank, rows: Tensor, count: int, rank: int) -> Tensor:
    """Returns the deviations of the last `rank` snapshots from their average, `[P, D, R]`, as a covariance factor."""
    snapshots = torch.unique(bank.snapshot)[-rank:]
    factors = torch.zeros(count, deviations.shape[1], len(snapshots), dtype=deviations.dtype)
    for column, snapshot in enumerate(snapshots):
        mine = bank.snapshot == snapshot
        factors[rows[mine], :, column] = deviations[mine]
    return factors / math.sqrt(max(len(snapshots) - 1, 1))

"""One interface test over every filter prior."""

import copy
import functools
import math
from dataclasses import replace

import pytest
import torch

from data.errors import ModelError
from models.factorised_normal import FactorisedNormal
from models.filter_bank import FilterBank
from models.priors.displacement import Displacement, DisplacementOptions
from models.priors.factory import build_prior, can_scale_layers, load_prior
from models.priors.gaussian import Gaussian
from models.priors.gaussian_mixture import GaussianMixtureOptions
from models.priors.gaussian_options import GaussianOptions
from models.priors.reuse_or_redraw import ReuseOrRedrawOptions
from models.priors.spike_and_slab import SpikeAndSlabOptions
from models.priors.vae_options import FilterVAEOptions

POSITION = {"centre": "source_position", "network": 1}
VAE = {"latent": 2, "hidden": (16, 16), "max_steps": 60, "batch": 64}
PRIORS = {
    "isotropic": GaussianOptions(covariance="isotropic"),
    "diagonal": GaussianOptions(covariance="diagonal"),
    "full": GaussianOptions(covariance="full"),
    "full_by_layer": GaussianOptions(covariance="full", scaling="layer"),
    "full_by_fan_in": GaussianOptions(covariance="full", scaling="fan_in"),
    "low_rank": GaussianOptions(covariance="low_rank", rank=1),
    "factor": GaussianOptions(covariance="factor", rank=1),
    "position_isotropic": GaussianOptions(covariance="isotropic", **POSITION),
    "position_fixed": GaussianOptions(covariance="isotropic", relative_std=0.3, last_snapshot=True, **POSITION),
    "position_diagonal": GaussianOptions(covariance="diagonal", **POSITION),
    "position_full": GaussianOptions(covariance="full", **POSITION),
    "position_low_rank": GaussianOptions(covariance="low_rank", rank=3, **POSITION),
    "branches_isotropic": GaussianOptions(covariance="isotropic", centre="branches"),
    "branches_full": GaussianOptions(covariance="full", centre="branches", shrinkage=None),
    "branches_low_rank": GaussianOptions(covariance="low_rank", rank=3, centre="branches", shrinkage=None),
    "change_full": DisplacementOptions(),
    "change_vae": DisplacementOptions(change=FilterVAEOptions(**VAE)),
    "change_mixture": DisplacementOptions(change=GaussianMixtureOptions(components=2, scaling="layer")),
    "change_spike": DisplacementOptions(change=SpikeAndSlabOptions(norm_threshold=0.1)),
    "mixture_full": GaussianMixtureOptions(components=3),
    "mixture_diagonal": GaussianMixtureOptions(components=3, covariance="diag", scaling="layer"),
    "mixture_spherical": GaussianMixtureOptions(components=2, covariance="spherical"),
    "vae": FilterVAEOptions(**VAE),
    "vae_beta": FilterVAEOptions(beta=4.0, **VAE),
    "vae_importance": FilterVAEOptions(fit_samples=3, **VAE),
    "vae_by_layer": FilterVAEOptions(condition="layer", scaling="layer", embedding=3, **VAE),
    "vae_boosted": FilterVAEOptions(latent_prior="boosted", components=3, component_steps=5, **VAE),
    "vae_boosted_by_layer": FilterVAEOptions(
        latent_prior="boosted", components=2, component_steps=5, condition="layer", **VAE
    ),
    "vae_from_random": FilterVAEOptions(start_at_gaussian=False, norm_input=False, validation_share=0, **VAE),
    "vae_mixture": FilterVAEOptions(latent_prior="mixture", components=3, **VAE),
    "spike": SpikeAndSlabOptions(norm_threshold=0.1),
    "spike_by_layer": SpikeAndSlabOptions(norm_threshold=0.1, slab=GaussianOptions(scaling="layer")),
    "spike_vae": SpikeAndSlabOptions(norm_threshold=0.1, slab=FilterVAEOptions(**VAE)),
    "reuse_spike": ReuseOrRedrawOptions(
        position=GaussianOptions(covariance="isotropic", **POSITION), shape=SpikeAndSlabOptions(norm_threshold=0.1)
    ),
    "reuse": ReuseOrRedrawOptions(
        position=GaussianOptions(covariance="isotropic", **POSITION),
        shape=GaussianMixtureOptions(components=2),
        learn=True,
    ),
    "reuse_vae": ReuseOrRedrawOptions(
        position=GaussianOptions(covariance="low_rank", **POSITION), shape=FilterVAEOptions(**VAE)
    ),
}


def toy_bank(kernel_voxels, seed=0):
    """Three networks of two layers with three snapshots; layers differ in scale, snapshots are near each other.

    They branch from one trunk: the filters that they start from are the same.
    """
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for network in range(3):
        for layer, (outs, ins) in enumerate([(8, 4), (8, 8)]):
            base = torch.randn(outs * ins, kernel_voxels, generator=generator, dtype=torch.float64)
            base[:, 0] += 0.8 * base[:, 1]
            flat = torch.arange(outs * ins)
            for snapshot in range(3):
                noise = torch.randn(base.shape, generator=generator, dtype=torch.float64)
                filters = 0.1 * (layer + 1) * (base + 0.3 * noise)
                full = torch.full_like
                columns.append(
                    (filters, full(flat, layer), flat // ins, flat % ins, full(flat, network), full(flat, snapshot),
                     0.05 * torch.sin(torch.arange(base.numel(), dtype=torch.float64)).reshape(base.shape))
                )  # fmt: skip
    return FilterBank(*(torch.cat(column) for column in zip(*columns, strict=True)))


def fit_anew(name, kernel_voxels=2):
    bank = toy_bank(kernel_voxels)
    prior = build_prior(PRIORS[name], kernel_voxels).double()
    prior.fit(bank, torch.Generator().manual_seed(1))
    return centred(prior, bank), bank


fit_once = functools.lru_cache(maxsize=None)(fit_anew)


def fitted(name, kernel_voxels=2):
    """A fitted prior and its bank for the test alone; what is copied was fitted for all of them."""
    return copy.deepcopy(fit_once(name, kernel_voxels))


def centred(prior, bank):
    """Centres a density of changes on the last filters of network 1."""
    if isinstance(prior, Displacement):
        start = bank.of_network(1).last_snapshots()
        prior.centre_on(start.filters, start.positions)
    return prior


def rows_of_network_1(bank):
    """Returns one row of each layer, of the network whose positions the position priors know."""
    return [int(torch.nonzero((bank.network == 1) & (bank.layer == layer))[5]) for layer in (0, 1)]


def around(centre, count, generator):
    """Draws from normals of three widths around a filter; returns `[count, 2]` and their log density."""
    widths = torch.tensor([0.03, 0.12, 0.6], dtype=torch.float64)
    chosen = widths[torch.randint(0, 3, (count,), generator=generator)][:, None]
    draws = centre + chosen * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    squares = (draws - centre).square().sum(1, keepdim=True)
    log_normals = -0.5 * squares / widths**2 - torch.log(2 * math.pi * widths**2)
    return draws, torch.logsumexp(log_normals, dim=1) - math.log(3)


@pytest.fixture(params=sorted(PRIORS))
def name(request):
    return request.param


def test_density_integrates_to_one(name):
    prior, bank = fitted(name)
    generator = torch.Generator().manual_seed(2)
    count = 40_000
    for row in rows_of_network_1(bank):
        where = bank.positions[torch.full((count,), row)]
        draws, log_proposal = around(bank.filters[row], count, generator)
        # The K-sample ratio is an unbiased estimate of the density; the closed-form KL of K = 1 is not.
        samples = 2 if prior.is_bound else 1
        ratios = (prior.log_prob(draws, where, samples, generator).detach() - log_proposal).exp()
        standard_error = float(ratios.std() / math.sqrt(count))
        assert standard_error < 0.04
        assert float(ratios.mean()) == pytest.approx(1.0, abs=5 * standard_error)


def test_gradients_match_finite_differences(name):
    prior, bank = fitted(name)
    prior.freeze_for_target()
    rows = torch.tensor([0, 40, 250])
    where = bank.positions[rows]

    def score(filters, *_parameters):
        return prior.log_prob(filters, where, 3, torch.Generator().manual_seed(0))

    filters = bank.filters[rows].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(score, (filters,), atol=1e-5)
    if prior.variational_parameters():
        assert torch.autograd.gradcheck(score, (filters, prior.variational_parameters()[-1]), atol=1e-5)


def test_the_expected_density_is_the_mean_over_draws_and_exact_for_gaussians(name):
    prior, bank = fitted(name)
    generator = torch.Generator().manual_seed(4)
    count = 20_000
    row = rows_of_network_1(bank)[:1]
    known = bank.positions[torch.tensor(row)]
    # No source network has the second position.
    for where in (known, replace(known, in_index=known.in_index + 1000)):
        normal = FactorisedNormal(bank.filters[row] + 0.05, torch.tensor([[-5.0, -3.0]], dtype=torch.float64))
        spread = (0.5 * normal.log_variances).exp()
        draws = normal.means + spread * torch.randn(count, 2, generator=generator, dtype=torch.float64)
        every = where[torch.zeros(count, dtype=torch.int64)]
        samples = 2 if prior.is_bound else 1
        scores = prior.log_prob(draws, every, samples, generator).detach()
        found = prior.expected_log_prob(draws[:1], normal, where, samples, torch.Generator().manual_seed(0)).detach()
        pooled = isinstance(prior, Displacement) and where is not known
        if pooled or isinstance(getattr(prior, "change", prior), Gaussian):
            assert float(found) == pytest.approx(float(scores.mean()), abs=5 * float(scores.std()) / math.sqrt(count))
            assert torch.equal(found, prior.expected_log_prob(draws[5:6], normal, where))
            assert torch.equal(prior.expected_log_prob(draws[:1], None, where), prior.log_prob(draws[:1], where))
        else:
            again = prior.log_prob(draws[:1], where, samples, torch.Generator().manual_seed(0)).detach()
            assert torch.equal(found, again)


def test_save_and_load_give_the_same_numbers(name):
    prior, bank = fitted(name)
    again = centred(load_prior(PRIORS[name], {k: v.clone() for k, v in prior.state_dict().items()}), bank)
    where = bank.positions[::7]
    scores = [p.log_prob(bank.filters[::7], where, 4, torch.Generator().manual_seed(0)) for p in (prior, again)]
    assert torch.equal(*scores)
    draws = [p.sample(where, torch.Generator().manual_seed(0)) for p in (prior, again)]
    assert torch.equal(*draws)


def test_fit_is_a_function_of_the_generator(name):
    states = [fit(name)[0].state_dict() for fit in (fit_once, fit_anew)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_samples_have_the_moments_of_the_density(name):
    """E over samples of f(w) = importance-weighted E over a broad proposal of f(w)."""
    prior, bank = fitted(name)
    generator = torch.Generator().manual_seed(3)
    count = 40_000
    row = rows_of_network_1(bank)[1]
    where = bank.positions[torch.full((count,), row)]
    draws = prior.sample(where, generator)
    proposals, log_proposal = around(bank.filters[row], count, generator)
    samples = 4 if prior.is_bound else 1
    weights = (prior.log_prob(proposals, where, samples, generator).detach() - log_proposal).exp()
    for moment in (lambda w: w, lambda w: w.square(), lambda w: w.prod(1, keepdim=True)):
        weighted = weights[:, None] * moment(proposals)
        error = torch.sqrt((weighted.var(0) + moment(draws).var(0)) / count)
        assert ((moment(draws).mean(0) - weighted.mean(0)).abs() < 5 * error).all()


def test_report_says_what_was_fitted(name):
    bank = toy_bank(2)
    prior = build_prior(PRIORS[name], 2).double()
    seen = []
    report = prior.fit(bank, torch.Generator().manual_seed(1), lambda done, total: seen.append((done, total)))
    assert report.filters_given == len(bank)
    assert 0 < report.filters_used <= len(bank)
    assert math.isfinite(report.log_density)
    assert all(done <= total for done, total in seen)
    if report.steps and report.history:
        assert seen[-1][0] == report.steps == seen[-1][1]
        assert report.history[-1] > report.history[0] - 0.5


def test_variational_parameters_are_all_that_learns_on_the_target(name):
    prior, bank = fitted(name)
    prior.freeze_for_target()
    free = {id(p) for p in prior.parameters() if p.requires_grad}
    assert free == {id(p) for p in prior.variational_parameters()}
    filters = bank.filters[:50].clone().requires_grad_(True)
    (prior.log_prob(filters, bank.positions[:50], 3).sum() + prior.hyperprior_log_prob()).backward()
    assert filters.grad.abs().sum() > 0
    for parameter in prior.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad


def test_the_kernel_size_is_that_of_the_bank(name):
    assert build_prior(PRIORS[name]).kernel_voxels == 27
    prior, _ = fitted(name)
    again = load_prior(PRIORS[name], prior.state_dict())
    assert prior.kernel_voxels == again.kernel_voxels == 2


def test_another_kernel_size_is_refused(name):
    with pytest.raises(ModelError, match="kernels of 27 voxels"):
        build_prior(PRIORS[name]).fit(toy_bank(8))
    prior, bank = fitted(name)
    with pytest.raises(ModelError, match="kernels of 2 voxels"):
        prior.log_prob(torch.zeros(1, 27), bank.positions[:1])


def test_unfitted_empty_and_damaged_are_refused(name):
    prior = build_prior(PRIORS[name], 2)
    bank = toy_bank(2)
    with pytest.raises(ModelError, match="not fitted"):
        prior.log_prob(bank.filters, bank.positions)
    with pytest.raises(ModelError, match="1 filters"):
        prior.fit(bank[:1])
    damaged = toy_bank(2)
    damaged.filters[3, 1] = math.nan
    with pytest.raises(ModelError, match="not finite"):
        prior.fit(damaged)


def test_missing_and_unfitting_positions_are_refused(name):
    prior, bank = fitted(name)
    if prior.needs_positions:
        with pytest.raises(ModelError, match="positions"):
            prior.log_prob(bank.filters)
        with pytest.raises(ModelError, match="positions"):
            prior.sample(3)
    else:
        assert prior.sample(3, torch.Generator().manual_seed(0)).shape == (3, 2)
    with pytest.raises(ModelError, match="one position for each filter"):
        prior.log_prob(bank.filters, bank.positions[:3])


def test_free_parameters_are_counted(name):
    prior, _ = fitted(name)
    known = {
        "isotropic": 2 + 1,
        "diagonal": 2 + 2,
        "full": 2 + 3,
        "full_by_layer": 2 + 3 + 1,
        "low_rank": 2 + 2 + 1,
        "factor": 2 + 2 + 2,
        "mixture_full": 2 + 3 * (2 + 3),
        "mixture_spherical": 1 + 2 * (2 + 1),
        "spike": 2 + 3 + 2,
    }
    if name in known:
        assert prior.free_parameters() == known[name]
    elif name.startswith("vae"):
        assert prior.free_parameters() > sum(p.numel() for p in prior.decoder.parameters())
    else:
        # A density that knows more of the filters is never the simpler one.
        assert prior.free_parameters() > known["isotropic"]


@pytest.mark.parametrize("condition", ["none", "layer"])
def test_convolutional_vae_keeps_the_interface(condition):
    """It is for 3×3×3 kernels alone, so the low-dimensional tests above cannot have it."""
    options = FilterVAEOptions(
        architecture="convolutional", condition=condition, latent=2, hidden=(3, 6), max_steps=10, batch=64
    )
    bank = toy_bank(27)
    prior = build_prior(options).double()
    prior.fit(bank, torch.Generator().manual_seed(1))
    again = load_prior(options, prior.state_dict())
    rows = torch.tensor([0, 40, 250])
    where, filters = bank.positions[rows], bank.filters[rows].clone().requires_grad_(True)

    def score(filters, model=prior):
        return model.log_prob(filters, where, 3, torch.Generator().manual_seed(0))

    assert torch.equal(score(filters), score(filters, again))
    assert torch.autograd.gradcheck(score, (filters,), atol=1e-5)
    assert prior.sample(where, torch.Generator().manual_seed(0)).shape == (3, 27)
    with pytest.raises(ModelError, match="kernels of 27 voxels"):
        prior.fit(toy_bank(8))


def test_factor_analysis_finds_what_was_put_in():
    generator = torch.Generator().manual_seed(0)
    loadings = torch.tensor([[1.0], [-0.5], [0.8], [0.3], [0.6]]).double()
    noise = torch.tensor([0.1, 0.5, 0.2, 1.0, 0.05]).double()
    truth = torch.distributions.MultivariateNormal(torch.zeros(5).double(), loadings @ loadings.T + torch.diag(noise))
    latents = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    filters = latents @ loadings.T + noise.sqrt() * torch.randn(20_000, 5, generator=generator, dtype=torch.float64)
    index = torch.arange(len(filters))
    bank = FilterBank(filters, 0 * index, index, 0 * index, 0 * index, 0 * index)
    scores = {}
    for covariance in ("factor", "low_rank"):
        prior = build_prior(GaussianOptions(covariance=covariance, rank=1), 5).double()
        prior.fit(bank)
        scores[covariance] = float((truth.log_prob(filters) - prior.log_prob(filters)).mean())
    assert abs(scores["factor"]) < 0.01 < 0.1 < scores["low_rank"]


def test_a_state_of_other_options_is_refused():
    prior, _ = fitted("vae")
    with pytest.raises(ModelError, match="fit-priors"):
        load_prior(PRIORS["full"], prior.state_dict())


def test_a_mixture_is_fitted_to_a_sample_of_many_filters_and_says_so(monkeypatch):
    monkeypatch.setattr("models.priors.gaussian_mixture._MOST_FILTERS", 100)
    bank = toy_bank(2)
    prior = build_prior(GaussianMixtureOptions(components=2), 2).double()
    report = prior.fit(bank, torch.Generator().manual_seed(0))
    assert (report.filters_given, report.filters_used) == (len(bank), 100)


SCALABLE = [name for name, options in PRIORS.items() if can_scale_layers(options)]


@pytest.mark.parametrize("name", SCALABLE)
def test_learned_scales_are_the_most_probable_and_a_density_with_them_integrates_to_one(name):
    prior, bank = fitted(name)
    mine = bank.of_network(1).last_snapshots()
    where, filters = mine.positions, mine.filters + 0.2
    normal = FactorisedNormal(filters, torch.full_like(filters, -4.0))
    before = prior.log_prob(filters, where)
    prior.learn_layer_scales(where, 0.2)
    assert prior.layer_scales() == {0: 1.0, 1: 1.0}
    # Factors of 1 go through operations of their own, which do not round alike on every processor.
    torch.testing.assert_close(prior.log_prob(filters, where), before, rtol=1e-12, atol=1e-12)
    prior.settle_layer_scales(filters, normal, where)
    found = prior.layer_scales()
    own = getattr(prior, "change", prior).scales

    def objective():
        return float(prior.expected_log_prob(filters, normal, where).sum() + prior.hyperprior_log_prob())

    best = objective()
    for layer in (0, 1):
        for factor in (0.9, 1.1):
            own.log_values[layer] += math.log(factor)
            assert objective() < best
            own.log_values[layer] -= math.log(factor)
    # The factor 1 that the source says holds what the target says: of nothing but centres, a sixth of the variance.
    assert all(value > math.sqrt(0.2 / 1.2) for value in found.values())
    assert found[0] != pytest.approx(1.0, abs=0.02)
    generator = torch.Generator().manual_seed(2)
    row, count = rows_of_network_1(bank)[0], 40_000
    draws, log_proposal = around(bank.filters[row], count, generator)
    ratios = (prior.log_prob(draws, bank.positions[torch.full((count,), row)]) - log_proposal).exp()
    assert float(ratios.mean()) == pytest.approx(1.0, abs=5 * float(ratios.std()) / math.sqrt(count))
    sampled = prior.sample(where[torch.full((count,), 5)], generator)
    normal = FactorisedNormal(sampled.mean(0)[None], sampled.var(0).log()[None])
    # Of a Gaussian, the mean squared distance of draws from the mean is its dimension.
    peak = prior.log_prob(normal.means, where[torch.tensor([5])])
    mean = prior.log_prob(sampled, where[torch.full((count,), 5)]).mean()
    assert 2 * float(peak - mean) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("name", sorted(set(PRIORS) - set(SCALABLE)))
def test_other_priors_refuse_learned_scales_and_have_none_to_settle(name):
    prior, bank = fitted(name)
    with pytest.raises(ModelError, match="cannot have a learned scale for each layer"):
        prior.learn_layer_scales(bank.positions, 0.1)
    assert prior.layer_scales() == {}


@pytest.mark.parametrize("name", sorted(PRIORS))
def test_a_bank_is_scored_as_its_filters_are(name):
    prior, bank = fitted(name)
    part = bank.of_network(1)[::5]
    found = prior.score(part, 3, torch.Generator().manual_seed(0))
    if isinstance(prior, Displacement):
        # Each from its own start, whatever the density is centred on.
        prior.centre_on(part.starts, part.positions)
    assert torch.allclose(found, prior.log_prob(part.filters, part.positions, 3, torch.Generator().manual_seed(0)))

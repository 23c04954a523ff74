import math

import pytest
import torch

from data.errors import ModelError
from models.filter_bank import FilterBank
from models.filters import FilterGrouping, FilterLayer, filter_layers, get_filters, group_layers
from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions
from models.objectives import (
    FilterGroups,
    Likelihood,
    SegmentationLoss,
    bound_gap,
    kl_term,
)
from models.posteriors.mean_field import MeanField
from models.posteriors.mixture import Mixture, Repulsion
from models.posteriors.point import Point
from models.priors.filter_vae import FilterVAE
from models.priors.gaussian import Gaussian
from models.priors.gaussian_options import GaussianOptions
from models.priors.reuse_or_redraw import ReuseOrRedraw, ReuseOrRedrawOptions
from models.priors.vae_options import FilterVAEOptions

LAYERS = (FilterLayer("a", 2, 3, False), FilterLayer("b", 3, 5, False), FilterLayer("c", 5, 2, True))
GROUPS = {"outer": (LAYERS[0], LAYERS[2]), "inner": (LAYERS[1],)}
INDEX = FilterGroups.of(GROUPS, LAYERS)


def bank_of_group(name, kernel_voxels=27, seed=0):
    positions = INDEX.positions[name]
    generator = torch.Generator().manual_seed(seed)
    count = len(positions) * 20
    rows = torch.arange(count) % len(positions)
    scale = 0.3 if name == "outer" else 0.1
    filters = scale * torch.randn(count, kernel_voxels, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(count, dtype=torch.int64)
    where = positions[rows]
    return FilterBank(
        filters, where.layer, where.out_index, where.in_index, zeros, torch.arange(count) // len(positions)
    )


def gaussian_priors(**options):
    priors = {}
    for name in GROUPS:
        priors[name] = Gaussian(GaussianOptions(**options)).double()
        priors[name].fit(bank_of_group(name))
    return priors


def mean_field():
    generator = torch.Generator().manual_seed(1)
    means = 0.1 * torch.randn(INDEX.count, 27, generator=generator, dtype=torch.float64)
    return MeanField(means, -4.0 + torch.rand(INDEX.count, 27, generator=generator, dtype=torch.float64))


def test_rows_of_groups_follow_the_order_of_the_network():
    assert INDEX.count == 6 + 15 + 10
    assert INDEX.rows["outer"].tolist() == [*range(6), *range(21, 31)]
    assert INDEX.rows["inner"].tolist() == list(range(6, 21))


def test_rows_of_groups_pick_the_filters_of_their_layers():
    network = build_network(ResidualUNetOptions(channels=(4, 6, 8), encoder_blocks=(0, 1, 1)), 1, 2)
    layers = filter_layers(network)
    filters = get_filters(network.state_dict(), layers)
    groups = group_layers(network, FilterGrouping.RESOLUTION)
    index = FilterGroups.of(groups, layers)
    for name, members in groups.items():
        assert torch.equal(filters[index.rows[name]], get_filters(network.state_dict(), members))


def closed_form_kl(posterior, priors):
    """KL of mean-field normals to the group's full-covariance Gaussian, by torch's own closed form."""
    total = torch.zeros((), dtype=torch.float64)
    for name, prior in priors.items():
        rows = INDEX.rows[name]
        colouring = prior.pooled.colouring
        p = torch.distributions.MultivariateNormal(prior.pooled.mean, colouring.T @ colouring)
        variances = posterior.log_variances[rows].detach().exp()
        q = torch.distributions.MultivariateNormal(posterior.means[rows].detach(), torch.diag_embed(variances))
        total = total + torch.distributions.kl_divergence(q, p).sum()
    return float(total)


@pytest.mark.parametrize("covariance", ["isotropic", "full"])
@pytest.mark.parametrize("kind", ["mean_field", "component in training"])
def test_kl_of_normals_and_gaussians_is_the_closed_form_whatever_was_drawn(covariance, kind):
    own, priors = mean_field(), gaussian_priors(covariance=covariance)
    posterior = own
    if kind == "component in training":
        posterior = Mixture([MeanField(own.means + 1, -2.0), own], repulsion=Repulsion.NONE)
        posterior.train_component(1)
    for seed in range(3):
        found = kl_term(posterior, priors, INDEX, generator=torch.Generator().manual_seed(seed)).kl
        assert float(found.detach()) == pytest.approx(closed_form_kl(own, priors), rel=1e-9)
    # So its gradient has no noise, either.
    found.backward()
    precision = {name: prior.pooled.whitening @ prior.pooled.whitening.T for name, prior in priors.items()}
    for name, prior in priors.items():
        rows = INDEX.rows[name]
        of_means = (own.means[rows].detach() - prior.pooled.mean) @ precision[name]
        assert torch.allclose(own.means.grad[rows], of_means)
        of_variances = 0.5 * (torch.diagonal(precision[name]) * own.log_variances[rows].detach().exp() - 1)
        assert torch.allclose(own.log_variances.grad[rows], of_variances)


def test_a_mixture_as_a_whole_is_scored_at_its_draw():
    own, priors = mean_field(), gaussian_priors()
    mixture = Mixture([MeanField(own.means + 1, -2.0), own])
    drawn = mixture.sample(torch.Generator().manual_seed(0)).detach()
    found = kl_term(mixture, priors, INDEX, drawn).kl
    log_prior = sum(prior.log_prob(drawn[INDEX.rows[name]]).sum() for name, prior in priors.items())
    assert float(found.detach()) == pytest.approx(float((-mixture.entropy_term(drawn).sum() - log_prior).detach()))


def test_kl_of_a_posterior_that_is_the_prior_is_zero():
    priors = gaussian_priors(covariance="isotropic", zero_mean=True)
    posterior = MeanField(torch.zeros(INDEX.count, 27, dtype=torch.float64), 0.0)
    with torch.no_grad():
        for name, prior in priors.items():
            posterior.log_variances[INDEX.rows[name]] = 2 * torch.log(prior.pooled.colouring[0, 0])
    term = kl_term(posterior, priors, INDEX, generator=torch.Generator().manual_seed(0))
    assert float(term.kl.detach()) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_random_subset_is_unbiased(share):
    posterior, priors = mean_field(), gaussian_priors()
    filters = posterior.sample(torch.Generator().manual_seed(3)).detach()
    full = kl_term(posterior, priors, INDEX, filters=filters)
    generator = torch.Generator().manual_seed(4)
    terms = [kl_term(posterior, priors, INDEX, share=share, generator=generator, filters=filters) for _ in range(200)]
    for pick in (lambda t: t.kl.detach(), lambda t: t.kl_per_group["inner"]):
        values = torch.stack([pick(term) for term in terms])
        assert float(values.std()) > 0
        assert float(values.mean()) == pytest.approx(
            float(pick(full).detach()), abs=4 * float(values.std()) / math.sqrt(len(values))
        )


def test_gradient_of_a_random_subset_is_unbiased():
    posterior, priors = mean_field(), gaussian_priors()
    noise_seed = 3

    def gradient(share, generator):
        posterior.zero_grad()
        filters = posterior.sample(torch.Generator().manual_seed(noise_seed))
        kl_term(posterior, priors, INDEX, share=share, generator=generator, filters=filters).kl.backward()
        return posterior.means.grad.clone()

    full = gradient(1.0, None)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([gradient(0.5, generator) for _ in range(150)])
    error = (draws.mean(0) - full) / (draws.std(0) / math.sqrt(len(draws)) + 1e-12)
    assert float(error.abs().max()) < 5.5


def test_groups_add_up():
    posterior, priors = mean_field(), gaussian_priors()
    filters = posterior.sample(torch.Generator().manual_seed(0)).detach()
    term = kl_term(posterior, priors, INDEX, filters)
    assert sum(float(v) for v in term.kl_per_group.values()) == pytest.approx(float(term.kl))
    entropy = posterior.entropy_per_filter()
    for name, prior in priors.items():
        rows = INDEX.rows[name]
        normal = posterior.normal().rows(rows)
        own = -entropy[rows].sum() - prior.expected_log_prob(filters[rows], normal, INDEX.positions[name]).sum()
        assert float(term.kl_per_group[name]) == pytest.approx(float(own.detach()))


def test_point_estimate_gives_the_map_objective():
    priors = gaussian_priors()
    posterior = Point(mean_field().means)
    term = kl_term(posterior, priors, INDEX)
    expected = -sum(prior.log_prob(posterior.filters[INDEX.rows[name]]).sum() for name, prior in priors.items())
    assert float(term.kl) == pytest.approx(float(expected.detach()))


def test_group_without_a_prior_is_left_out():
    posterior, priors = mean_field(), gaussian_priors()
    kl_term(posterior, {"inner": priors["inner"]}, INDEX, generator=torch.Generator().manual_seed(0)).kl.backward()
    assert float(posterior.means.grad[INDEX.rows["outer"]].abs().sum()) == 0.0
    assert float(posterior.means.grad[INDEX.rows["inner"]].abs().min()) > 0.0


def test_the_encoder_learns_on_the_target_and_the_decoder_stays():
    posterior = mean_field()
    prior = FilterVAE(FilterVAEOptions(latent=2, hidden=(8,), max_steps=30, batch=32)).double()
    prior.fit(bank_of_group("inner"), torch.Generator().manual_seed(0))
    prior.freeze_for_target()
    term = kl_term(posterior, {"inner": prior}, INDEX, samples=1, generator=torch.Generator().manual_seed(0))
    term.kl.backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in prior.variational_parameters())
    assert all(p.grad is None for p in prior.decoder.parameters())
    assert float(posterior.log_variances.grad[INDEX.rows["inner"]].abs().min()) > 0


def test_hyperprior_enters_once_whatever_the_share():
    position = GaussianOptions(covariance="isotropic", centre="source_position")
    prior = ReuseOrRedraw(ReuseOrRedrawOptions(position=position, shape=GaussianOptions(), learn=True)).double()
    prior.fit(bank_of_group("inner"), torch.Generator().manual_seed(0))
    posterior = mean_field()
    filters = posterior.mean().detach()

    def kl():
        return float(kl_term(posterior, {"inner": prior}, INDEX, filters=filters).kl.detach())

    rest = kl() + float(prior.hyperprior_log_prob())
    expected = (
        -posterior.entropy_per_filter()[INDEX.rows["inner"]].sum()
        - prior.log_prob(filters[INDEX.rows["inner"]], INDEX.positions["inner"]).sum()
    )
    assert rest == pytest.approx(float(expected.detach()))


def test_bound_gap_shrinks_with_k_and_is_zero_for_exact_priors():
    generator = torch.Generator().manual_seed(0)
    bank = bank_of_group("inner")
    prior = FilterVAE(FilterVAEOptions(latent=4, hidden=(16,), max_steps=200, batch=64)).double()
    scales = torch.exp(torch.randn(len(bank), 1, generator=generator, dtype=torch.float64))
    bank = FilterBank(
        bank.filters * scales, *(getattr(bank, n) for n in ("layer", "out_index", "in_index", "network", "snapshot"))
    )
    prior.fit(bank, generator)
    gaps = [float(bound_gap(prior, bank.filters, None, k, 64, generator)) for k in (1, 8)]
    assert gaps[0] > gaps[1] > -0.02
    assert gaps[0] > 0.05
    assert float(bound_gap(gaussian_priors()["inner"], bank.filters, None, 1)) == 0.0


def test_arguments_out_of_range_are_refused():
    posterior, priors = mean_field(), gaussian_priors()
    for wrong in ({"share": 0.0}, {"share": 1.5}, {"samples": 0}):
        with pytest.raises(ModelError, match="share"):
            kl_term(posterior, priors, INDEX, **wrong)
    with pytest.raises(ModelError, match="'stem'"):
        kl_term(posterior, {"stem": priors["inner"]}, INDEX)
    with pytest.raises(ModelError, match="3 filters"):
        kl_term(MeanField(torch.zeros(3, 27), 0.0), priors, INDEX)


def cross_entropy_by_hand(logits, labels):
    log_p = logits.log_softmax(1)
    return -torch.gather(log_p, 1, labels[:, None]).mean()


def test_cross_entropy_is_the_mean_negative_log_likelihood_per_voxel():
    logits, labels = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    loss = SegmentationLoss(Likelihood.CROSS_ENTROPY)
    assert torch.allclose(loss(logits, labels), cross_entropy_by_hand(logits, labels))


def test_dice_part_is_one_minus_the_soft_dice_of_the_foreground():
    logits, labels = torch.randn(2, 2, 4, 4, 4), torch.randint(0, 2, (2, 4, 4, 4))
    probability = logits.softmax(1)[:, 1]
    dice = 2 * (probability * labels).sum() / (probability.sum() + labels.sum())
    expected = cross_entropy_by_hand(logits, labels) + (1 - dice)
    assert torch.allclose(SegmentationLoss()(logits, labels), expected, atol=1e-5)


def test_perfect_logits_have_next_to_no_loss_and_an_empty_label_is_finite():
    labels = torch.randint(0, 2, (1, 4, 4, 4))
    logits = 30.0 * torch.nn.functional.one_hot(labels, 2).permute(0, 4, 1, 2, 3).float()
    loss = SegmentationLoss()
    assert float(loss(logits, labels)) < 1e-4
    assert math.isfinite(float(loss(logits, torch.zeros_like(labels))))

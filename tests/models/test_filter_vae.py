import math

import pytest
import torch
from torch import nn

from data.errors import ModelError
from models.filter_bank import FilterBank
from models.priors.filter_vae import FilterVAE
from models.priors.gaussian import Gaussian
from models.priors.gaussian_options import GaussianOptions
from models.priors.vae_networks import GaussianNet
from models.priors.vae_options import FilterVAEOptions
from models.priors.vae_training import set_aside


def bank_of(filters, layer=None):
    index = torch.arange(len(filters))
    zeros = torch.zeros_like(index)
    return FilterBank(filters, zeros if layer is None else layer, index, zeros, zeros, zeros)


class Affine(nn.Module):
    """Mean a linear map of the input, log-variance a constant."""

    def __init__(self, weight, bias, log_variance):
        super().__init__()
        self.weight, self.bias, self.log_variance = (nn.Parameter(p) for p in (weight, bias, log_variance))

    def forward(self, inputs, _context):
        mean = inputs @ self.weight.T + self.bias
        return mean, self.log_variance.expand(len(inputs), -1)


@pytest.fixture
def linear():
    """A VAE with a linear decoder, whose density is known: N(b, W Wᵀ + σ² I), and its exact encoder."""
    generator = torch.Generator().manual_seed(4)
    prior = FilterVAE(FilterVAEOptions(latent=2, norm_input=False), kernel_voxels=3).double()
    weight = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    bias = torch.randn(3, generator=generator, dtype=torch.float64)
    noise = torch.full((3,), 0.4, dtype=torch.float64)
    prior.decoder = Affine(weight, bias, noise.log())
    precision = torch.eye(2, dtype=torch.float64) + weight.T @ weight / 0.4
    covariance = torch.linalg.inv(precision)
    prior.fitted.fill_(True)
    exact = torch.distributions.MultivariateNormal(bias, weight @ weight.T + torch.diag(noise))
    # The exact posterior of z has a full covariance; the encoder is diagonal, so only its mean can be exact.
    gain = covariance @ weight.T / 0.4
    prior.encoder = Affine(gain, -gain @ bias, torch.diagonal(covariance).log())
    filters = exact.sample((400,))
    return prior, exact, filters


def test_bound_is_below_the_exact_value_and_rises_with_k(linear):
    prior, exact, filters = linear
    generator = torch.Generator().manual_seed(0)
    truth = exact.log_prob(filters).mean()
    values = []
    for samples, repeats in ((1, 64), (2, 64), (8, 32), (64, 8)):
        draws = [prior.log_prob(filters, None, samples, generator).mean() for _ in range(repeats)]
        values.append(torch.stack(draws).mean())
    assert values[0] < values[1] < values[2] < values[3] < truth
    assert truth - values[3] < 0.02


def test_a_poor_encoder_still_gives_a_bound_that_closes_with_k(linear):
    prior, exact, filters = linear
    with torch.no_grad():
        prior.encoder.weight.mul_(0.8)
        prior.encoder.log_variance.add_(1.0)
    generator = torch.Generator().manual_seed(0)
    truth = float(exact.log_prob(filters).mean())
    few, many = (float(prior.log_prob(filters, None, k, generator).mean().detach()) for k in (1, 512))
    assert few < truth - 0.2
    assert many == pytest.approx(truth, abs=0.05)


@pytest.mark.slow
def test_one_dimensional_latent_with_the_exact_encoder_is_exact_for_every_k():
    prior = FilterVAE(FilterVAEOptions(latent=1, norm_input=False), kernel_voxels=2).double()
    weight = torch.tensor([[1.0], [-0.5]], dtype=torch.float64)
    precision = 1 + float((weight**2).sum()) / 0.3
    prior.decoder = Affine(weight, torch.zeros(2).double(), torch.full((2,), math.log(0.3)).double())
    prior.encoder = Affine(
        weight.T / 0.3 / precision, torch.zeros(1).double(), torch.tensor([-math.log(precision)]).double()
    )
    prior.fitted.fill_(True)
    exact = torch.distributions.MultivariateNormal(
        torch.zeros(2).double(), weight @ weight.T + 0.3 * torch.eye(2).double()
    )
    filters = exact.sample((50,))
    for samples in (2, 7):
        assert torch.allclose(prior.log_prob(filters, None, samples), exact.log_prob(filters), atol=1e-10)
    # K = 1 takes the KL in closed form: exact only in expectation over z.
    one = torch.stack([prior.log_prob(filters, None, 1) for _ in range(4000)]).mean(0)
    assert torch.allclose(one, exact.log_prob(filters), atol=0.08)


def test_published_bound_is_the_reconstruction_minus_the_closed_form_kl(linear):
    prior, _, filters = linear
    mean, log_variance = prior.encode(filters)
    r = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    kl = torch.distributions.kl_divergence(r, torch.distributions.Normal(0.0, 1.0)).sum(1)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    decoded, decoded_log_variance = prior.decoder(mean + r.stddev * noise, None)
    likelihood = torch.distributions.Normal(decoded, torch.exp(0.5 * decoded_log_variance)).log_prob(filters).sum(1)
    score = prior.log_prob(filters, None, 1, torch.Generator().manual_seed(8))
    assert torch.allclose(score, likelihood - kl, atol=1e-10)


def test_jacobian_of_the_scaling_counts():
    """The same filters in units a hundred times smaller have a density 100²⁷ times larger."""
    filters = torch.randn(600, 27)
    scores = []
    for factor in (1.0, 0.01):
        prior = FilterVAE(FilterVAEOptions(max_steps=30, hidden=(16,)))
        prior.fit(bank_of(filters * factor), torch.Generator().manual_seed(0))
        scores.append(prior.log_prob(filters * factor, None, 4, torch.Generator().manual_seed(1)).mean())
    assert float((scores[1] - scores[0]).detach()) == pytest.approx(27 * math.log(100), abs=0.1)


def heavy_tailed(count, generator):
    """Filters whose norms vary: a scale mixture, which no Gaussian describes."""
    scales = torch.exp(torch.randn(count, 1, generator=generator))
    return 0.05 * scales * torch.randn(count, 27, generator=generator)


@pytest.mark.slow
def test_vae_beats_the_full_gaussian_where_filters_are_not_gaussian():
    generator = torch.Generator().manual_seed(0)
    train, held_out = heavy_tailed(6000, generator), heavy_tailed(1000, generator)
    gaussian = Gaussian(GaussianOptions())
    gaussian.fit(bank_of(train))
    vae = FilterVAE(FilterVAEOptions(max_steps=400, hidden=(32,)))
    vae.fit(bank_of(train), generator)
    gain = vae.log_prob(held_out, None, 8, generator) - gaussian.log_prob(held_out)
    assert float(gain.mean()) > 3.0


@pytest.mark.slow
def test_vae_does_not_lose_to_the_full_gaussian_where_filters_are_gaussian():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(27, 27, generator=generator)
    train, held_out = (torch.randn(n, 27, generator=generator) @ mixing for n in (6000, 1000))
    gaussian = Gaussian(GaussianOptions())
    gaussian.fit(bank_of(train))
    vae = FilterVAE(FilterVAEOptions(max_steps=400, hidden=(32,)))
    vae.fit(bank_of(train), generator)
    gain = vae.log_prob(held_out, None, 8, generator) - gaussian.log_prob(held_out)
    assert float(gain.mean()) > -0.3


def test_decoder_variance_has_a_floor_and_no_ceiling():
    net = GaussianNet(nn.Identity(), nn.Identity(), nn.Identity(), floor=-4.0).double()
    _, log_variance = net(torch.tensor([[-1e4, -4.0, 0.0, 50.0]], dtype=torch.float64), None)
    assert float(log_variance.min()) == pytest.approx(-4.0)
    assert float(log_variance.max()) == pytest.approx(50.0)
    assert (log_variance.diff() > 0).all()


@pytest.mark.slow
def test_conditional_vae_learns_what_differs_between_layers():
    generator = torch.Generator().manual_seed(0)
    layer = torch.randint(0, 2, (4000,), generator=generator)
    filters = torch.randn(4000, 27, generator=generator)
    filters[:, 0] += torch.where(layer == 0, -4.0, 4.0)
    bank = bank_of(filters, layer)
    prior = FilterVAE(FilterVAEOptions(condition="layer", max_steps=400, hidden=(32,), latent=2))
    prior.fit(bank, generator)
    right = prior.log_prob(filters, bank.positions, 4, generator).mean()
    swapped = bank_of(filters, 1 - layer).positions
    assert float(right - prior.log_prob(filters, swapped, 4, generator).mean()) > 1.0
    unknown = bank_of(filters, layer + 7).positions
    with pytest.raises(ModelError, match=r"layers numbered \[7, 8\]"):
        prior.log_prob(filters, unknown)


def test_beta_trades_reconstruction_for_a_smaller_kl():
    generator = torch.Generator().manual_seed(0)
    bank = bank_of(heavy_tailed(2000, generator))
    kls = []
    for beta in (1.0, 8.0):
        prior = FilterVAE(FilterVAEOptions(beta=beta, max_steps=150, hidden=(16,)))
        prior.fit(bank, torch.Generator().manual_seed(0))
        mean, log_variance = prior.encode(bank.filters)
        kls.append(float(prior.latent_prior.kl(mean, log_variance, mean).mean()))
    assert kls[1] < 0.7 * kls[0]


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["none", "layer"])
def test_convolutional_vae_learns_what_an_isotropic_gaussian_cannot(condition):
    generator = torch.Generator().manual_seed(0)
    layer = torch.randint(0, 2, (1000,), generator=generator)
    # Kernels that are a slope along x with some noise: neighbours are alike.
    slope = torch.linspace(-1, 1, 3).reshape(3, 1, 1).expand(3, 3, 3).flatten()
    weight = torch.randn(1000, 1, generator=generator)
    filters = 0.1 * (weight * slope + 0.2 * torch.randn(1000, 27, generator=generator))
    bank = bank_of(filters, layer)
    gaussian = Gaussian(GaussianOptions(covariance="isotropic"))
    options = FilterVAEOptions(
        architecture="convolutional",
        condition=condition,
        hidden=(4, 16),
        max_steps=200,
        batch=64,
        learning_rate=2e-2,
        validation_share=0,
    )
    prior = FilterVAE(options)
    report = prior.fit(bank, torch.Generator().manual_seed(0))
    assert report.log_density > gaussian.fit(bank).log_density + 5
    draws = prior.sample(bank.positions, generator)
    slopes = torch.stack([(draws @ slope).std(), (filters @ slope).std()])
    assert float(slopes[0]) > 0.4 * float(slopes[1])
    with pytest.raises(ModelError, match="3×3×3"):
        FilterVAE(options, kernel_voxels=8)


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["none", "layer"])
def test_training_starts_at_the_full_gaussian(condition):
    generator = torch.Generator().manual_seed(0)
    bank = bank_of(heavy_tailed(1500, generator), torch.randint(0, 2, (1500,), generator=generator))
    # A rate of nothing leaves the start as it is.
    options = FilterVAEOptions(hidden=(8,), max_steps=1, learning_rate=1e-12, condition=condition, validation_share=0)
    vae, gaussian = FilterVAE(options), Gaussian(GaussianOptions())
    vae.fit(bank, generator)
    gaussian.fit(bank)
    # Whatever the encoder says, many draws give the density itself.
    found = vae.log_prob(bank.filters[:200], bank.positions[:200], 4000, generator).detach()
    assert torch.allclose(found.median(), gaussian.log_prob(bank.filters[:200]).median(), atol=0.05)
    decoded, log_variance = vae.decode_standardised(torch.randn(5, 6), torch.zeros(5, dtype=torch.int64))
    assert decoded.abs().max() < 1e-6
    assert log_variance.abs().max() < 1e-6


@pytest.mark.slow
def test_a_small_group_is_not_fitted_to_death():
    """The state that scores best on positions that were not trained on is kept: no worse than the Gaussian it began."""
    generator = torch.Generator().manual_seed(0)
    train, test = 0.1 * torch.randn(300, 27, generator=generator), 0.1 * torch.randn(2000, 27, generator=generator)
    scores = {}
    for share in (0.0, 0.2):
        vae = FilterVAE(FilterVAEOptions(max_steps=300, epochs=1000, validation_share=share, hidden=(64,), batch=64))
        vae.fit(bank_of(train), torch.Generator().manual_seed(1))
        scores[share] = float(vae.log_prob(test, None, 16, generator).mean().detach())
    gaussian = Gaussian(GaussianOptions())
    gaussian.fit(bank_of(train))
    reference = float(gaussian.log_prob(test).mean())
    assert scores[0.2] > reference - 0.4
    assert scores[0.0] < scores[0.2] - 0.3


def test_snapshots_of_a_position_stay_on_one_side():
    keys = torch.arange(100).repeat(3)
    trained, checked = set_aside(keys, 0.25, torch.Generator().manual_seed(0))
    assert len(checked) == 75
    assert len(trained) == 225
    assert not set(keys[trained].tolist()) & set(keys[checked].tolist())
    only, none = set_aside(torch.zeros(4), 0.5, None)
    assert (len(only), len(none)) == (4, 0)

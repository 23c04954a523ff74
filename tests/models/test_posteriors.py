"""One interface test over every posterior, and what is particular to each."""

import math

import pytest
import torch
from torch import nn

from data.errors import ModelError
from models.filters import FilterLayer, filter_layers, get_filters
from models.posteriors.factory import build_posterior
from models.posteriors.mean_field import MeanField, MeanFieldOptions
from models.posteriors.mixture import Mixture, MixtureOptions, Repulsion, combine
from models.posteriors.point import Point, PointOptions
from models.posteriors.swag import SWAG, SWAGOptions

NETWORK = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ConvTranspose3d(2, 3, 3)).double()
LAYERS = filter_layers(NETWORK)
OPTIONS = {
    "point": PointOptions(),
    "mean_field": MeanFieldOptions(initial_log_variance=-2.0),
    "mean_field_antithetic": MeanFieldOptions(initial_log_variance=-2.0, antithetic=True),
    "mean_field_absolute": MeanFieldOptions(initial_log_variance=-5.0, relative_to_layer=False),
    "mixture": MixtureOptions(components=2, component=MeanFieldOptions(initial_log_variance=-2.0)),
    "swag": SWAGOptions(rank=5),
}


def samples(posterior, number, generator):
    return torch.stack([filters for _, filters in posterior.draw_each(number, generator)])


def starts():
    generator = torch.Generator().manual_seed(0)
    first = get_filters(NETWORK.state_dict(), LAYERS)
    return [first, first + 0.1 * torch.randn(first.shape, generator=generator, dtype=torch.float64)]


def posterior_of(name):
    options = OPTIONS[name]
    given = starts() if isinstance(options, MixtureOptions) else starts()[0]
    posterior = build_posterior(options, given, LAYERS)
    if isinstance(posterior, SWAG):
        generator = torch.Generator().manual_seed(7)
        for _ in range(8):
            posterior.collect(given + 0.05 * torch.randn(given.shape, generator=generator, dtype=torch.float64))
    return posterior


@pytest.fixture(params=sorted(OPTIONS))
def name(request):
    return request.param


def test_shapes(name):
    posterior = posterior_of(name)
    count = sum(layer.count for layer in LAYERS)
    generator = torch.Generator().manual_seed(0)
    assert posterior.count == count
    assert posterior.sample(generator).shape == (count, 27)
    assert samples(posterior, 3, generator).shape == (3, count, 27)
    assert posterior.mean().shape == (count, 27)
    assert posterior.entropy_per_filter().shape == (count,)
    assert posterior.entropy_term(posterior.sample(generator)).shape == (count,)


def test_draws_are_a_function_of_the_generator(name):
    posterior = posterior_of(name)
    first, again = (samples(posterior, 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)


def test_mean_is_the_mean_of_the_draws(name):
    posterior = posterior_of(name)
    draws = samples(posterior, 2000, torch.Generator().manual_seed(0)).detach()
    error = (draws.mean(0) - posterior.mean()) / (draws.std(0) / math.sqrt(2000) + 1e-12)
    assert float(error.abs().max()) < 5.5


def test_entropy_is_minus_the_mean_log_density(name):
    posterior = posterior_of(name)
    if not posterior.has_density:
        with pytest.raises(ModelError, match="no density"):
            posterior.log_prob(posterior.mean())
        return
    draws = samples(posterior, 1000, torch.Generator().manual_seed(0)).detach()
    if name == "mixture":  # log_prob is of the marginal mixture, whose entropy exceeds that of the components
        posterior.train_component(1)
        draws = samples(posterior, 1000, torch.Generator().manual_seed(0)).detach()
        scores = torch.stack([posterior.components[1].log_prob(draw) for draw in draws])
    else:
        scores = torch.stack([posterior.log_prob(draw) for draw in draws])
    error = (-scores.mean(0) - posterior.entropy_per_filter()) / (scores.std(0) / math.sqrt(1000))
    assert float(error.detach().abs().max()) < 5


def test_save_and_load_give_the_same_draws(name):
    posterior, other = posterior_of(name), build_posterior(OPTIONS[name], [s + 1 for s in starts()], LAYERS)
    other.load_state_dict(posterior.state_dict())
    draws = [q.sample(torch.Generator().manual_seed(0)) for q in (posterior, other)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("trained", ["point", "mean_field", "mean_field_absolute"])
def test_draws_carry_gradients_to_every_parameter(trained):
    posterior = posterior_of(trained)
    posterior.sample(torch.Generator().manual_seed(0)).square().sum().backward()
    for parameter in posterior.parameters():
        assert float(parameter.grad.abs().min()) > 0


@pytest.mark.parametrize(("log_variance", "share"), [(0.0, 1.0), (-2.0, 0.3679), (-4.0, 0.1353), (-6.0, 0.0498)])
def test_initial_variance_is_relative_to_each_layer(log_variance, share):
    layers = (FilterLayer("a", 1, 4, False), FilterLayer("b", 1, 4, False))
    means = torch.cat([torch.full((4, 27), 0.1), torch.full((4, 27), 10.0)])
    posterior = MeanField.from_options(MeanFieldOptions(initial_log_variance=log_variance), means, layers)
    ratio = (0.5 * posterior.log_variances).exp() / means
    assert torch.allclose(ratio, torch.full_like(ratio, share), rtol=1e-3)


def test_antithetic_draws_mirror_at_the_mean():
    posterior = posterior_of("mean_field_antithetic")
    draws = samples(posterior, 5, torch.Generator().manual_seed(0))
    assert torch.allclose(draws[0] + draws[1], 2 * posterior.mean())
    assert torch.allclose(draws[2] + draws[3], 2 * posterior.mean())
    assert not torch.allclose(draws[0], draws[2])


def mixture_on_a_line(means, std, **kwargs):
    components = [MeanField(torch.full((1, 2), m).double(), 2 * math.log(std)) for m in means]
    return Mixture(components, **kwargs)


def test_mixture_draws_a_whole_network_from_one_component():
    components = [MeanField(torch.full((50, 3), float(m)), -10.0) for m in (-1, 1)]
    for draw in samples(Mixture(components), 6, torch.Generator().manual_seed(0)):
        assert len(torch.unique(draw.sign())) == 1


def test_mixture_draws_are_stratified_by_weight():
    mixture = mixture_on_a_line([-1.0, 1.0], 1e-3, weights=[3.0, 1.0])
    draws = samples(mixture, 8, torch.Generator().manual_seed(3))
    assert int((draws[:, 0, 0] < 0).sum()) == 6


@pytest.mark.slow
def test_entropy_of_the_component_in_training_is_that_of_the_mixture():
    """The repulsive term is −E_h log((1−α) q_t + α h): compare with numerical integration of the same."""
    mixture = mixture_on_a_line([0.0, 0.7], 0.5)
    mixture.train_component(1)
    generator = torch.Generator().manual_seed(0)
    draws = samples(mixture, 3000, generator).detach()
    estimate = torch.stack([mixture.entropy_term(draw).sum() for draw in draws]).detach()
    grid = torch.linspace(-4, 5, 301, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    h = mixture.components[1].log_prob(points).exp()
    q = mixture.components[0].log_prob(points).exp()
    exact = -(h * (0.5 * q + 0.5 * h).log()).sum() * (grid[1] - grid[0]) ** 2
    error = float(estimate.std()) / math.sqrt(len(draws))
    assert float(estimate.mean()) == pytest.approx(float(exact), abs=4 * error)
    # Its gain over the component's own entropy is what keeps components apart, and is bounded by log 1/α.
    own = float(mixture.entropy_per_filter().sum())
    far = mixture_on_a_line([0.0, 50.0], 0.5)
    far.train_component(1)
    gain = float(far.entropy_term(far.sample(generator)).sum()) - float(far.entropy_per_filter().sum())
    assert gain == pytest.approx(math.log(2.0))
    assert float(estimate.mean()) - own < math.log(2.0)


def test_first_order_repulsion_is_unbounded_and_the_exact_one_is_not():
    gains = {}
    for repulsion in (Repulsion.FIRST_ORDER, Repulsion.MIXTURE, Repulsion.NONE):
        mixture = mixture_on_a_line([0.0, 100.0], 0.1, repulsion=repulsion)
        mixture.train_component(1)
        draw = mixture.sample(torch.Generator().manual_seed(0))
        gains[repulsion] = float((mixture.entropy_term(draw) - mixture.entropy_per_filter()).sum())
    assert gains[Repulsion.FIRST_ORDER] > 1e5
    assert gains[Repulsion.MIXTURE] == pytest.approx(math.log(2.0))
    assert gains[Repulsion.NONE] == 0.0


@pytest.mark.slow
def test_maximum_entropy_pursuit_finds_the_second_mode():
    """Two modes, the first component on one: the second goes to the other although it starts nearer to the first."""
    target = mixture_on_a_line([-0.8, 0.8], 0.5)
    found = {}
    for repulsion in (Repulsion.MIXTURE, Repulsion.NONE):
        start = [MeanField(torch.full((1, 2), m).double(), 2 * math.log(0.5)) for m in (-0.8, -0.05)]
        mixture = Mixture(start, repulsion=repulsion)
        mixture.train_component(1)
        optimiser = torch.optim.Adam(mixture.components[1].parameters(), lr=0.02)
        generator = torch.Generator().manual_seed(0)
        for _ in range(600):
            draw = mixture.sample(generator)
            loss = -(target.joint_log_prob(draw) + mixture.entropy_term(draw).sum())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        found[repulsion] = float(mixture.components[1].means.mean())
    assert found[Repulsion.NONE] < -0.5
    assert found[Repulsion.MIXTURE] > 0.5


def test_only_the_component_in_training_learns():
    mixture = posterior_of("mixture")
    mixture.train_component(1)
    free = {name.split(".")[1] for name, p in mixture.named_parameters() if p.requires_grad}
    assert free == {"1"}
    draw = mixture.sample(torch.Generator().manual_seed(0))
    (mixture.entropy_term(draw).sum() + draw.sum()).backward()
    assert mixture.components[0].means.grad is None


def test_weights_by_elbo_and_incremental_combination():
    mixture = mixture_on_a_line([0.0, 1.0], 0.5)
    mixture.set_weights_by_elbo([-1000.0, -1000.0 + math.log(3.0)])
    assert mixture.log_weights.exp().tolist() == pytest.approx([0.25, 0.75])
    both = combine(mixture, mixture_on_a_line([5.0], 0.5), share_of_new=0.2)
    assert both.log_weights.exp().tolist() == pytest.approx([0.2, 0.6, 0.2])
    points = torch.randn(4, 2, dtype=torch.float64)
    for point in points:
        density = 0.8 * mixture.joint_log_prob(point[None]).exp() + 0.2 * both.components[2].log_prob(point[None]).exp()
        assert torch.allclose(both.joint_log_prob(point[None]).exp(), density)


def test_mixture_refuses_what_does_not_fit():
    with pytest.raises(ModelError, match="1 starting points"):
        build_posterior(OPTIONS["mixture"], starts()[:1], LAYERS)
    with pytest.raises(ModelError, match="same filters"):
        Mixture([MeanField(torch.zeros(2, 3), 0.0), MeanField(torch.zeros(3, 3), 0.0)])
    with pytest.raises(ModelError, match="between 0 and 1"):
        combine(posterior_of("mixture"), posterior_of("mixture"), 1.0)


def test_swag_recovers_the_distribution_of_the_iterates():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    centre = torch.arange(6).double()
    posterior = SWAG(2, rank=100, kernel_voxels=3).double()
    for _ in range(100):
        posterior.collect((centre + torch.randn(6, generator=generator, dtype=torch.float64) @ mixing).reshape(2, 3))
    draws = samples(posterior, 5000, generator).reshape(-1, 6)
    assert torch.allclose(draws.mean(0), centre, atol=0.8)
    covariance = mixing.T @ mixing
    half_diagonal = 0.5 * covariance + 0.5 * torch.diag(torch.diagonal(covariance))
    assert float((draws.T.cov() - half_diagonal).norm() / half_diagonal.norm()) < 0.25


def test_swag_variances_do_not_cancel_in_float32():
    posterior = SWAG(1, rank=2, kernel_voxels=1)
    for step in range(200):
        posterior.collect(torch.tensor([[100.0 + 0.01 * (step % 2)]]))
    assert float(posterior.second_moment / 200) == pytest.approx(0.005**2, rel=0.05)


def test_swag_needs_two_iterates_of_its_size():
    posterior = SWAG(2)
    posterior.collect(torch.zeros(2, 27))
    with pytest.raises(ModelError, match="collected 1"):
        posterior.sample()
    with pytest.raises(ModelError, match="iterate of shape"):
        posterior.collect(torch.zeros(3, 27))


def test_point_estimate_is_what_it_draws():
    start = starts()[0]
    posterior = Point(start)
    assert torch.equal(posterior.sample(), start)
    assert float(posterior.entropy_per_filter().detach().abs().sum()) == 0.0

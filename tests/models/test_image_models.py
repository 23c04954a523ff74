import itertools
import math

import pytest
import torch
from pydantic import TypeAdapter

from data.errors import ModelError
from models.image_models.bottleneck_penalties import projected_square, sparseness, squared_jacobian, standardised
from models.image_models.corruption import block_numbers, coarse_noise, hidden_blocks
from models.image_models.image_model import build_image_model, trunk_weights
from models.image_models.normal_bottleneck import LatentNormal, NormalBottleneck, elbo, importance_weighted_bound
from models.image_models.objectives import (
    OBJECTIVE_NAMES,
    Contractive,
    Denoising,
    ImageObjective,
    Masked,
    Sparse,
    SparsePenalty,
    Variational,
)
from models.networks.factory import build_network, head_parameters
from models.networks.monai_networks import DynUNetOptions, SegResNetOptions, UNetOptions
from models.networks.residual_unet import ResidualUNetOptions

SMALL = ResidualUNetOptions(channels=(4, 6, 8), encoder_blocks=(0, 1, 1), deep_supervision=1)
NETWORKS = {
    "residual_unet": SMALL,
    "unet": UNetOptions(channels=(4, 6, 8), residual_units=1),
    "dynunet": DynUNetOptions(channels=(4, 6, 8)),
    "segresnet": SegResNetOptions(initial_channels=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1)),
}


def of_name(name):
    return TypeAdapter(ImageObjective).validate_python({"kind": name})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def scan():
    """Two smooth channels in a ball."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 16)] * 3, indexing="ij")
    foreground = sum(axis**2 for axis in axes) < 0.9
    image = torch.stack([torch.sin(3 * axes[0]) + axes[1], axes[2] * axes[0]]) * foreground
    return image, foreground


@pytest.fixture(params=OBJECTIVE_NAMES)
def objective(request):
    return of_name(request.param)


@pytest.fixture(params=sorted(NETWORKS))
def network(request):
    return NETWORKS[request.param]


def test_every_objective_is_learned_and_a_strange_place_has_a_higher_score(objective, scan):
    image, foreground = scan
    model = build_image_model(SMALL, objective, channels=2)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        result = model.loss(image[None], foreground[None], generator())
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        losses.append(float(result.loss.detach()))
    assert losses[-1] < 0.85 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    strange = image.clone()
    strange[:, 6:10, 6:10, 6:10] += 4
    usual, _ = model.score(image, foreground, generator())
    unusual, where = model.score(strange, foreground, generator())
    assert unusual > usual
    assert where.shape == foreground.shape
    assert (where[~foreground] == 0).all()
    inside = torch.zeros_like(foreground)
    inside[6:10, 6:10, 6:10] = True
    assert float(where[inside & foreground].mean()) > 2 * float(where[~inside & foreground].mean())


@pytest.mark.parametrize("kind", ["denoising", "variational"])
def test_objectives_with_and_without_skips_work_with_every_network(kind, network, scan):
    model = build_image_model(network, of_name(kind), channels=2)
    image, foreground = (part[None] for part in scan)
    assert torch.isfinite(model.loss(image, foreground, generator()).loss)
    assert model(image).shape == image.shape


def test_the_trunk_starts_a_segmentation_network(network):
    model = build_image_model(network, Variational(), channels=1)
    segmentation = build_network(network, 1, 4)
    own = {name: weight for name, weight in segmentation.state_dict().items() if not name.startswith("coarse_heads")}
    trunk = trunk_weights(segmentation, model.state_dict())
    assert own.keys() - trunk.keys() == set(head_parameters(segmentation)) & own.keys()
    assert all(own[name].shape == weight.shape for name, weight in trunk.items())
    # The last layer is left out even where it would fit.
    alike = build_network(network, 1, 1)
    assert trunk.keys() == trunk_weights(alike, model.state_dict()).keys()


def test_the_decoder_sees_nothing_that_goes_past_the_bottleneck(objective, scan):
    model = build_image_model(SMALL, objective, channels=2).eval()
    image = scan[0][None]
    code, other = model.code(image), torch.randn_like(image)
    through = torch.allclose(model.decode(code, image), model.decode(code, other))
    assert through
    assert torch.allclose(model(image), model.decode(code, image)) == model.through_bottleneck


def test_the_weights_are_a_function_of_the_seed(objective):
    first, again, other = (build_image_model(SMALL, objective, 1, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_loss_counts_the_foreground_alone(objective, scan):
    image, foreground = (part[None] for part in scan)
    model = build_image_model(SMALL, objective, channels=2).eval()
    loss = model.loss(image, foreground, generator()).loss
    empty = model.loss(image, foreground & False, generator())
    # Penalties and the KL are of the whole bottleneck.
    nothing = empty.terms.get("error", float(empty.loss.detach()) - empty.terms.get("kl", 0))
    assert nothing == pytest.approx(0, abs=1e-4)
    if isinstance(objective, Denoising):
        noise = coarse_noise(image, objective.noise_spacing, objective.noise_level, generator())
        wanted = (model(image + noise * foreground[:, None]) - image).square().mean(1)[foreground].mean()
        torch.testing.assert_close(loss, wanted)


def test_coarse_noise_is_linear_between_points_a_spacing_apart():
    noise = coarse_noise(torch.zeros(1, 2, 20, 20, 20, dtype=torch.float64), 4, 0.5, generator())
    second = noise[..., 2:] - 2 * noise[..., 1:-1] + noise[..., :-2]
    bent = (second.abs() > 1e-9).any(dim=(0, 1, 2, 3))
    places = torch.nonzero(bent).flatten()
    assert (places % 4 == places[0] % 4).all()
    assert len(places) >= 4
    assert not torch.equal(noise[:, 0], noise[:, 1])


def test_coarse_noise_has_its_level_at_the_points():
    noise = coarse_noise(torch.zeros(1, 1, 60, 60, 60), 1, 0.5, generator())
    assert float(noise.std()) == pytest.approx(0.5, rel=0.01)
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    assert float(coarse_noise(torch.zeros(1, 1, 60, 60, 60), 6, 0.5, generator()).std()) < 0.4


def test_the_grids_are_shifted_at_random():
    image = torch.zeros(1, 1, 16, 16, 16)
    edges = set()
    for seed in range(8):
        numbers = block_numbers(image, 4, 1000, generator(seed))[0, 0]
        changes = torch.nonzero((numbers[1:] != numbers[:-1]).any(dim=(1, 2))).flatten()
        assert set((changes - changes[0]).tolist()) <= {0, 4, 8, 12}
        edges.add(int(changes[0]) % 4)
    assert len(edges) > 1


def test_blocks_are_hidden_in_their_share():
    hidden = hidden_blocks(torch.zeros(2, 3, 64, 64, 64), 4, 0.3, generator())
    assert hidden.shape == (2, 1, 64, 64, 64)
    assert float(hidden.double().mean()) == pytest.approx(0.3, abs=0.03)


def test_hidden_voxels_are_all_that_counts_when_masked(scan):
    image, foreground = (part[None] for part in scan)
    model = build_image_model(SMALL, Masked(block=4), channels=2)
    shown, counted = model.corrupted(image, foreground, generator())
    assert (shown.abs().sum(1)[counted] == 0).all()
    kept = foreground & ~counted
    assert kept.any()
    assert torch.equal(shown.movedim(1, -1)[kept], image.movedim(1, -1)[kept])


def test_the_jacobian_is_estimated_without_bias():
    """All sign vectors of a tiny network together give the full Jacobian; random ones do so on average."""
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 2, 2, stride=2), torch.nn.Tanh(), torch.nn.Conv3d(2, 3, 2), torch.nn.Tanh()
    ).double()
    image = torch.randn(1, 1, 4, 4, 6, dtype=torch.float64, requires_grad=True)
    code = network(image)
    assert code.numel() == 6
    full = torch.autograd.functional.jacobian(network, image.detach()).square().sum()
    signs = [torch.tensor(own, dtype=torch.float64).reshape(code.shape) for own in itertools.product((-1, 1), repeat=6)]
    squares = torch.stack([projected_square(code, image, own) for own in signs])
    torch.testing.assert_close(squares.mean(), full)
    estimate = squared_jacobian(code, image, 400, generator()) * code.numel()
    standard_error = float(squares.detach().std()) / math.sqrt(400)
    assert abs(float((estimate - full).detach())) < 3 * standard_error
    assert standard_error < 0.1 * float(full)
    # Differentiable: the penalty of a network that is scaled falls with the square.
    estimate.backward()
    assert all(parameter.grad is not None for parameter in network[0].parameters())


def test_a_smaller_bottleneck_alone_satisfies_no_penalty(scan):
    image, foreground = (part[None] for part in scan)
    for objective in (Sparse(), Sparse(penalty=SparsePenalty.KL), Contractive()):
        model = build_image_model(SMALL, objective, channels=2).eval()
        before = model.loss(image, foreground, generator()).terms["penalty"]
        with torch.no_grad():
            for name, weight in model.network.encoder[-1].named_parameters():
                if "norm" not in name:
                    weight.mul_(0.1)
        after = model.loss(image, foreground, generator()).terms["penalty"]
        assert after == pytest.approx(before, rel=0.02)


def test_sparser_codes_are_penalised_less():
    dense = standardised(torch.randn(1, 3, 6, 6, 6, generator=generator()))
    sparse = torch.zeros(1, 3, 6, 6, 6)
    sparse[:, :, 2, 2:4, 1:5] = 1
    sparse = standardised(sparse)
    assert sparseness(sparse, Sparse()) < 0.6 * sparseness(dense, Sparse())
    share_of_large = Sparse(penalty=SparsePenalty.KL)
    assert sparseness(sparse, share_of_large) < 0.2 * sparseness(dense, share_of_large)
    options = Sparse(penalty=SparsePenalty.KL, activation=0.2)
    share = 1 / (1 + math.exp(-4 * (1.5 - 1)))
    wanted = 0.2 * math.log(0.2 / share) + 0.8 * math.log(0.8 / (1 - share))
    assert float(sparseness(torch.full((1, 2, 2, 2, 2), 1.5), options)) == pytest.approx(wanted, rel=1e-5)


def linear_case():
    """An image of 5 voxels that is linear in a latent of 2, with its evidence and its exact posterior."""
    draws = generator(1)
    columns = torch.linalg.qr(torch.randn(5, 2, generator=draws, dtype=torch.float64))[0]
    loadings = columns * torch.tensor([1.5, 0.7], dtype=torch.float64)
    image = torch.randn(5, generator=draws, dtype=torch.float64)
    std = 0.6
    evidence = torch.distributions.MultivariateNormal(
        torch.zeros(5, dtype=torch.float64), loadings @ loadings.T + std**2 * torch.eye(5, dtype=torch.float64)
    ).log_prob(image)
    precision = 1 + (loadings**2).sum(0) / std**2
    mean = loadings.T @ image / std**2 / precision
    shape = (1, 2, 1, 1, 1)
    posterior = LatentNormal(mean.reshape(shape), -precision.log().reshape(shape))
    normal = NormalBottleneck(4, 2, 1).double()
    with torch.no_grad():
        normal.log_std.fill_(math.log(std))

    def nats_of(latent):
        drawn = (loadings @ latent.flatten()).reshape(1, 1, 5, 1, 1)
        return normal.nats(drawn, image.reshape(1, 1, 5, 1, 1))

    return posterior, nats_of, torch.ones(1, 5, 1, 1, dtype=torch.bool), float(evidence)


def test_the_importance_weighted_bound_of_the_exact_posterior_is_the_evidence():
    posterior, nats_of, foreground, evidence = linear_case()
    for samples in (1, 4):
        bound, _ = importance_weighted_bound(posterior, nats_of, foreground, samples, generator())
        assert float(bound.detach()) == pytest.approx(evidence, rel=1e-12)


def test_the_elbo_of_the_exact_posterior_is_the_evidence_on_average():
    posterior, nats_of, foreground, evidence = linear_case()
    draws = generator()
    bounds = torch.cat([elbo(posterior, nats_of, foreground, draws)[0] for _ in range(500)]).detach()
    assert float(bounds.mean()) == pytest.approx(evidence, abs=4 * float(bounds.std()) / math.sqrt(500))
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(posterior.mean, (0.5 * posterior.log_variance).exp()),
        torch.distributions.Normal(0.0, 1.0),
    ).sum()
    torch.testing.assert_close(posterior.kl(), kl.reshape(1).to(torch.float64))


def test_more_samples_tighten_the_bound_of_a_poor_posterior():
    exact, nats_of, foreground, evidence = linear_case()
    poor, draws = LatentNormal(exact.mean + 0.5, exact.log_variance + 0.5), generator()
    means = []
    for samples in (1, 5, 25):
        bounds = [importance_weighted_bound(poor, nats_of, foreground, samples, draws)[0] for _ in range(60)]
        means.append(float(torch.cat(bounds).mean().detach()))
    assert means[0] < means[1] < means[2] < evidence + 0.1
    assert means[2] > evidence - 0.2


def test_the_loss_of_a_variational_model_is_in_nats(scan):
    image, foreground = (part[None] for part in scan)
    model = build_image_model(SMALL, Variational(latent_channels=3), channels=2).eval()
    result = model.loss(image, foreground, generator())
    assert float(result.loss) * int(foreground.sum()) == pytest.approx(result.terms["negative_elbo"], rel=1e-5)
    # The image of a model that reconstructs nothing: half its squares, and log √(2π) for each number.
    with torch.no_grad():
        model.network.head.conv.weight.zero_()
    nats = model.loss(image, foreground, generator()).terms
    wanted = 0.5 * float(image.square().sum()) + int(foreground.sum()) * math.log(2 * math.pi)
    assert nats["negative_elbo"] - nats["kl"] == pytest.approx(wanted, rel=1e-5)


def test_a_score_is_a_function_of_the_generator(objective, scan):
    model = build_image_model(SMALL, objective, channels=2).eval()
    first, again = (model.score(*scan, generator(2)) for _ in range(2))
    assert first[0] == again[0]
    assert torch.equal(first[1], again[1])


def test_scores_are_what_they_say(scan):
    image, foreground = scan
    model = build_image_model(SMALL, Denoising(), channels=2).eval()
    error = (model(image[None])[0] - image).square().mean(0)
    score, where = model.score(image, foreground)
    assert score == pytest.approx(float(error[foreground].mean()), rel=1e-5)
    torch.testing.assert_close(where[foreground], error[foreground])
    model = build_image_model(SMALL, Variational(score_samples=3), channels=2).eval()
    posterior, nats_of = model._inference(image[None])
    bound, _ = importance_weighted_bound(posterior, nats_of, foreground[None], 3, generator(5))
    assert model.score(image, foreground, generator(5))[0] == pytest.approx(
        -float(bound) / int(foreground.sum()), rel=1e-5
    )


def test_every_block_is_hidden_once_in_the_score_of_a_masked_model(scan):
    image, foreground = scan
    model = build_image_model(SMALL, Masked(block=4, hidden_share=0.25), channels=2).eval()
    shown = []
    model.register_forward_pre_hook(lambda _module, inputs: shown.append(inputs[0][0]))
    model.score(image, foreground, generator())
    hidden = torch.stack([(own == 0).all(0) & (image != 0).any(0) for own in shown])
    assert len(shown) == 4
    assert (hidden.sum(0)[(image != 0).any(0)] == 1).all()


def test_a_scan_of_any_size_is_taken_whole_or_by_windows(objective):
    size = (13, 20, 17)
    image = torch.randn(1, *size, generator=generator())
    foreground = torch.ones(size, dtype=torch.bool)
    model = build_image_model(SMALL, objective, channels=1).eval()
    for patch in (None, (16, 16, 16)):
        assert model.reconstruct(image, patch).shape == image.shape
        score, where = model.score(image, foreground, generator(), patch)
        assert where.shape == size
        assert math.isfinite(score)
        features = model.bottleneck(image, patch)
        enlarged = [max(n, 16) if patch else n for n in size]
        assert features.shape[1:] == tuple(math.ceil(n / 4) for n in enlarged)


def test_a_scan_without_foreground_has_no_score(scan):
    with pytest.raises(ModelError, match="no foreground"):
        build_image_model(SMALL, Denoising(), channels=2).score(scan[0], scan[1] & False)

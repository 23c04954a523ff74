"""What the choices of posterior, scope, estimator and prior do in a training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from data.errors import ModelError
from models.filters import filter_layers, filter_positions, get_filters
from models.networks.factory import build_network, last_block
from models.posteriors.mean_field import Estimator, MeanField, MeanFieldOptions
from models.posteriors.mixture import ComponentWeights, Mixture, MixtureOptions, Repulsion
from models.posteriors.swag import SWAG, SWAGOptions
from models.weight_gaussian import WeightGaussian
from pipeline.arms.choices import ArmOptions, OtherPrior
from pipeline.arms.iterate_collection import IterateCollection
from pipeline.arms.learning import learn_member
from pipeline.arms.member import assemble_member, rebuild_member
from pipeline.arms.prediction import WeightDraws, predict_cases
from pipeline.arms.presets import PRESETS
from pipeline.arms.prior_term import PriorTerm, WeightPriors
from pipeline.arms.source_knowledge import filter_penalty, other_weight_prior
from pipeline.arms.starting_point import learned_groups
from pipeline.arms.target_loss import TargetLoss
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.training_unit import TrainingSettings, read_training, train_member
from pipeline.deployment.updatable_model import find_updatable
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.storage.tensors import load_tensors
from pipeline.training.augmentation import AugmentationOptions
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.computing import Computing, ComputingOptions, Precision

GAUSSIAN = PRESETS["gaussian_full"]
TWO = MixtureOptions(components=2)


def changed(arm: ArmOptions, **changes) -> ArmOptions:
    return ArmOptions.model_validate(arm.model_dump() | changes)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["mean_field", "mixture", "swag"])
@pytest.mark.parametrize("prior", [OtherPrior.SOURCE, OtherPrior.NORMAL])
def test_all_weights_can_be_bayesian(bench, posterior: str, prior: OtherPrior) -> None:
    options = TWO if posterior == "mixture" else {"kind": posterior}
    arm = changed(
        PRESETS["dwp_source"],
        prior="none" if posterior == "swag" else "gaussian_full",
        posterior=options,
        bayesian_scope="all",
        other_prior=prior,
        trainable="decoder",
    )
    trained = bench.learn(arm)
    first, second = trained.model.draws(2, torch.Generator().manual_seed(0))
    names = set(trained.model.tensors(first))
    learned = {name for name in dict(trained.model.network.named_parameters()) if name.startswith(("decoder", "head"))}
    assert {"head.conv.weight", "head.conv.bias"} <= learned <= names
    drawn = [trained.model.tensors(draw) for draw in (first, second)]
    assert all(not torch.equal(drawn[0][name], drawn[1][name]) for name in learned)
    if posterior == "swag":
        assert "kl_nats_other" not in trained.history.rows[-1]
    else:
        assert math.isfinite(trained.history.rows[-1]["kl_nats_other"])
    again = rebuild_member(arm, TargetNetwork(bench.network, 1, 2), trained.model.state_dict())
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.with_weights(first)(image), trained.model.with_weights(first)(image))


def test_the_prior_of_other_weights_is_that_of_the_same_parameter_in_the_source(bench) -> None:
    arm = changed(GAUSSIAN, bayesian_scope="all")
    model = assemble_member(arm, build_network(bench.network, 1, 2, 0), [bench.source.states[0]])
    layout = model.others.layout
    prior = other_weight_prior(arm, bench.source.states[0], layout, None, bench.source.states)
    means, stds = layout.split(prior.means), layout.split(prior.stds)
    numbers = torch.cat([state["head.conv.weight"].flatten() for state in bench.source.states])
    assert float(means["head.conv.weight"].mean()) == pytest.approx(float(numbers.mean()), rel=1e-5)
    assert float(stds["head.conv.weight"].mean()) == pytest.approx(float(numbers.std(correction=0)), rel=1e-5)
    normal = changed(arm, other_prior="normal", other_std=0.5)
    plain = other_weight_prior(normal, bench.source.states[0], layout, None, ())
    assert bool((plain.means == 0).all())
    assert bool((plain.stds == 0.5).all())
    assert other_weight_prior(GAUSSIAN, bench.source.states[0], layout, None, ()) is None


def test_kl_of_normal_weights_is_the_closed_form() -> None:
    prior = WeightGaussian(torch.full((3, 2), 0.5).double(), torch.full((3, 1), 2.0).double())
    posterior = MeanField(torch.randn(3, 2).double(), -1.0)
    kl = -posterior.entropy_per_filter() - prior.expected_log_prob(posterior, posterior.means)
    q = torch.distributions.Normal(posterior.means, (0.5 * posterior.log_variances).exp())
    exact = torch.distributions.kl_divergence(q, torch.distributions.Normal(prior.means, prior.stds)).sum(1)
    assert torch.allclose(kl, exact)


def test_l2sp_pulls_to_the_source_where_it_fits_and_to_zero_elsewhere(bench) -> None:
    arm = changed(PRESETS["fine_tune_l2sp"], l2_std=0.3, l2_sp_std=0.2)
    network = build_network(bench.network, 2, 2, 7)
    own, source = network.state_dict(), bench.source.states[0]
    layers = filter_layers(network)
    penalty = filter_penalty(arm, own, layers, source)
    filters = get_filters(own, layers).double()
    total = 0.0
    for layer in layers:
        fits = layer.parameter != "stem.weight"
        centre = source[layer.parameter] if fits else torch.zeros_like(own[layer.parameter])
        normal = torch.distributions.Normal(centre.double(), 0.2 if fits else 0.3)
        total += float(normal.log_prob(own[layer.parameter].double()).sum())
    assert float(penalty.double().log_prob(filters).sum()) == pytest.approx(total, rel=1e-5)


def test_a_strong_l2sp_keeps_the_source_and_a_strong_l2_forgets_it(bench) -> None:
    source = bench.source.states[0]["stem.weight"]
    distance = {}
    for prior, std in (("l2_sp", 1e-3), ("l2_sp", 1e3), ("l2", 1e-3)):
        settings = {"posterior_temperature": 1.0, "peak_rate": 3e-3, "warm_up": 0}
        arm = changed(PRESETS["fine_tune_l2sp"], prior=prior, l2_std=std, l2_sp_std=std, **settings)
        trained = bench.learn(arm, steps=8).model
        weight = trained.tensors(trained.centre())["stem.weight"].detach()
        distance[prior, std] = float((weight - source).norm())
        if prior == "l2":
            assert float(weight.norm()) < float(source.norm())
    assert distance["l2_sp", 1e-3] < 0.5 * distance["l2_sp", 1e3]


@pytest.mark.slow
def test_the_objective_is_logged(bench) -> None:
    group = next(iter(bench.source.groups))
    arm = changed(PRESETS["dwp_source"], kl_warm_up=1.0, filter_share=1.0)
    rows = bench.learn(arm, steps=4, log_every=1).history.rows
    assert [row["kl_weight"] for row in rows] == [0.25, 0.5, 0.75, 1.0]
    for row in rows:
        nats = sum(row[f"kl_nats_{name}"] for name in bench.source.groups)
        scaled = arm.posterior_temperature * row["kl_weight"] * nats / bench.sampler().voxels
        assert row["kl"] == pytest.approx(scaled, rel=1e-4)
        assert row["loss"] == pytest.approx(row["data_term"] + row["kl"], rel=1e-5)
        assert 0 <= row[f"left_prior_{group}"] <= 1
        assert row[f"bound_gap_{group}"] > 0
    tight = bench.learn(changed(arm, prior_samples=32), steps=1).history.rows[-1]
    assert tight[f"bound_gap_{group}"] < 0.6 * rows[0][f"bound_gap_{group}"]
    assert "bound_gap" not in " ".join(bench.learn(GAUSSIAN).history.rows[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "arm",
    [
        PRESETS["dwp_source"],
        PRESETS["map_prior"],
        PRESETS["fine_tune_l2sp"],
        changed(GAUSSIAN, posterior=TWO, train_samples=2),
        changed(GAUSSIAN, posterior={"kind": "mean_field", "estimator": "local_reparameterisation"}),
    ],
)
def test_logging_does_not_change_the_training(bench, arm: ArmOptions) -> None:
    ends = [bench.learn(arm, steps=4, log_every=every).model.state_dict() for every in (1, 4)]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


@pytest.mark.parametrize("name", ["gaussian_full", "map_prior", "mixture", "dwp"])
def test_means_that_were_drawn_from_the_prior_have_not_left_it(bench, name: str) -> None:
    # However wide the posterior is, and with an entropy far below that of the prior.
    for log_variance in (-20.0, 0.0):
        posterior = {"kind": "mean_field", "initial_log_variance": log_variance}
        if name == "mixture":
            posterior = {"kind": "mixture", "components": 2, "component": posterior}
        density = "vae" if name == "dwp" else "gaussian_full"
        arm = changed(
            PRESETS["dwp_prior"], prior=density, posterior={"kind": "point"} if name == "map_prior" else posterior
        )
        standing = {"peak_rate": 1e-30, "log_variance_rate": 1e-9, "encoder_rate": 1e-9}
        rows = bench.learn(changed(arm, **standing), steps=1).history.rows
        shares = [row[key] for row in rows for key in row if key.startswith("left_prior_")]
        assert len(shares) == len(rows) * len(bench.source.groups)
        assert all(row["gradient_data"] > 0 and row["gradient_kl"] > 0 for row in rows)
        # 256 filters of each group at most, so .01 of them are two or three.
        assert 0 < float(torch.tensor(shares).mean()) < 0.03


@pytest.mark.slow
def test_the_record_of_a_training_says_whether_its_kl_had_settled(bench, tmp_path: Path) -> None:
    off = AugmentationOptions(affine=0, noise=0, blur=0, brightness=0, gamma=0, low_resolution=0)
    settled = {}
    for rate in (1e-9, 40.0):
        # At this temperature the KL alone moves the log-variances.
        settings = {"peak_rate": 1e-6, "log_variance_rate": 1e3 * rate, "posterior_temperature": 1e3}
        arm = changed(GAUSSIAN, filter_share=1.0, posterior=TWO, **settings)
        options = TargetTrainingOptions(arms=["random"], steps=20, log_every=1, floor_rate=1e-6)
        folder = tmp_path / f"rate {rate}"
        folder.mkdir()
        settings = TrainingSettings(options, bench.patches, off, 0, "cpu")
        [task] = bench.task(arm).trainings
        train_member(folder, ProgressFile(tmp_path / "progress"), task=task, settings=settings)
        settled[rate] = [trend.settled for trend in read_training(folder).kl]
    assert settled == {1e-9: [True, True], 40.0: [False, False]}


def test_means_far_from_the_prior_have_left_it(bench) -> None:
    known = bench.knowledge(GAUSSIAN)
    network = build_network(bench.network, 1, 2, 0)
    model = assemble_member(GAUSSIAN, network, [{name: 10 * own for name, own in network.state_dict().items()}])
    row = objective(bench, GAUSSIAN, model, known, 0, fitted=True)(9).terms
    assert [row[f"left_prior_{group}"] for group in bench.source.groups] == [1.0] * len(bench.source.groups)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "draws"), [(1.0, 1), (0.25, 1), (0.25, 2)])
def test_the_gradients_of_both_terms_on_the_means_are_logged(bench, share: float, draws: int) -> None:
    arm = changed(GAUSSIAN, filter_share=share, train_samples=draws)
    network = build_network(bench.network, 1, 2, 0)
    model = assemble_member(arm, network, [network.state_dict()])
    known = bench.knowledge(arm)
    means = model.posterior.means
    of_kl = torch.zeros_like(means)
    groups = learned_groups(known.groups, model.layers, model.layers)
    for group, prior in known.priors.items():
        rows = groups.rows[group]
        whitening = prior.pooled.whitening
        of_kl[rows] = (means[rows].detach() - prior.pooled.mean) @ whitening @ whitening.T
    of_kl *= arm.posterior_temperature / bench.sampler().voxels
    found = []
    for seed in range(1 if share == 1 else 40):
        result = objective(bench, arm, model, known, seed, fitted=True)(9)
        assert "gradient_data" not in result.terms
        model.zero_grad(set_to_none=True)
        result.loss.backward()
        found.append(result.terms["gradient_kl"] ** 2)
        if share == 1:
            of_data = means.grad - of_kl
            assert result.terms["gradient_data"] == pytest.approx(float(of_data.square().mean().sqrt()), rel=1e-3)
    # The size of the whole KL's gradient, whatever subset of the filters a step scores.
    squares = torch.tensor(found)
    error = 4 * float(squares.std()) / len(found) ** 0.5 if share < 1 else 0
    expected = float(of_kl.square().mean())
    assert error < 0.3 * expected
    assert float(squares.mean()) == pytest.approx(expected, rel=1e-4, abs=error)
    # Only where a row is logged.
    assert objective(bench, arm, model, known, 0, fitted=True)(8).terms == {}


def test_antithetic_draws_of_a_step_lower_the_noise_of_the_gradient(bench) -> None:
    spread = {}
    for antithetic in (False, True):
        options = MeanFieldOptions(initial_log_variance=-3.0, antithetic=antithetic)
        arm = changed(GAUSSIAN, posterior=options, train_samples=2, posterior_temperature=0.0)
        network = build_network(bench.network, 1, 2, 0)
        model = assemble_member(arm, network, [network.state_dict()])
        known = bench.knowledge(arm)
        gradients = []
        for seed in range(8):
            loss = objective(bench, arm, model, known, seed)
            model.zero_grad(set_to_none=True)
            loss(0).loss.backward()
            gradients.append(model.posterior.means.grad.clone())
        spread[antithetic] = float(torch.stack(gradients).var(0).mean())
    assert spread[True] < 0.8 * spread[False]


def objective(bench, arm: ArmOptions, model, known, seed: int, fitted: bool = False) -> TargetLoss:
    groups = learned_groups(known.groups, model.layers, model.layers)
    priors = WeightPriors(known.priors if fitted else {}, groups)
    return TargetLoss(arm, TargetTrainingOptions(), model, priors, bench.sampler(), seed, "cpu")


def test_local_reparameterisation_is_an_option_of_the_training(bench) -> None:
    options = MeanFieldOptions(estimator=Estimator.LOCAL_REPARAMETERISATION)
    local = bench.learn(changed(GAUSSIAN, posterior=options, bayesian_scope="all"))
    sampled = bench.learn(changed(GAUSSIAN, bayesian_scope="all"))
    assert local.history.rows[-1]["data_term"] != sampled.history.rows[-1]["data_term"]
    assert not torch.equal(local.model.posterior.log_variances, sampled.model.posterior.log_variances)
    mixture = changed(GAUSSIAN, posterior=MixtureOptions(components=2, component=options))
    assert mixture.local_reparameterisation
    assert math.isfinite(bench.learn(mixture).history.rows[-1]["loss"])


def test_components_of_a_mixture_are_whole_networks(bench) -> None:
    arm = changed(PRESETS["mixture"], posterior=TWO, trainable="decoder", prior="gaussian_full")
    trained = bench.learn(arm.model_copy(update={"peak_rate": 1e-30, "log_variance_rate": 1e-9}))
    assert trained.about["components"]["weights"] == pytest.approx([0.5, 0.5])
    assert sum(trained.about["components"]["weights_by_elbo"]) == pytest.approx(1.0)
    assert [row["component"] for row in trained.history.rows] == [0, 1]
    draws = list(trained.model.draws(4, torch.Generator().manual_seed(0)))
    assert sorted(draw.component for draw in draws) == [0, 0, 1, 1]
    for draw in draws:
        tensors, source = trained.model.tensors(draw), bench.source.states[draw.component]
        # Nothing of one network is mixed with the other: neither the frozen encoder nor what is a point estimate.
        assert set(tensors) == set(dict(trained.model.network.named_parameters()))
        assert torch.equal(tensors["stem.weight"], source["stem.weight"])
        assert torch.allclose(tensors["head.conv.weight"], source["head.conv.weight"], atol=1e-20)


def test_a_component_is_trained_with_the_others_frozen(bench) -> None:
    # The second component makes no steps that change the first: trained with 1 or 2 components, the first is the same.
    one, two = (
        bench.learn(changed(PRESETS["mixture"], posterior=MixtureOptions(components=k), prior="gaussian_full"))
        for k in (1, 2)
    )
    assert torch.equal(one.model.posterior.component(0).means, two.model.posterior.component(0).means)
    assert torch.equal(one.model.others.posterior(0).mean(), two.model.others.posterior(0).mean())
    assert not torch.equal(two.model.posterior.component(0).means, two.model.posterior.component(1).means)


def test_weights_by_elbo_are_used_where_asked_for(bench) -> None:
    options = MixtureOptions(components=2, weights=ComponentWeights.ELBO)
    trained = bench.learn(changed(PRESETS["mixture"], posterior=options, prior="gaussian_full"))
    told = trained.about["components"]
    assert told["weights"] == pytest.approx(told["weights_by_elbo"], abs=1e-6)
    best = max(range(2), key=lambda k: told["elbo_nats"][k])
    assert told["weights"][best] >= 0.5


def test_the_elbo_of_a_component_is_its_own_whatever_keeps_it_apart(bench) -> None:
    elbos = []
    for repulsion in (Repulsion.NONE, Repulsion.MIXTURE, Repulsion.FIRST_ORDER):
        arm = changed(PRESETS["mixture"], posterior=MixtureOptions(components=2, repulsion=repulsion), prior="l2")
        network = build_network(bench.network, 1, 2, 0)
        model = assemble_member(arm, network, bench.source.states[:2])
        layers = model.layers
        penalties = [filter_penalty(arm, state, layers, None) for state in bench.source.states[:2]]
        priors = WeightPriors({}, learned_groups({}, layers, layers), [p for p in penalties if p is not None])
        loss = TargetLoss(arm, TargetTrainingOptions(), model, priors, bench.sampler(), 0, "cpu")
        model.posterior.train_component(1)
        elbos.append(loss.elbo())
    assert elbos[0] == elbos[1] == elbos[2]


class Watched:
    """A sampler that has the batches of a training and no more, and notes torch's own seed at each."""

    def __init__(self, sampler, batches: int) -> None:
        self.sampler, self.batches = sampler, batches
        self.voxels = sampler.voxels
        self.seeds: list[int] = []

    def batch(self, step: int):
        assert step < self.batches
        self.seeds.append(torch.initial_seed())
        return self.sampler.batch(step)


def test_members_have_seeds_of_their_own_for_dropout_and_no_batch_beyond_the_training(bench) -> None:
    arm = changed(PRESETS["mixture"], posterior=TWO, prior="gaussian_full")
    noted = []
    for seed in (1, 2):
        sampler = Watched(bench.sampler(), 2 * 2)
        options = TargetTrainingOptions(arms=["random"], steps=2, floor_rate=0.0)
        learn_member(
            arm,
            options,
            TargetNetwork(bench.network, 1, 2),
            bench.knowledge(arm),
            sampler,
            seed,
            Computing(ComputingOptions(precision=Precision.FLOAT32), "cpu"),
            lambda part: None,
            Checkpoints(bench.folder),
        )
        noted.append(set(sampler.seeds))
    assert not noted[0] & noted[1]


def test_swag_is_the_gaussian_of_the_second_half(bench) -> None:
    arm = changed(PRESETS["swag"], posterior=SWAGOptions(collect_from=0.5, collections=3, rate=0.5))
    network = build_network(bench.network, 1, 2, 0)
    model = assemble_member(ArmOptions(), network, [network.state_dict()])
    collection = IterateCollection(arm.posterior, model, 6)
    seen = []
    with torch.no_grad():
        for step in range(6):
            model.posterior.filters.fill_(float(step))
            network.head.conv.bias.fill_(float(step))
            collection(step)
            seen.append(float(collection.rate(arm, TargetTrainingOptions(steps=6))(step)))
    swag = collection.network()
    assert isinstance(swag.posterior, SWAG)
    assert int(swag.posterior.collected) == 3
    assert torch.allclose(swag.posterior.mean(), torch.full_like(swag.posterior.mean(), 4.0))
    # Weights that are not filters are averaged over the same iterates.
    assert torch.allclose(network.head.conv.bias, torch.full_like(network.head.conv.bias, 4.0))
    assert seen[3:] == [0.5 * arm.peak_rate] * 3
    assert max(seen[:3]) > seen[3]


def test_an_update_mixes_the_old_posterior_with_the_new(bench, tmp_path: Path) -> None:
    first = changed(PRESETS["dwp_source"], prior="gaussian_full", draws=2)
    bench.run(bench.task(first, "old"), tmp_path / "old")
    second = changed(first, update_from=tmp_path / "old", update_share=0.25, draws=4)
    files = bench.run(bench.task(second, "new"), tmp_path / "new", seed=bench.seed + 1)
    state = load_tensors(tmp_path / "new" / "model" / "member-00.safetensors")
    joined = rebuild_member(second, TargetNetwork(bench.network, 1, 2), state)
    assert isinstance(joined.posterior, Mixture)
    assert joined.posterior.log_weights.exp().tolist() == pytest.approx([0.75, 0.25])
    old = rebuild_member(
        first, TargetNetwork(bench.network, 1, 2), load_tensors(tmp_path / "old" / "model" / "member-00.safetensors")
    )
    assert torch.equal(joined.posterior.component(0).means, old.posterior.means)
    image = torch.randn(1, 1, 16, 16, 16)
    for draw in joined.draws(4, torch.Generator().manual_seed(0)):
        if draw.component == 0:
            with torch.no_grad():
                assert torch.equal(joined(image, *draw), old(image, draw.filters))
    assert json.loads(files["unit.json"])["choices"]["update_from"] == str(tmp_path / "old")
    assert find_updatable(tmp_path / "old", TargetNetwork(bench.network, 1, 2)).member(1).arm == first
    with pytest.raises(ModelError, match="classes is 2"):
        find_updatable(tmp_path / "old", TargetNetwork(bench.network, 1, 3))
    with pytest.raises(ModelError, match="no such folder"):
        find_updatable(tmp_path / "none", TargetNetwork(bench.network, 1, 2))


@pytest.mark.slow
def test_a_chain_of_updates_gives_every_data_set_the_same_weight(bench, tmp_path: Path) -> None:
    first = changed(PRESETS["dwp_source"], prior="gaussian_full", draws=1)
    chain = [tmp_path / name for name in ("one", "two", "three")]
    posteriors = []
    for number, folder in enumerate(chain):
        arm = changed(first, update_from=chain[number - 1], update_share="auto") if number else first
        bench.run(bench.task(arm, folder.name), folder, seed=bench.seed + number)
        state = load_tensors(folder / "model" / "member-00.safetensors")
        posteriors.append(rebuild_member(arm, TargetNetwork(bench.network, 1, 2), state))
    last = posteriors[-1]
    assert last.posterior.log_weights.exp().tolist() == pytest.approx([1 / 3] * 3)
    # What the first set gave has come through both updates: filters, and weights that are not filters.
    assert torch.equal(last.posterior.component(0).means, posteriors[0].posterior.means)
    assert torch.equal(last.posterior.component(1).means, posteriors[1].posterior.component(1).means)
    image = torch.randn(1, 1, 16, 16, 16)
    by_component = {draw.component: draw for draw in last.draws(3, torch.Generator().manual_seed(0))}
    assert sorted(by_component) == [0, 1, 2]
    with torch.no_grad():
        drawn = by_component[0]
        assert torch.equal(last(image, *drawn), posteriors[0](image, drawn.filters))


def test_an_update_of_a_point_estimate_is_refused(bench, tmp_path: Path) -> None:
    bench.run(bench.task(PRESETS["fine_tune"]), tmp_path / "old")
    with pytest.raises(ModelError, match="posterior is point"):
        find_updatable(tmp_path / "old", TargetNetwork(bench.network, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["gaussian_source", "reuse_or_redraw", "dwp_conditional", "fine_tune_l2sp", "gaussian_branches", "hierarchical",
     "displacement"],
)  # fmt: skip
def test_a_stem_of_other_channels_keeps_a_prior_that_needs_no_position(bench, name: str) -> None:
    arm = changed(PRESETS[name], filter_share=1.0)
    trained = bench.learn(arm, channels=2)
    assert trained.started_anew == ["stem.weight"]
    assert math.isfinite(trained.history.rows[-1]["kl"])


def test_positions_of_a_stem_that_does_not_fit_are_unknown_to_the_prior(bench) -> None:
    for channels, known in ((1, True), (2, False)):
        layers = filter_layers(build_network(bench.network, channels, 2, 0))
        groups = learned_groups(bench.source.groups, layers, layers)
        name = next(g for g, members in bench.source.groups.items() if members[0].parameter == "stem.weight")
        rows = groups.positions[name].layer == 0
        prior = bench.source.priors["gaussian_source"][name].at_positions()
        assert int(rows.sum()) == channels * layers[0].out_channels
        assert bool((prior.centres(groups.positions[name][rows]) != 0).any()) == known
        assert sum(len(r) for r in groups.rows.values()) == groups.count


def test_a_density_of_changes_is_centred_on_the_start_of_the_member(bench) -> None:
    known = bench.knowledge(PRESETS["displacement"])
    bench.learn(PRESETS["displacement"], known)
    for group, layers in bench.source.groups.items():
        where = filter_positions(layers, filter_layers(build_network(bench.network, 1, 2, 0)))
        start, prior = get_filters(bench.source.states[0], layers), known.priors[group]
        # At no change, the density is that of changes.
        expected = prior.change.log_prob(torch.zeros_like(start), where)
        assert torch.allclose(prior.log_prob(start, where), expected, rtol=1e-4)
        assert not torch.allclose(prior.log_prob(start + 0.1, where), expected, rtol=1e-4)


@pytest.mark.parametrize("posterior", [{"kind": "mean_field"}, {"kind": "point"}])
def test_layers_learn_their_scale_and_the_last_block_has_no_prior(bench, posterior) -> None:
    arm = changed(PRESETS["hierarchical"], posterior=posterior)
    trained = bench.learn(arm)
    network = build_network(bench.network, 1, 2, 0)
    spared = {layer.parameter for layer in filter_layers(network)} & set(last_block(network))
    scales = trained.about["layer_scales"]
    assert spared
    assert set(scales) == {layer.parameter for layer in filter_layers(network)} - spared
    # The starting filters are the centre, so the target says less than the source does.
    assert all(math.sqrt(0.1 / 1.1) - 1e-3 < scale < 1 for scale in scales.values())
    assert len(set(scales.values())) == len(scales) or posterior["kind"] == "point"
    layers, groups = filter_layers(network), bench.source.groups
    kept = learned_groups(groups, layers, layers, spared)
    rows = torch.cat(list(kept.rows.values()))
    assert len(rows) == kept.count - sum(layer.count for layer in layers if layer.parameter in spared)
    assert "layer_scales" not in bench.learn(changed(arm, layer_scale="fixed")).about


def test_a_prior_that_has_become_narrower_is_not_left_for_that_reason(bench) -> None:
    arm = changed(PRESETS["hierarchical"], prior="isotropic", init="source", layer_scale_weight=1e-3)
    known = bench.knowledge(arm)
    model = bench.learn(changed(arm, posterior_temperature=0.0), known).model
    groups = learned_groups(known.groups, model.layers, model.layers)
    for prior, where in zip(known.priors.values(), groups.positions.values(), strict=True):
        prior.learn_layer_scales(where, 1e-3)
    term = PriorTerm(arm, WeightPriors(known.priors, groups), 1, 1, 11)
    # Filters of a third of the size: those of no layer are outside of a prior whose width follows them.
    small = MeanField(model.posterior.mean().detach() / 3, -20.0)
    term.settle(small, 0)
    assert all(factor < 0.6 for prior in known.priors.values() for factor in prior.layer_scales().values())
    assert max(term.outside(small, 0).values()) < 0.2


def test_draws_are_made_one_at_a_time_and_repeat(bench) -> None:
    model = bench.learn(PRESETS["mixture"].model_copy(update={"prior": "gaussian_full"})).model
    draws = WeightDraws(model, 39, 5, "cpu")
    assert len(draws) == 39
    first, again = iter(draws), iter(draws)
    assert torch.is_grad_enabled()
    for _ in range(3):
        one, other = next(first), next(again)
        assert torch.equal(one.filters, other.filters)
        assert torch.equal(one.others, other.others)
        assert torch.is_grad_enabled()
        assert not one.filters.requires_grad
    counts = [sum(draw.component == k for draw in draws) for k in range(3)]
    assert counts == [13, 13, 13]


def test_a_draw_serves_as_many_cases_as_there_is_memory_for(bench, monkeypatch) -> None:
    model = bench.learn(GAUSSIAN).model
    cases = [bench.make_case(name, 16) for name in "abc"]
    made = []
    monkeypatch.setattr(model, "with_weights", lambda draw: made.append(draw) or (lambda x: model(x, *draw)))
    one_case = 4 * 16**3 * (1 + 1 + 3)
    for memory, blocks in ((3 * one_case, 1), (2 * one_case, 2), (0, 3)):
        made.clear()
        shares: list[float] = []
        predictions = predict_cases(
            [WeightDraws(model, 2, 5, "cpu")],
            cases,
            (16, 16, 16),
            SlidingWindowOptions(),
            "cpu",
            shares.append,
            memory,
        )
        assert [case.name for case, _ in predictions] == ["a", "b", "c"]
        assert len(made) == 2 * blocks
        assert shares == pytest.approx([k / 6 for k in range(1, 7)])


def test_volumes_are_those_of_each_draws_mask(bench) -> None:
    model = bench.learn(GAUSSIAN).model
    case = bench.make_case("t", 16)
    draws = WeightDraws(model, 2, 5, "cpu")
    ((_, prediction),) = predict_cases([draws], [case], (16, 16, 16), SlidingWindowOptions(), "cpu")
    with torch.no_grad():
        masks = [model(case.image()[None], *draw)[0].argmax(0) for draw in draws]
    assert prediction.voxels.flatten().tolist() == [int((mask == 1).sum()) for mask in masks]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"posterior": "mean_field"}, "needs a prior"),
        ({"init": "prior", "prior": "l2"}, "fitted"),
        ({"bayesian_scope": "all"}, "bayesian_scope"),
        ({"train_samples": 2}, "train_samples"),
        ({"update_from": "x"}, "update_from"),
        ({"update_share": "half"}, "auto"),
        ({"update_share": 1.0}, "less than 1"),
        ({"posterior": "swag", "update_from": "x"}, "update_from"),
        ({"fit_mask": True}, "needs `fit_reading: true`"),
        ({"post_processing": {"a": {"minimum_volume": -1}}}, "greater than or equal to 0"),
        ({"post_processing": {"a": {"keep": "biggest"}}}, "'all' or 'largest'"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(choices: Mapping, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ArmOptions.model_validate(choices)

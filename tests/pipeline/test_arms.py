"""Every named arm learns, from where it should, what it should."""

from __future__ import annotations

import copy
import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork
from models.filter_bank import FilterBank, SourceState
from models.filters import FilterGrouping, FilterLayer, filter_layers, get_filters, group_layers
from models.networks.factory import build_network, decoder_parameters, end_blocks
from models.networks.residual_unet import ResidualUNetOptions
from models.objectives import Likelihood
from models.priors.factory import PriorOptions, build_prior
from models.priors.filter_vae import FilterVAEOptions
from models.priors.gaussian import GaussianOptions
from models.priors.prior import FilterPrior
from pipeline.arms.arm_unit import ArmTask, learn_and_predict
from pipeline.arms.choices import ArmOptions, Initialisation, Trainable
from pipeline.arms.inference_options import InferenceOptions
from pipeline.arms.learning import SourceKnowledge, learn_member, parameter_groups
from pipeline.arms.objective_name import objective_name
from pipeline.arms.prediction import predicted_classes
from pipeline.arms.presets import PRESETS
from pipeline.arms.starting_point import start_from_prior, start_from_source
from pipeline.progress import ProgressFile
from pipeline.storage.tensors import load_about, load_tensors, save_tensors
from pipeline.training.augmentation import Augmentation, no_augmentation
from pipeline.training.loop import History
from pipeline.training.patches import PatchOptions, PatchSampler

NETWORK = ResidualUNetOptions(channels=(4, 6, 8), encoder_blocks=(0, 1, 2))
PATCHES = PatchOptions(size=(16, 16, 16), batch=1)
DENSITIES: dict[str, PriorOptions] = {
    "vae": FilterVAEOptions(latent=2, hidden=(8,), max_steps=20, batch=64),
    "gaussian_full": GaussianOptions(),
}
SEED = 11
# A rate that is lost in rounding: what a training with it ends at is where it started.
STANDING = {"peak_rate": 1e-30, "log_variance_rate": 1e-9, "encoder_rate": 1e-9}


@dataclass(frozen=True)
class Source:
    states: tuple[dict[str, torch.Tensor], ...]
    groups: Mapping[str, tuple[FilterLayer, ...]]
    priors: Mapping[str, Mapping[str, FilterPrior]]


@pytest.fixture(scope="module")
def source() -> Source:
    """Three source networks (at their start) and densities fitted to their filters."""
    networks = [build_network(NETWORK, 1, 2, number) for number in range(3)]
    states = tuple(network.state_dict() for network in networks)
    groups, layers = group_layers(networks[0], FilterGrouping.CONSECUTIVE), filter_layers(networks[0])
    priors: dict[str, dict[str, FilterPrior]] = {}
    for name, options in DENSITIES.items():
        for group, members in groups.items():
            bank = FilterBank.from_state_dicts((SourceState(i, 0, s) for i, s in enumerate(states)), members, layers)
            prior = build_prior(options)
            prior.fit(bank, torch.Generator().manual_seed(0))
            priors.setdefault(name, {})[group] = prior
    return Source(states, groups, priors)


def inference(**changes) -> InferenceOptions:
    return InferenceOptions(**({"steps": 3, "floor_rate": 0.0} | changes))


def knowledge(arm: ArmOptions, source: Source) -> SourceKnowledge:
    state = source.states[0] if arm.needs_source else None
    priors = copy.deepcopy(dict(source.priors[arm.prior])) if arm.needs_prior else {}
    return SourceKnowledge(state, priors, source.groups if arm.needs_prior else {})


def learn(
    arm: ArmOptions, source: Source, case, known: SourceKnowledge | None = None
) -> tuple[BayesianNetwork, History, list[str]]:
    sampler = PatchSampler([[case]], PATCHES, Augmentation(no_augmentation()), SEED)
    known = known or knowledge(arm, source)
    return learn_member(arm, inference(), NETWORK, 1, 2, known, sampler, SEED, "cpu", lambda fraction: None)


def state_of(model: BayesianNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.bake().state_dict().items()}


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor], names=None) -> bool:
    return all(torch.equal(first[name], second[name]) for name in (first if names is None else names))


def start_of(arm: ArmOptions, source: Source) -> dict[str, torch.Tensor]:
    """Where the arm has to start, from the definitions of the choices."""
    network = build_network(NETWORK, 1, 2, stream_seed(SEED, "weights"))
    if arm.init is Initialisation.SOURCE:
        return dict(source.states[0])
    if arm.init is Initialisation.PRIOR:
        generator = torch.Generator().manual_seed(stream_seed(SEED, "prior-start"))
        start_from_prior(network, source.priors[arm.prior], source.groups, generator)
    return network.state_dict()


def learned_names(arm: ArmOptions) -> set[str]:
    network = build_network(NETWORK, 1, 2, 0)
    everything = {name for name, _ in network.named_parameters()}
    return {
        Trainable.ALL: everything,
        Trainable.ENDS: set(end_blocks(network)),
        Trainable.DECODER: set(decoder_parameters(network)),
    }[arm.trainable]


ARMS = PRESETS | {
    "decoder_only": ArmOptions(init=Initialisation.SOURCE, trainable=Trainable.DECODER),
    "dwp_ends": PRESETS["dwp_source"].model_copy(update={"trainable": Trainable.ENDS, "filter_share": 1.0}),
}


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_starts_where_its_choices_say(name: str, source: Source, make_case) -> None:
    arm = ARMS[name].model_copy(update=STANDING)
    model, _, anew = learn(arm, source, make_case("a"))
    expected = start_of(arm, source)
    # Numbers that start at zero are the only ones that such a rate still moves.
    assert all(float((tensor - expected[name]).abs().max()) < 1e-20 for name, tensor in state_of(model).items())
    assert anew == []


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_learns_what_its_choices_say_and_nothing_else(name: str, source: Source, make_case) -> None:
    arm = ARMS[name]
    known = knowledge(arm, source)
    priors = {group: copy.deepcopy(prior.state_dict()) for group, prior in known.priors.items()}
    model, history, _ = learn(arm, source, make_case("a"), known)
    assert len(history.rows) == 1
    assert all(math.isfinite(value) for value in history.rows[-1].values())
    start, end = start_of(arm, source), state_of(model)
    learned = learned_names(arm)
    assert same(start, end, set(start) - learned)
    moved = {key for key in start if not torch.equal(start[key], end[key])}
    assert moved <= learned
    assert {layer.parameter for layer in filter_layers(model.network)} & learned <= moved
    assert any(key.startswith("head") for key in moved)
    if arm.is_bayesian:
        variances = dict(model.posterior.named_parameters())["log_variances"]
        assert bool(variances.isfinite().all())
        assert len(model.posterior.mean()) == sum(layer.count for layer in model.layers)
    # ψ of r(z|w) is learned with the posterior, φ of p(w|z) never is.
    uses_prior = arm.needs_prior and arm.temperature > 0
    assert (f"kl_nats_{next(iter(source.groups))}" in history.rows[-1]) == (
        uses_prior and any(layer.parameter in learned for layer in next(iter(source.groups.values())))
    )
    for group, prior in known.priors.items():
        changed = {k for k, tensor in prior.state_dict().items() if not torch.equal(tensor, priors[group][k])}
        assert all(key.startswith("encoder") for key in changed)
        if arm.temperature > 0 and any(layer.parameter in learned for layer in source.groups[group]):
            assert all(p.requires_grad == key.startswith("encoder") for key, p in prior.named_parameters())
        in_use = uses_prior and any(layer.parameter in learned for layer in source.groups[group])
        assert bool(changed) == (in_use and arm.prior == "vae"), group


def test_rates_and_decay_of_what_is_learned(source: Source, make_case) -> None:
    for name, decayed in (("dwp", False), ("random", True)):
        arm = PRESETS[name].model_copy(update={"log_variance_rate": 7.0, "encoder_rate": 0.2})
        known = knowledge(arm, source)
        model, _, _ = learn(arm, source, make_case("a"), known)
        plain, weights, quick, encoders = parameter_groups(model, known.priors, arm)
        assert {id(p) for p in plain["params"]} == {id(p) for p in model.point_parameters()}
        # A filter that has a prior is not drawn to zero by weight decay as well.
        assert ("weight_decay" not in weights) == decayed
        assert "rate_factor" not in weights
        assert len(weights["params"]) == 1
        assert (quick["rate_factor"], quick["weight_decay"]) == (7.0, 0.0)
        posterior = dict(model.posterior.named_parameters())
        expected = [posterior["log_variances"]] if arm.is_bayesian else []
        assert [id(p) for p in quick["params"]] == [id(p) for p in expected]
        assert (encoders["rate_factor"], encoders["weight_decay"]) == (0.2, 0.0)
        of_priors = [p for prior in known.priors.values() for p in prior.variational_parameters()]
        assert [id(p) for p in encoders["params"]] == [id(p) for p in of_priors]


def test_log_variances_move_by_their_own_rate(source: Source, make_case) -> None:
    moved = []
    for factor in (1.0, 10.0):
        arm = PRESETS["dwp"].model_copy(update={"log_variance_rate": factor})
        start = learn(arm.model_copy(update=STANDING), source, make_case("a"))[0]
        end = learn(arm, source, make_case("a"))[0]
        values = [dict(model.posterior.named_parameters())["log_variances"].detach() for model in (start, end)]
        moved.append(float((values[1] - values[0]).abs().mean()))
    assert moved[1] > 5 * moved[0] > 0


def _task(name: str, source: Source, folder: Path, make_case, classes: int = 1) -> ArmTask:
    arm = ARMS[name]
    snapshots = []
    for number, state in enumerate(source.states):
        snapshots.append(folder / f"network-{number}.safetensors")
        save_tensors(snapshots[-1], state)
    priors = {}
    if arm.needs_prior:
        for group, prior in source.priors[arm.prior].items():
            priors[group] = folder / f"{group}.safetensors"
            save_tensors(priors[group], prior.state_dict())
    named = {f"class_{k}": (k,) for k in range(1, classes + 1)}
    return ArmTask(
        name=name,
        arm=arm,
        n=2,
        repeat=0,
        patients={"p": [make_case("a", classes=named)], "q": [make_case("b", classes=named)]},
        test=[make_case("t", 20, classes=named), make_case("u", 14, classes=named)],
        snapshots=snapshots if arm.needs_source else (),
        priors=priors,
        density=DENSITIES[arm.prior] if arm.needs_prior else None,
        groups=source.groups if arm.needs_prior else {},
    )


def _run(task: ArmTask, folder: Path, seed: int = SEED) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    learn_and_predict(
        folder,
        ProgressFile(folder.parent / "progress"),
        task=task,
        options=inference(),
        network=NETWORK,
        patches=PATCHES,
        augmentation=no_augmentation(),
        seed=seed,
        device="cpu",
    )
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", PRESETS)
def test_an_arm_predicts_and_the_same_seed_gives_the_same_bytes(
    name: str, source: Source, make_case, tmp_path: Path
) -> None:
    task = _task(name, source, tmp_path, make_case)
    files = _run(task, tmp_path / "first" / "unit")
    assert files == _run(task, tmp_path / "second" / "unit")
    other = _run(task, tmp_path / "third" / "unit", seed=SEED + 1)
    assert other["predictions/t.safetensors"] != files["predictions/t.safetensors"]
    arm = task.arm
    assert sum(file.startswith("member-") for file in files) == arm.members
    for case in task.test:
        path = tmp_path / "first" / "unit" / "predictions" / f"{case.name}.safetensors"
        tensors, about = load_tensors(path), load_about(path)
        probability = tensors["probability"].float()
        assert probability.shape == (1, *case.shape)
        assert bool((probability >= 0).all())
        assert float(probability.sum(0).max()) <= 1 + 1e-3
        passes = arm.members * (arm.draws if arm.is_bayesian else 1)
        assert about == {"affine": case.affine.tolist(), "classes": ["class_1"], "draws": passes, "case": case.name}
        if passes > 1:
            assert tensors["entropy"].shape == tensors["mutual_information"].shape == case.shape
            assert float(tensors["entropy"].max()) <= math.log(2) + 1e-3
            assert float(tensors["mutual_information"].max()) > 0
        else:
            assert set(tensors) == {"probability"}
    unit = json.loads(files["unit.json"])
    assert (unit["arm"], unit["n"], unit["repeat"], unit["patients"]) == (name, 2, 0, ["p", "q"])
    assert unit["choices"] == arm.model_dump(mode="json")
    assert unit["started_anew"] == []
    rows = list(csv.DictReader(files["history.csv"].decode().splitlines()))
    assert [row["step"] for row in rows] == ["3"]


def test_members_start_from_different_source_networks(source: Source, make_case, tmp_path: Path) -> None:
    files = _run(_task("ensemble", source, tmp_path, make_case), tmp_path / "x" / "unit")
    members = [files[f"member-{number:02d}.safetensors"] for number in range(3)]
    assert len(set(members)) == 3
    assert {"history.csv", "history-01.csv", "history-02.csv"} <= set(files)


def test_a_head_of_other_classes_is_started_anew_and_named(source: Source, make_case, tmp_path: Path) -> None:
    task = _task("fine_tune", source, tmp_path, make_case, classes=2)
    files = _run(task, tmp_path / "x" / "unit")
    assert json.loads(files["unit.json"])["started_anew"] == ["head.conv.weight", "head.conv.bias"]
    probability = load_tensors(tmp_path / "x" / "unit" / "predictions" / "t.safetensors")["probability"]
    assert probability.shape == (2, 20, 20, 20)
    network = build_network(NETWORK, 1, 3, 5)
    head = network.state_dict()["head.conv.weight"].clone()
    assert start_from_source(network, source.states[0]) == ["head.conv.weight", "head.conv.bias"]
    assert torch.equal(network.state_dict()["head.conv.weight"], head)
    assert torch.equal(network.state_dict()["stem.weight"], source.states[0]["stem.weight"])


def test_a_stem_of_other_channels_is_started_anew(source: Source) -> None:
    network = build_network(NETWORK, 2, 2, 5)
    assert start_from_source(network, source.states[0]) == ["stem.weight"]


def test_filters_drawn_from_the_prior_look_like_it(source: Source) -> None:
    network = build_network(NETWORK, 1, 2, 0)
    before = network.state_dict()["head.conv.weight"].clone()
    start_from_prior(network, source.priors["gaussian_full"], source.groups, torch.Generator().manual_seed(0))
    for members in source.groups.values():
        drawn = get_filters(network.state_dict(), members)
        fitted = torch.cat([get_filters(state, members) for state in source.states])
        assert float(drawn.std() / fitted.std()) == pytest.approx(1.0, abs=0.25)
    assert torch.equal(network.state_dict()["head.conv.weight"], before)


def test_arms_see_the_same_patches_and_start_alike(source: Source, make_case) -> None:
    rows = {name: learn(PRESETS[name], source, make_case("a"))[0] for name in ("random", "map_prior")}
    # Before the first step both are one network, so the first data term is one number.
    first = [learn(ARMS[n].model_copy(update=STANDING), source, make_case("a"))[1] for n in ("random", "map_prior")]
    assert first[0].rows[-1]["data_term"] == first[1].rows[-1]["data_term"]
    assert not same(state_of(rows["random"]), state_of(rows["map_prior"]))


@pytest.mark.parametrize(
    ("arm", "options", "share", "words"),
    [
        ({}, {}, 0.5, ["dice_cross_entropy", "no prior term"]),
        ({"preset": "prior_init"}, {}, 0.0, ["no prior term"]),
        ({"preset": "dwp", "temperature": 1}, {"likelihood": "cross_entropy"}, 0.0, ["negative ELBO per voxel"]),
        ({"preset": "dwp", "temperature": 0.5}, {"likelihood": "cross_entropy"}, 0.0, ["tempered", "T = 0.5"]),
        ({"preset": "dwp", "temperature": 1}, {}, 0.0, ["tempered", "data term dice_cross_entropy"]),
        ({"preset": "dwp", "temperature": 1}, {"likelihood": "cross_entropy"}, 0.5, ["tempered", "50%"]),
        ({"preset": "map_prior", "temperature": 1}, {"likelihood": "cross_entropy"}, 0.0, ["maximum a posteriori"]),
    ],
)
def test_only_an_elbo_is_called_one(arm: dict, options: dict, share: float, words: list[str]) -> None:
    study = inference(arms={"arm": {"preset": "random", **arm} if arm else {"preset": "random"}}, **options)
    name = objective_name(study.arms["arm"], study, PatchOptions(foreground_share=share))
    assert all(word in name for word in words), name
    assert ("ELBO" in name) == (words == ["negative ELBO per voxel"])
    assert study.likelihood in Likelihood


def test_predicted_classes_are_the_most_probable_ones() -> None:
    probability = torch.tensor([[0.4, 0.1, 0.3], [0.2, 0.7, 0.3]]).reshape(2, 3, 1, 1).half()
    assert predicted_classes(probability).flatten().tolist() == [0, 2, 0]

"""Every named arm learns, from where it should, what it should."""

from __future__ import annotations

import copy
import csv
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork
from models.filters import filter_layers, get_filters
from models.heads import Heads
from models.networks.factory import build_network, decoder_parameters, end_blocks
from models.networks.weight_transfer import start_from_source
from models.objectives import Likelihood
from models.posteriors.mixture import MixtureOptions
from models.posteriors.swag import SWAGOptions
from pipeline.arms.arm_record import read_arm
from pipeline.arms.choices import ArmOptions, Initialisation, Trainable
from pipeline.arms.learning import parameter_groups
from pipeline.arms.member import rebuild_member
from pipeline.arms.objective_name import objective_name
from pipeline.arms.prediction import WeightDraws, predict_cases
from pipeline.arms.prediction_unit import PredictionTask, predict_test_cases
from pipeline.arms.presets import PRESETS
from pipeline.arms.prior_term import WeightPriors
from pipeline.arms.source_knowledge import filter_penalty
from pipeline.arms.starting_point import learned_groups, start_from_prior
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.training_unit import member_seed
from pipeline.deployment.model_folder import read_model
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.post_processing import ComponentRule, Kept
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.prediction.stored_prediction import StoredPrediction, load_prediction, prediction_name
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.tensors import load_tensors
from pipeline.training.patches import PatchOptions

SEED = 11
HEAD = ("head.conv.weight", "head.conv.bias")
# A rate that is lost in rounding: what a training with it ends at is where it started.
STANDING = {"peak_rate": 1e-30, "log_variance_rate": 1e-9, "encoder_rate": 1e-9}


def state_of(model: BayesianNetwork) -> dict[str, torch.Tensor]:
    weights = model.network.state_dict() | model.tensors(model.centre())
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor], names=None) -> bool:
    return all(torch.equal(first[name], second[name]) for name in (first if names is None else names))


def start_of(arm: ArmOptions, bench) -> dict[str, torch.Tensor]:
    """Where the arm has to start, from the definitions of the choices."""
    network = build_network(bench.network, 1, 2, stream_seed(SEED, "weights"))
    if arm.init is Initialisation.SOURCE:
        return dict(bench.source.states[0])
    if arm.init is Initialisation.BRANCHES:
        states = bench.source.states
        return {name: sum(state[name] for state in states) / len(states) for name in states[0]}
    if arm.init is Initialisation.PRIOR:
        generator = torch.Generator().manual_seed(stream_seed(SEED, "prior-start"))
        start_from_prior(network, bench.source.priors[arm.prior], bench.source.groups, generator)
    if arm.init is Initialisation.SELF_SUPERVISED:
        # The network of an image model is a segmentation network by name and shape, but for its last layer.
        trunk = {name.removeprefix("network."): weight for name, weight in bench.image_state.items()}
        return network.state_dict() | {name: weight for name, weight in trunk.items() if name not in HEAD}
    return network.state_dict()


def learned_names(arm: ArmOptions, bench) -> set[str]:
    network = build_network(bench.network, 1, 2, 0)
    everything = {name for name, _ in network.named_parameters()}
    return {
        Trainable.ALL: everything,
        Trainable.ENDS: set(end_blocks(network)),
        Trainable.DECODER: set(decoder_parameters(network)),
    }[arm.trainable]


IMAGE_MODEL = {"init": Initialisation.SELF_SUPERVISED, "image_model": "denoising"}
ARMS = PRESETS | {
    "self_supervised_mixture": PRESETS["mixture"].model_copy(update=IMAGE_MODEL),
    "decoder_only": ArmOptions(init=Initialisation.SOURCE, trainable=Trainable.DECODER),
    "dwp_ends": PRESETS["dwp_source"].model_copy(update={"trainable": Trainable.ENDS, "filter_share": 1.0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_an_arm_starts_where_its_choices_say(name: str, bench) -> None:
    arm = ARMS[name].model_copy(update=STANDING)
    trained = bench.learn(arm)
    expected = start_of(arm, bench)
    # Numbers that start at zero are the only ones that such a rate still moves; averages of iterates are rounded.
    least = 1e-6 if isinstance(arm.posterior, SWAGOptions) else 1e-20
    assert all(float((t - expected[key]).abs().max()) < least for key, t in state_of(trained.model).items())
    assert trained.started_anew == ([*HEAD] if arm.image_model else [])


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_an_arm_learns_what_its_choices_say_and_nothing_else(name: str, bench) -> None:
    arm = ARMS[name]
    known = bench.knowledge(arm)
    priors = {group: copy.deepcopy(prior.state_dict()) for group, prior in known.priors.items()}
    trained = bench.learn(arm, known)
    model, history = trained.model, trained.history
    assert len(history.rows) == arm.components
    assert all(math.isfinite(value) for value in history.rows[-1].values())
    start, end = start_of(arm, bench), state_of(model)
    learned = learned_names(arm, bench)
    assert same(start, end, set(start) - learned)
    moved = {key for key in start if not torch.equal(start[key], end[key])}
    assert moved <= learned
    assert {layer.parameter for layer in filter_layers(model.network)} & learned <= moved
    assert any(key.startswith("head") for key in moved)
    for key, parameter in model.posterior.named_parameters():
        assert bool(parameter.isfinite().all()), key
    assert len(model.posterior.mean()) == sum(layer.count for layer in model.layers)
    # ψ of r(z|w) is learned with the posterior, φ of p(w|z) never is.
    uses_prior = arm.needs_prior and arm.posterior_temperature > 0
    assert (f"kl_nats_{next(iter(bench.source.groups))}" in history.rows[-1]) == (
        uses_prior and any(layer.parameter in learned for layer in next(iter(bench.source.groups.values())))
    )
    for group, prior in known.priors.items():
        changed = {k for k, tensor in prior.state_dict().items() if not torch.equal(tensor, priors[group][k])}
        encoder = ("encoder", "shape.encoder", "reuse_logit", "log_spread")
        assert all(key.startswith(encoder) for key in changed)
        if arm.posterior_temperature > 0 and any(layer.parameter in learned for layer in bench.source.groups[group]):
            variational = {id(p) for p in prior.variational_parameters()}
            assert all(p.requires_grad == (id(p) in variational) for p in prior.parameters())
        in_use = uses_prior and any(layer.parameter in learned for layer in bench.source.groups[group])
        # A filter that is reused for certain teaches the density of shapes nothing.
        assert bool(changed) == (in_use and arm.prior.startswith("vae")), group


def test_rates_and_decay_of_what_is_learned(bench) -> None:
    for name, decayed in (("dwp", False), ("random", True)):
        arm = PRESETS[name].model_copy(update={"log_variance_rate": 7.0, "encoder_rate": 0.2})
        known = bench.knowledge(arm)
        model = bench.learn(arm, known).model
        priors = WeightPriors(known.priors, learned_groups(known.groups, model.layers, model.layers))
        plain, weights, quick, encoders, means = parameter_groups(model, priors, arm)
        assert means["params"] == []
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


def test_log_variances_move_by_their_own_rate(bench) -> None:
    moved = []
    for factor in (1.0, 10.0):
        arm = PRESETS["dwp"].model_copy(update={"log_variance_rate": factor})
        start = bench.learn(arm.model_copy(update=STANDING)).model
        end = bench.learn(arm).model
        values = [dict(model.posterior.named_parameters())["log_variances"].detach() for model in (start, end)]
        moved.append(float((values[1] - values[0]).abs().mean()))
    assert moved[1] > 5 * moved[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_an_arm_predicts_and_is_rebuilt_to_the_same_predictions(name: str, bench, tmp_path: Path) -> None:
    arm = PRESETS[name].model_copy(update={"draws": 3})
    task = bench.task(arm, name)
    files = bench.run(task, tmp_path / "unit")
    assert sum(file.startswith("model/member-") for file in files) == arm.members
    members = []
    for number in range(arm.members):
        state = load_tensors(tmp_path / "unit" / "model" / f"member-{number:02d}.safetensors")
        member = rebuild_member(arm, TargetNetwork(bench.network, 1, 2), state)
        assert not member.training
        members.append(WeightDraws(member, 3, stream_seed(bench.seed, "target", 0, number), "cpu"))
    first, second = [draw.filters for draw in members[0].member.draws(2, torch.Generator().manual_seed(0))]
    assert torch.equal(first, second) != arm.is_bayesian
    # Each case alone, whatever cases shared the draws in the unit.
    for case, prediction in predict_cases(members, task.test, (16, 16, 16), SlidingWindowOptions(), "cpu", memory=0):
        again = tmp_path / "again.safetensors"
        StoredPrediction.of(prediction, case, case.image_digest).write(again)
        path = tmp_path / "unit" / "predictions" / f"{case.name}.safetensors"
        assert again.read_bytes() == path.read_bytes()
        check_prediction(path, case, arm.members * (3 if arm.is_bayesian else 1))
    unit = json.loads(files["unit.json"])
    assert (unit["arm"], unit["n"], unit["repeat"], unit["patients"]) == (name, 2, 0, ["p", "q"])
    assert unit["choices"] == arm.model_dump(mode="json")
    assert unit["started_anew"] == ([*HEAD] if arm.image_model else [])
    assert (len(unit["trainings"]), unit["predictions"]) == (arm.members, ["predictions"])
    rows = list(csv.DictReader(files["train-0/history.csv"].decode().splitlines()))
    assert [row["step"] for row in rows] == [str(3 * (k + 1)) for k in range(arm.components)]


def check_prediction(path: Path, case, passes: int) -> None:
    stored = load_prediction(path)
    assert (stored.case, stored.classes, stored.draws) == (case.name, ("class_1",), passes)
    assert stored.image == case.image_digest
    assert stored.affine.tolist() == case.affine.tolist()
    logs = stored.log_probability.float()
    assert logs.shape == (2, *case.shape)
    assert float((logs.exp().sum(0) - 1).abs().max()) < 2e-3
    if passes == 1:
        assert stored.mutual_information is None
        assert stored.volumes_ml is None
        return
    assert stored.mutual_information is not None
    assert stored.volumes_ml is not None
    # Voxels of 2 × 2 × 3 mm.
    assert stored.volumes_ml.shape == (passes, 1)
    assert bool(((stored.volumes_ml / 0.012 - (stored.volumes_ml / 0.012).round()).abs() < 1e-9).all())
    assert stored.mutual_information.shape == case.shape
    assert float(stored.mutual_information.max()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "dwp_source", "mixture", "swag"])
def test_the_same_seed_gives_the_same_bytes(name: str, bench, tmp_path: Path) -> None:
    arm = PRESETS[name].model_copy(update={"draws": 2})
    if name == "mixture":
        arm = arm.model_copy(update={"posterior": MixtureOptions(components=2)})
    task = bench.task(arm, name)
    files = bench.run(task, tmp_path / "first" / "unit")
    assert files == bench.run(task, tmp_path / "second" / "unit")
    if name == "random":
        other = bench.run(task, tmp_path / "third" / "unit", seed=bench.seed + 1)
        assert other["predictions/t.safetensors"] != files["predictions/t.safetensors"]


def test_a_reading_is_no_part_of_a_training_or_a_prediction(bench, tmp_path: Path) -> None:
    plain = PRESETS["swag"].model_copy(update={"draws": 2})
    rules = {"class_1": ComponentRule(keep=Kept.LARGEST)}
    read = {
        "logit_temperature": 2.0, "mask": MaskRule.EXPECTED_DICE, "voxel_correlation": 0.2, "post_processing": rules,
    }  # fmt: skip
    files = [
        bench.run(bench.task(arm), tmp_path / str(number) / "unit")
        for number, arm in enumerate((plain, plain.model_copy(update=read)))
    ]
    same_files = [{name: own for name, own in of.items() if name.startswith(("train", "predictions"))} for of in files]
    assert same_files[0] == same_files[1]
    assert files[0]["model/member-00.safetensors"] == files[1]["model/member-00.safetensors"]
    assert files[0]["model/model.json"] != files[1]["model/model.json"]


def test_what_a_training_does_not_depend_on_is_at_its_default_there() -> None:
    swag = PRESETS["multi_swag_calibrated"]
    assert swag.of_training() == PRESETS["swag"].of_training() == PRESETS["swa"].of_training()
    assert PRESETS["ensemble"].of_training() == PRESETS["fine_tune"].of_training()
    assert PRESETS["random"].of_training() != PRESETS["fine_tune"].of_training()
    assert PRESETS["swa"].of_prediction() != PRESETS["swag"].of_prediction()
    idle = {
        "posterior_temperature": 0.5,
        "l2_std": 1.0,
        "filter_share": 1.0,
        "train_samples": 1,
        "draws": 3,
        "kl_warm_up": 0.5,
    }
    assert PRESETS["fine_tune"].model_copy(update=idle).of_training() == PRESETS["fine_tune"].of_training()
    used = {"posterior_temperature": 0.5, "kl_warm_up": 0.5, "filter_share": 1.0, "log_variance_rate": 3.0}
    for name, value in used.items():
        assert PRESETS["dwp"].model_copy(update={name: value}).of_training() != PRESETS["dwp"].of_training(), name


def test_one_more_case_or_another_image_is_one_more_prediction(bench, tmp_path: Path) -> None:
    task = bench.task(PRESETS["random"])
    bench.run(task, tmp_path / "unit")
    earlier, folder = tmp_path / "unit" / "predictions", tmp_path / "again"
    folder.mkdir()
    before = {path.name: path.stat().st_ino for path in earlier.iterdir()}
    cases = [*task.test, bench.make_case("v", 14)]
    images = {case.name: case.image_digest for case in cases} | {"u": "another"}
    again = PredictionTask(
        task.arm, [tmp_path / "unit" / "train-0"], [member_seed(SEED, 0, 0)], bench.network, (16, 16, 16),
        SlidingWindowOptions(), "cpu", cases, images, earlier,
    )  # fmt: skip
    predict_test_cases(folder, ProgressFile(tmp_path / "progress"), task=again)
    assert sorted(path.name for path in folder.iterdir()) == ["t.safetensors", "u.safetensors", "v.safetensors"]
    # What is the same file was not predicted again.
    assert {name for name, node in before.items() if (folder / name).stat().st_ino == node} == {"t.safetensors"}
    assert load_prediction(folder / "u.safetensors").image == "another"


def test_members_start_from_different_source_networks(bench, tmp_path: Path) -> None:
    files = bench.run(bench.task(PRESETS["ensemble"]), tmp_path / "x" / "unit")
    members = [files[f"model/member-{number:02d}.safetensors"] for number in range(3)]
    assert len(set(members)) == 3
    assert {f"train-{number}/history.csv" for number in range(3)} <= set(files)


def test_a_head_of_other_classes_is_started_anew_and_named(bench, tmp_path: Path) -> None:
    task = bench.task(PRESETS["fine_tune"], classes=2)
    files = bench.run(task, tmp_path / "x" / "unit")
    assert json.loads(files["unit.json"])["started_anew"] == ["head.conv.weight", "head.conv.bias"]
    stored = load_prediction(tmp_path / "x" / "unit" / "predictions" / "t.safetensors")
    assert stored.log_probability.shape == (3, 20, 20, 20)
    network = build_network(bench.network, 1, 3, 5)
    head = network.state_dict()["head.conv.weight"].clone()
    assert start_from_source(network, bench.source.states[0]) == ["head.conv.weight", "head.conv.bias"]
    assert torch.equal(network.state_dict()["head.conv.weight"], head)
    assert torch.equal(network.state_dict()["stem.weight"], bench.source.states[0]["stem.weight"])


def test_a_stem_of_other_channels_is_started_anew(bench) -> None:
    network = build_network(bench.network, 2, 2, 5)
    assert start_from_source(network, bench.source.states[0]) == ["stem.weight"]


def test_filters_drawn_from_the_prior_look_like_it(bench) -> None:
    network = build_network(bench.network, 1, 2, 0)
    before = network.state_dict()["head.conv.weight"].clone()
    generator = torch.Generator().manual_seed(0)
    start_from_prior(network, bench.source.priors["gaussian_full"], bench.source.groups, generator)
    for members in bench.source.groups.values():
        drawn = get_filters(network.state_dict(), members)
        fitted = torch.cat([get_filters(state, members) for state in bench.source.states])
        assert float(drawn.std() / fitted.std()) == pytest.approx(1.0, abs=0.25)
    assert torch.equal(network.state_dict()["head.conv.weight"], before)


def test_arms_see_the_same_patches_and_start_alike(bench) -> None:
    rows = {name: bench.learn(PRESETS[name]).model for name in ("random", "map_prior")}
    # Before the first step both are one network, so the first data term is one number.
    alike = [ARMS[name].model_copy(update=STANDING) for name in ("random", "map_prior")]
    first = [bench.learn(arm).history for arm in alike]
    assert first[0].rows[-1]["data_term"] == first[1].rows[-1]["data_term"]
    assert not same(state_of(rows["random"]), state_of(rows["map_prior"]))


def test_members_that_start_from_one_image_model_differ_in_their_heads_and_patches(bench, tmp_path: Path) -> None:
    files = bench.run(bench.task(ArmOptions(**IMAGE_MODEL, members=2)), tmp_path / "x" / "unit")
    first, second = (files[f"model/member-{number:02d}.safetensors"] for number in range(2))
    assert first != second
    assert json.loads(files["unit.json"])["started_anew"] == [*HEAD]


def test_l2_sp_around_an_image_model_needs_no_source(bench) -> None:
    arm = PRESETS["fine_tune_l2sp"].model_copy(update=IMAGE_MODEL)
    assert not arm.uses_source
    known = bench.knowledge(arm)
    own = build_network(bench.network, 1, 2, 0).state_dict()
    layers = filter_layers(build_network(bench.network, 1, 2, 0))
    penalty = filter_penalty(arm, own, layers, known.states[0])
    assert penalty is not None
    torch.testing.assert_close(penalty.means, get_filters(known.states[0], layers))


def test_an_image_model_and_a_start_from_it_need_each_other() -> None:
    with pytest.raises(ValueError, match="need each other"):
        ArmOptions(init=Initialisation.SELF_SUPERVISED)
    with pytest.raises(ValueError, match="need each other"):
        ArmOptions(image_model="denoising")


@pytest.mark.parametrize(
    ("arm", "options", "share", "words"),
    [
        ({}, {}, 0.5, ["dice_cross_entropy", "no prior term"]),
        ({"preset": "prior_init"}, {}, 0.0, ["no prior term"]),
        (
            {"preset": "dwp", "posterior_temperature": 1},
            {"likelihood": "cross_entropy"},
            0.0,
            ["negative ELBO per voxel"],
        ),
        (
            {"preset": "dwp", "posterior_temperature": 0.5},
            {"likelihood": "cross_entropy"},
            0.0,
            ["tempered", "T = 0.5"],
        ),
        ({"preset": "dwp", "posterior_temperature": 1}, {}, 0.0, ["tempered", "data term dice_cross_entropy"]),
        ({"preset": "dwp", "posterior_temperature": 1}, {"likelihood": "cross_entropy"}, 0.5, ["tempered", "50%"]),
        (
            {"preset": "map_prior", "posterior_temperature": 1},
            {"likelihood": "cross_entropy"},
            0.0,
            ["maximum a posteriori"],
        ),
    ],
)
def test_only_an_elbo_is_called_one(arm: dict, options: dict, share: float, words: list[str]) -> None:
    study = TargetTrainingOptions(arms={"arm": {"preset": "random", **arm} if arm else {"preset": "random"}}, **options)
    name = objective_name(study.arms["arm"], 2, study, PatchOptions(foreground_share=share))
    assert all(word in name for word in words), name
    assert ("ELBO" in name) == (words == ["negative ELBO per voxel"])
    assert study.likelihood in Likelihood


def test_records_of_earlier_workspaces_are_read() -> None:
    assert ArmOptions.model_validate({"temperature": 0.25}).posterior_temperature == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_every_arm_learns_overlapping_structures_from_partial_annotation(
    name: str, bench, make_case, tmp_path: Path
) -> None:
    def partly(case: str, size: int = 16) -> CachedCase:
        label = np.zeros((size,) * 3, np.int16)
        label[4:9, 4:9, 4:9], label[5:7, 5:7, 5:7] = 1, 2
        label[:, :, -3:] = 255
        made = make_case(case, label=label, classes={"whole": (1, 2), "core": (2,)})
        return replace(made, ignored=(255,))

    task = bench.task(ARMS[name], name)
    patients = {"p": [partly("a")], "q": [partly("b")]}
    regions = {"whole": (1, 2), "core": (2,)}
    trainings = [
        replace(
            training,
            network=TargetNetwork.of(bench.network, patients["p"][0]),
            patients=patients,
            teacher=training.teacher and bench.teacher(regions),
        )
        for training in task.trainings
    ]
    bench.run(replace(task, trainings=trainings, test=[partly("t", 20)]), tmp_path / "out")
    stored = load_prediction(tmp_path / "out/predictions" / prediction_name("t"))
    assert stored.heads is Heads.OVERLAPPING
    assert stored.log_probability.shape == (2, 20, 20, 20)
    assert torch.isfinite(stored.log_probability).all()
    model = read_model(tmp_path / "out/model", "cpu").description
    assert (model.heads, model.classes) == (Heads.OVERLAPPING, {"whole": 1, "core": 2})
    # The head of the source told two exclusive classes apart.
    record = read_arm(tmp_path / "out")
    assert all(parameter.startswith("head.") for parameter in record.started_anew)
    assert bool(record.started_anew) is ARMS[name].starts_trained

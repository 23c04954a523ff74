"""The training loop, and a small network that learns a cube."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from data.errors import TrainingError
from data.splits import BootstrapSample
from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions
from models.objectives import SegmentationLoss
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.storage.tensors import load_about, load_tensors
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.computing import ComputingOptions
from pipeline.training.loop import History, StepLoss, TrainingPlan, train
from pipeline.training.optimiser import OptimiserOptions
from pipeline.training.patches import PatchOptions, PatchSampler
from pipeline.training.source_network import INITIAL, TRUNK, SourceTask, snapshot_name, train_source_network
from pipeline.training.source_options import SourceTrainingOptions
from pipeline.training.validation import mean_dice

OFF = AugmentationOptions(affine=0, noise=0, blur=0, brightness=0, gamma=0, low_resolution=0)
NETWORK = ResidualUNetOptions(channels=(4, 8), encoder_blocks=(0, 1))
PLAIN = OptimiserOptions(weight_decay=0.0, gradient_clip=1e9)


def square(parameter: torch.nn.Parameter):
    return lambda step: StepLoss(parameter.square().sum(), {"extra": float(step)}, ["a"])


def test_rate_factors_multiply_the_rate_of_their_group() -> None:
    # Adam's first step is the learning rate times the sign of the gradient.
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    train(
        [{"params": [first]}, {"params": [second], "rate_factor": 10.0}],
        lambda step: StepLoss((first + second).sum()),
        TrainingPlan(1, lambda step: 0.01, PLAIN),
    )
    torch.testing.assert_close(first.detach(), torch.full((2,), 0.99))
    torch.testing.assert_close(second.detach(), torch.full((2,), 0.90))


def test_the_rate_is_that_of_the_step() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    rates = [0.5, 0.0, 0.25]
    seen = []
    history = train(
        [{"params": [parameter]}],
        lambda step: StepLoss(parameter.sum()),
        TrainingPlan(3, lambda step: rates[step], PLAIN, log_every=1),
        after_step=lambda step, row: seen.append(float(parameter.detach())),
    )
    assert seen == pytest.approx([0.5, 0.5, 0.25], abs=1e-6)
    assert [row["rate"] for row in history.rows] == rates


def test_what_needs_no_gradient_stays_as_it_is() -> None:
    free, frozen = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1), requires_grad=False)
    train(
        [{"params": [free, frozen]}],
        lambda step: StepLoss((free * frozen).sum()),
        TrainingPlan(2, lambda step: 0.1, OptimiserOptions(weight_decay=0.5)),
    )
    assert frozen.item() == 1.0
    assert free.item() < 1.0


def decayed_and_kept(options: OptimiserOptions, rates: list[float], gradient: float = 0.0) -> tuple[float, float]:
    """What becomes of two weights of 1 under a constant gradient; the second is in a group without decay."""
    decayed, kept = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    train(
        [{"params": [decayed]}, {"params": [kept], "weight_decay": 0.0}],
        lambda step: StepLoss((decayed + kept).sum() * gradient),
        TrainingPlan(len(rates), lambda step: rates[step], options),
    )
    return decayed.item(), kept.item()


def test_decoupled_decay_shrinks_by_the_sum_of_the_rates() -> None:
    rates = [0.02, 0.01] * 20
    decayed, kept = decayed_and_kept(OptimiserOptions(weight_decay=2.0), rates)
    assert decayed == pytest.approx(math.prod(1 - 2.0 * rate for rate in rates), rel=1e-5)
    assert decayed == pytest.approx(math.exp(-2.0 * sum(rates)), rel=0.05)
    assert kept == 1.0


def test_an_l2_penalty_is_part_of_the_gradient_that_adam_divides_by() -> None:
    # Without another gradient the first step is the rate, however weak the penalty; a larger gradient outweighs it.
    for strength in (1e-3, 1.0):
        decayed, kept = decayed_and_kept(OptimiserOptions(weight_decay=strength, decay="l2"), [0.1])
        assert decayed == pytest.approx(0.9, abs=1e-4)
        assert kept == 1.0
    decayed, kept = decayed_and_kept(OptimiserOptions(weight_decay=1e-3, decay="l2"), [0.1], gradient=-1.0)
    assert decayed == pytest.approx(kept)
    assert decayed == pytest.approx(1.1)


def test_kernels_alone_decay_where_that_is_chosen() -> None:
    kernel, norm, free = (torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 1, 3, 3, 3), (2,), (2, 2)))
    train(
        [{"params": [kernel, norm]}, {"params": [free], "weight_decay": 0.0}],
        lambda step: StepLoss((kernel.sum() + norm.sum() + free.sum()) * 0),
        TrainingPlan(1, lambda step: 0.1, OptimiserOptions(weight_decay=0.5, decayed="kernels")),
    )
    assert kernel[0, 0, 0, 0, 0].item() == pytest.approx(1 - 0.1 * 0.5)
    assert (norm[0].item(), free[0, 0].item()) == (1.0, 1.0)


def test_source_networks_decay_strongly_and_earlier_studies_are_read_as_they_were_meant() -> None:
    plain = SourceTrainingOptions().optimiser
    assert (plain.weight_decay, plain.decay, plain.decayed) == (1e-3, "l2", "all")
    # A changed strength is of the same kind.
    for change in ({"weight_decay": 5e-3}, {"gradient_clip": 5.0}):
        assert SourceTrainingOptions(optimiser=change).optimiser == plain.model_copy(update=change)
    # A resolved configuration holds every key; this one is from before it held the kind.
    earlier = SourceTrainingOptions(optimiser={"weight_decay": 1e-4, "gradient_clip": 12.0})
    assert earlier.in_recipe()["optimiser"] == {"weight_decay": 1e-4, "gradient_clip": 12.0}
    for options in (plain, earlier.optimiser):
        assert SourceTrainingOptions(optimiser=options.model_dump(mode="json")).optimiser == options


def test_the_recipe_names_a_kind_of_decay_only_where_it_was_chosen() -> None:
    assert OptimiserOptions(weight_decay=0.5).in_recipe() == {"weight_decay": 0.5, "gradient_clip": 12.0}
    assert OptimiserOptions(decay="l2").in_recipe()["decay"] == "l2"
    assert OptimiserOptions(decayed="kernels").in_recipe()["decayed"] == "kernels"


def test_gradients_are_clipped() -> None:
    parameter = torch.nn.Parameter(torch.ones(4))
    train(
        [{"params": [parameter]}],
        square(parameter),
        TrainingPlan(1, lambda step: 0.1, OptimiserOptions(gradient_clip=0.5)),
    )
    assert parameter.grad is not None
    assert float(parameter.grad.norm()) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_step_and_cases(bad: float) -> None:
    parameter = torch.nn.Parameter(torch.ones(1))

    def step_loss(step: int) -> StepLoss:
        return StepLoss(parameter.sum() * (bad if step == 2 else 1), cases=[f"case_{step}", "other"])

    with pytest.raises(TrainingError, match=r"at step 2 \(cases case_2, other\)") as caught:
        train([{"params": [parameter]}], step_loss, TrainingPlan(5, lambda step: 0.1, PLAIN))
    assert "finite" in str(caught.value)


def test_rows_are_kept_every_few_steps_at_the_end_and_where_asked(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(1))

    def after_step(step: int, row: dict[str, float]) -> None:
        if step == 6:
            row["dice"] = 0.5

    history = train(
        [{"params": [parameter]}],
        square(parameter),
        TrainingPlan(11, lambda step: 0.1, PLAIN, log_every=4, keep=lambda step: step == 6),
        after_step=after_step,
    )
    assert [row["step"] for row in history.rows] == [4, 7, 8, 11]
    assert [row["extra"] for row in history.rows] == [3, 6, 7, 10]
    history.write(tmp_path / "history.csv")
    with (tmp_path / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["step", "loss", "rate", "extra", "dice"]
    assert [row["dice"] for row in rows] == ["", "0.5", "", ""]
    assert float(rows[0]["loss"]) == history.rows[0]["loss"]


def test_an_empty_history_can_be_written(tmp_path: Path) -> None:
    History().write(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").exists()


@pytest.mark.slow
def test_a_small_network_learns_two_cubes(make_case) -> None:
    cases = [make_case("a"), make_case("b", corner=(7, 3, 8))]
    network = build_network(NETWORK, 1, 2, 0)
    sampler = PatchSampler([[case] for case in cases], PatchOptions(size=(16, 16, 16), batch=2), Augmentation(OFF), 0)
    loss = SegmentationLoss()

    def step_loss(step: int) -> StepLoss:
        images, labels, names = sampler.batch(step)
        return StepLoss(loss(network(images), labels), cases=names)

    groups = [{"params": list(network.parameters())}]
    history = train(groups, step_loss, TrainingPlan(100, lambda step: 1e-2))
    assert history.rows[-1]["loss"] < 0.5 * history.rows[0]["loss"]
    assert mean_dice(network.eval(), cases, (16, 16, 16), SlidingWindowOptions(), "cpu") > 0.9


def source_task(cases, **changes) -> SourceTask:
    settings = {
        "number": 0,
        "seed": 1,
        "sample": BootstrapSample(("a", "a"), ("b",)),
        "drawn": [[cases[0]], [cases[0]]],
        "out_of_bag": [cases[1]],
        "network": NETWORK,
        "options": SourceTrainingOptions(networks=1, cycles=2, steps_per_cycle=3, warm_up=1, validation_cases=1),
        "patches": PatchOptions(size=(8, 8, 8)),
        "augmentation": OFF,
        "computing": ComputingOptions(),
    }
    return SourceTask(**(settings | changes))


def _train_source(folder: Path, cases, **changes) -> None:
    folder.mkdir()
    train_source_network(
        folder, ProgressFile(folder / "progress", saves=True), task=source_task(cases, **changes), device="cpu"
    )


def test_a_source_network_leaves_snapshots_history_and_sample(make_case, tmp_path: Path) -> None:
    cases = [make_case("a"), make_case("b")]
    _train_source(tmp_path / "0", cases)
    folder = tmp_path / "0"
    states = [load_tensors(folder / name) for name in (INITIAL, snapshot_name(0), snapshot_name(1))]
    assert load_about(folder / snapshot_name(1)) == {"network": 0, "cycle": 1}
    assert set(states[0]) == set(states[1]) == set(states[2])
    assert all(not torch.equal(states[i]["stem.weight"], states[i + 1]["stem.weight"]) for i in range(2))
    expected = build_network(NETWORK, 1, 2, 0).state_dict()
    assert {name: tensor.shape for name, tensor in states[2].items()} == {n: t.shape for n, t in expected.items()}
    with (folder / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    # The end of each cycle is kept, with the Dice of the patients that were not drawn.
    assert [row["step"] for row in rows] == ["3", "6"]
    assert all(0 <= float(row["out_of_bag_dice"]) <= 1 for row in rows)
    assert float(rows[0]["rate"]) == pytest.approx(SourceTrainingOptions().floor_rate)
    text = (folder / "sample.json").read_text()
    assert '"validated_on"' in text


def test_branches_start_from_their_trunk_and_part(make_case, tmp_path: Path) -> None:
    cases = [make_case("a"), make_case("b")]
    options = SourceTrainingOptions(networks=2, cycles=1, steps_per_cycle=2, warm_up=1, trunk_steps=3)
    assert (options.of_trunk().cycles, options.of_trunk().steps_per_cycle) == (1, 3)
    _train_source(tmp_path / "trunk", cases, number=TRUNK, options=options.of_trunk())
    _train_source(tmp_path / "alone", cases, number=0, options=options)
    trunk = tmp_path / "trunk" / snapshot_name(0)
    for number in range(2):
        _train_source(tmp_path / str(number), cases, number=number, options=options, trunk=trunk)
    of_trunk = load_tensors(trunk)
    starts = [load_tensors(tmp_path / name / INITIAL) for name in ("0", "1", "trunk", "alone")]
    assert all(torch.equal(starts[k][name], tensor) for k in range(2) for name, tensor in of_trunk.items())
    # The trunk's own random start is that of no network.
    assert not any(torch.equal(starts[k]["stem.weight"], of_trunk["stem.weight"]) for k in (2, 3))
    assert not torch.equal(starts[2]["stem.weight"], starts[3]["stem.weight"])
    ends = [load_tensors(tmp_path / name / snapshot_name(0))["stem.weight"] for name in "01"]
    assert not torch.equal(*ends)
    assert float((ends[0] - ends[1]).norm()) < float((ends[0] - starts[3]["stem.weight"]).norm())


@pytest.mark.slow
def test_a_source_network_is_a_function_of_seed_and_number(make_case, tmp_path: Path) -> None:
    cases = [make_case("a"), make_case("b")]
    for name, changes in {"0": {}, "1": {}, "2": {"number": 1}, "3": {"seed": 2}}.items():
        _train_source(tmp_path / name, cases, **changes)
    weights = [(tmp_path / name / snapshot_name(1)).read_bytes() for name in "0123"]
    assert weights[0] == weights[1]
    assert len(set(weights)) == 3


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_weights() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))

    def root_at_zero(step: int) -> StepLoss:
        return StepLoss(weight.sqrt().sum(), cases=["case_7"])

    with pytest.raises(TrainingError, match=r"gradient is inf at step 0 \(cases case_7\)"):
        train([{"params": [weight]}], root_at_zero, TrainingPlan(2, lambda step: 0.1))
    assert weight.item() == 0

"""How many trainings a study has and how many steps fit, worked out by hand; what is given up first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from data.errors import ConfigError
from models.networks.factory import NetworkOptions
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.planning.concessions import SCRATCH_ARMS, Ambition, ambitions
from pipeline.planning.evaluation_design import EvaluationDesign, evaluation_design
from pipeline.planning.fingerprint import CaseFingerprint, Fingerprint
from pipeline.planning.schedule import Work, count_work, read_budget
from pipeline.planning.sizing import Machine, Sizing, Wish, size_study
from pipeline.planning.speed import Speed, assumed_speed
from pipeline.planning.study_folds import study_folds
from pipeline.training.memory_estimate import MemoryEstimate, estimate_training_memory
from pipeline.training.patches import PatchOptions


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90min", 5400), ("1h30min", 5400), ("1 h 30 m", 5400), ("0.5h", 1800)]
)
def test_a_budget_is_a_duration(text: str, seconds: float) -> None:
    assert read_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "0h", "-2h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--budget"):
        read_budget(text)


def test_trainings_that_arms_share_count_once() -> None:
    arms = TargetTrainingOptions.model_validate({"arms": ["random", "fine_tune", "ensemble"]}).arms
    folds = study_folds(evaluation_design(8, "x"), inner_folds=3)
    # `fine_tune` is the first member of the ensemble: 1 + 3 trainings on each of 9 sets of patients. Passes: 1 + 1 + 3
    # over 8 scans, and 8 validated ones after each of 4 cycles of 3 networks.
    work = count_work(arms, folds, networks=3, cases_per_patient=1.0, preparation=0.0, at_a_time=2)
    assert (work.trainings, work.passes) == (36, 5 * 8 + 3 * 4 * 8)


def test_an_arm_whose_reading_is_fitted_learns_from_the_inner_folds_as_well() -> None:
    arms = TargetTrainingOptions.model_validate({"arms": ["swag_calibrated"]}).arms
    set_aside = study_folds(evaluation_design(30, "x"), inner_folds=3)
    # 20 patients, and three inner folds of them; eight draws over the 10 test scans and over each of the 20.
    work = count_work(arms, set_aside, networks=1, cases_per_patient=1.0, preparation=0.0, at_a_time=1)
    assert (work.trainings, work.passes) == (4, 8 * 30 + 4 * 8)
    # Four patients one by one: they, four triples, and six pairs that two inner folds share.
    one_by_one = study_folds(evaluation_design(4, "x"), inner_folds=3)
    assert count_work(arms, one_by_one, 1, 1.0, 0.0, 1).trainings == 1 + 4 + 6


def test_a_rate_is_tuned_by_the_first_member_on_every_inner_fold() -> None:
    arms = TargetTrainingOptions.model_validate(
        {"arms": {"random": {}, "fitted": {"preset": "random", "members": 2, "fit_reading": True}}}
    ).arms
    # Six patients learn and three are tested. Three inner folds of the six, at each of two rates; the second member
    # only at the one that is chosen, where it is fitted as well: 3 × 2 + 3, and two members on all six.
    set_aside = study_folds(EvaluationDesign(9, 6, None, 3, "x"), inner_folds=3)
    work = count_work(arms, set_aside, networks=0, cases_per_patient=1.0, preparation=0.0, at_a_time=1, rates=2)
    # Passes: 3 test scans by three members; the inner folds of all six by one member at two rates, for each arm, and by
    # two members for the fit.
    assert (work.trainings, work.passes) == (3 * 2 + 3 + 2, 3 * 3 + 2 * 2 * 6 + 2 * 6)
    # With one member, the fit takes a prediction that was made to tune.
    one = {"fitted": arms["fitted"].model_copy(update={"members": 1})}
    work = count_work(one, set_aside, 0, 1.0, 0.0, 1, rates=2)
    assert (work.trainings, work.passes) == (3 * 2 + 1, 3 + 2 * 6)
    # Three patients one by one: two of them are too few to tune on, and the final model of all three is tuned.
    one_by_one = study_folds(evaluation_design(3, "x"), inner_folds=3)
    assert count_work({"random": arms["random"]}, one_by_one, 0, 1.0, 0.0, 1, rates=4).trainings == 3 * 4 + 1


def test_a_study_that_tunes_has_fewer_steps() -> None:
    plain, tuned = (sized(2 * 3600, wish=Wish(tunes=tunes)) for tunes in (False, True))
    assert tuned.work.trainings > 2 * plain.work.trainings
    assert len(tuned.ambition.given_up) > len(plain.ambition.given_up)


def test_steps_and_seconds_are_each_others_inverse() -> None:
    work = Work(networks=3, trainings=45, passes=400, preparation=100.0, at_a_time=2)
    # 4 × 2 rounds of the source and 23 of the target.
    assert work.rounds == 31
    speed = Speed(step=0.5, prediction=0.1)
    assert work.seconds(100, speed) == pytest.approx((31 * 100 * 0.5 + (100 + 400 * 0.1) / 2) / 0.8)
    assert work.steps(work.seconds(100, speed) + 1, speed) == 100
    assert work.steps(10.0, speed) == 0
    assert work.steps(1e9, speed) == 1000


@pytest.fixture(autouse=True, scope="module")
def one_estimate_for_each_network() -> Iterator[None]:
    """To estimate the memory of a training takes seconds, and the tests plan with a few networks many times."""
    known: dict[str, MemoryEstimate] = {}

    def once(network: NetworkOptions, *shape: Any, **how: Any) -> MemoryEstimate:
        key = f"{network.model_dump_json()} {shape} {how}"
        if key not in known:
            known[key] = estimate_training_memory(network, *shape, **how)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.planning.sizing.estimate_training_memory", once)
        yield


FOUND = Fingerprint(
    (CaseFingerprint("a", np.ones(3), np.array([35.0, 51.0, 35.0]), {"x": np.array([20.0, 30.0, 20.0])}, None),)
)


def sized(budget: float, patients: int = 8, meter: Callable | None = None, wish: Wish | None = None) -> Sizing:
    def assumed(network, patches, scan) -> Speed:
        # Half the channels: four times as fast.
        return assumed_speed(2.0 * (16 / network.channels[0]) ** 2, patches, scan)

    machine = Machine("cpu", 2, 1, meter or assumed)
    return size_study(
        budget, (1.0, 1.0, 1.0), FOUND, evaluation_design(patients, "x"), 1, 2, 1.0, 0.0, machine, wish or Wish()
    )


def test_a_large_budget_gives_nothing_up() -> None:
    plan = sized(8 * 3600)
    assert plan.ambition.given_up == ()
    assert plan.ambition.arms == ("random", "fine_tune", "multi_swag_calibrated")
    assert plan.work.networks == 3
    assert (plan.design.folds, plan.spacing, plan.network.channels[0]) == (8, (1.0, 1.0, 1.0), 16)
    assert plan.steps >= 250
    assert plan.work.seconds(plan.steps, plan.speed) <= 8 * 3600


def test_members_go_first_then_folds_then_fitted_rivals_then_width_and_the_grid_last() -> None:
    times = (300, 120, 100, 60, 20, 4)
    seen = [sized(minutes * 60) for minutes in times]
    assert [len(plan.ambition.given_up) for plan in seen] == [0, 1, 2, 3, 4, 5]
    assert all(plan.spacing == (1.0, 1.0, 1.0) for plan in seen[:5])
    assert (seen[1].ambition.arms[-1], seen[1].work.networks, seen[2].design.folds, seen[4].network.channels[0]) == (
        "swag_calibrated",
        1,
        5,
        8,
    )
    fitted = [[arm.fit_reading for arm in plan.ambition.options.values()] for plan in seen]
    assert fitted[:3] == [[True] * 3] * 3
    assert fitted[3] == [False, False, True]
    assert seen[-1].spacing[0] > 1.0
    assert "voxels of the data's" in seen[-1].ambition.given_up[-1]
    for plan, minutes in zip(seen, times, strict=True):
        assert plan.steps >= 100
        assert plan.work.seconds(plan.steps, plan.speed) <= minutes * 60


def test_a_grid_is_not_coarsened_for_more_than_useful_trainings() -> None:
    plan = sized(8 * 60)
    assert plan.spacing == (1.0, 1.0, 1.0)
    assert 100 <= plan.steps < 250


class OfAPack(Wish):
    """A wish whose network, patch and grid are decided."""

    def ambitions(self, design: EvaluationDesign) -> Iterator[Ambition]:
        return ambitions(self.first, chosen_arms=False, many_folds=True, own_network=False)


def test_a_pack_keeps_its_grid_however_small_the_budget_is() -> None:
    plan = sized(35 * 60, wish=OfAPack(trains_source=False))
    assert (plan.spacing, plan.network.channels[0]) == ((1.0, 1.0, 1.0), 16)
    assert 100 <= plan.steps < 250
    assert len(plan.ambition.given_up) == 3
    with pytest.raises(ConfigError) as refused:
        sized(60, wish=OfAPack(trains_source=False))
    assert "grid" not in refused.value.found


def test_a_budget_that_is_too_small_says_what_would_fit() -> None:
    with pytest.raises(ConfigError, match="too short for 1 source and 33 target trainings of 100 steps") as refused:
        sized(10)
    enough = read_budget(refused.value.expected.removeprefix("at least "))
    assert sized(enough).steps >= 100


def test_a_network_is_timed_once_for_each_width() -> None:
    timed = []

    def meter(network, patches: PatchOptions, scan) -> Speed:
        timed.append(network.channels[0])
        return Speed(1e-9, 60.0)

    with pytest.raises(ConfigError):
        sized(60, meter=meter)
    assert timed == [16, 8]


def test_chosen_arms_are_never_replaced_and_need_the_networks_that_they_start_from() -> None:
    def asked(*arms: str, trains: bool = True) -> Sizing:
        return sized(60 * 60, wish=Wish(Ambition(arms), chosen_arms=True, trains_source=trains))

    assert asked("random", "multi_swag_calibrated").ambition.arms == ("random", "multi_swag_calibrated")
    assert asked("random", "fine_tune").work.networks == 1
    assert asked("ensemble").work.networks == 3
    # A density is fitted to the filters of several networks.
    assert asked("dwp").work.networks == 3
    assert asked("ensemble", trains=False).work.networks == 0


def test_without_a_source_no_source_is_reckoned_with() -> None:
    plan = sized(30 * 60, wish=Wish(Ambition(SCRATCH_ARMS), trains_source=False))
    assert plan.work.networks == 0
    assert not any(line.startswith("source:") for line in plan.work.arithmetic(plan.steps, plan.speed))
    with pytest.raises(ConfigError, match="too short for 21 target trainings of 100 steps, although"):
        sized(1, patients=8, wish=Wish(Ambition(("random",)), trains_source=False))

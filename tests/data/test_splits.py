"""Splits, subsets and bootstrap samples are of patients, disjoint, nested and functions of the seed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.case import Case
from data.dataset import Dataset
from data.errors import DataError
from data.splits import (
    Split,
    bootstrap_sample,
    draw_folds,
    draw_split,
    nested_subsets,
)

LABEL = Path("label.nii.gz")


def cohort(root: str, patients: int, cases_each: int = 2, unlabelled: tuple[str, ...] = ()) -> Dataset:
    cases = []
    for p in range(patients):
        for c in range(cases_each):
            name = f"c{p:02d}_{c}"
            cases.append(Case(name, f"P{p:02d}", {}, None if name in unlabelled else LABEL))
    return Dataset(Path(root), "msd", tuple(cases), ("MRI",), {0: "background", 1: "organ"}, True)


@given(st.integers(0, 2**32))
def test_sets_from_one_folder_are_disjoint_by_patient(seed: int) -> None:
    dataset = cohort("/data/one", 12)
    split = draw_split(dataset, dataset, source_choice=5, pool=4, test=3, seed=seed)
    assert (len(split.source), len(split.pool), len(split.test)) == (5, 4, 3)
    assert len({*split.source, *split.pool, *split.test}) == 12
    assert split.pool_cases[split.pool[0]] == tuple(f"c{split.pool[0][1:]}_{i}" for i in (0, 1))


def test_the_folder_is_one_even_if_named_differently(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    first, second = cohort(str(tmp_path / "a"), 6), cohort(str(tmp_path / "link"), 6)
    split = draw_split(first, second, source_choice=2, pool=2, test=2, seed=0)
    assert not {*split.source} & {*split.pool, *split.test}


def test_two_folders_may_use_all_their_patients() -> None:
    split = draw_split(cohort("/a", 6), cohort("/b", 6), source_choice=6, pool=3, test=3, seed=0)
    assert set(split.source) == {f"P{p:02d}" for p in range(6)}


def test_the_test_set_does_not_depend_on_the_other_counts() -> None:
    dataset = cohort("/a", 12)
    splits = [draw_split(dataset, dataset, source_choice=s, pool=p, test=3, seed=4) for s, p in [(2, 2), (5, 4)]]
    assert splits[0].test == splits[1].test
    assert splits[0].pool == splits[1].pool[:2]


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_cases() -> None:
    dataset = cohort("/a", 12)
    turned = Dataset(dataset.root, "msd", dataset.cases[::-1], ("MRI",), dataset.label_names, True)
    counts = {"source_choice": 5, "pool": 4, "test": 3}
    assert draw_split(dataset, dataset, **counts, seed=1) == draw_split(turned, turned, **counts, seed=1)
    assert draw_split(dataset, dataset, **counts, seed=1) != draw_split(dataset, dataset, **counts, seed=2)


def test_with_an_unlabelled_case_are_left_out() -> None:
    dataset = cohort("/a", 4, unlabelled=("c02_1",))
    split = draw_split(dataset, dataset, source_choice=1, pool=1, test=1, seed=0)
    assert "P02" not in {*split.source, *split.pool, *split.test}
    with pytest.raises(DataError, match=r"only 3 labelled.*1 more have cases without a label") as caught:
        draw_split(dataset, dataset, source_choice=1, pool=2, test=2, seed=0)
    assert "`target.test` or `target.pool`" in caught.value.fix


def test_too_few_source_choice_names_the_key() -> None:
    dataset = cohort("/a", 6)
    with pytest.raises(DataError, match=r"3 \(`source.patients`\).*only 2") as caught:
        draw_split(dataset, dataset, source_choice=3, pool=2, test=2, seed=0)
    assert caught.value.fix == "lower `source.patients`"
    with pytest.raises(DataError, match=r"`target.pool` is -1"):
        draw_split(dataset, dataset, source_choice=3, pool=-1, test=2, seed=0)


def test_listed_cases_alone_count() -> None:
    dataset = cohort("/a", 4)
    split = draw_split(dataset, dataset, source_choice=["c00_1"], pool=["c01_0", "c01_1"], test=["c03_0"], seed=0)
    assert split.source_cases == {"P00": ("c00_1",)}
    assert split.pool_cases == {"P01": ("c01_0", "c01_1")}
    assert split.test == ("P03",)
    assert Split.from_json(split.as_json()) == split


@pytest.mark.parametrize(
    ("lists", "sides"),
    [
        ((["c00_0"], ["c01_0"], ["c01_1"]), ("target.pool_cases", "target.test_cases", "P01", "c01_0", "c01_1")),
        ((["c00_0"], ["c00_1"], ["c01_1"]), ("source.cases", "target.pool_cases", "P00", "c00_0", "c00_1")),
        ((["c00_0"], ["c02_1"], ["c00_1"]), ("source.cases", "target.test_cases", "P00", "c00_0", "c00_1")),
    ],
)
def test_a_patient_on_both_sides_is_refused(lists: tuple[list[str], ...], sides: tuple[str, ...]) -> None:
    dataset = cohort("/a", 4)
    with pytest.raises(DataError, match="both sides") as caught:
        draw_split(dataset, dataset, source_choice=lists[0], pool=lists[1], test=lists[2], seed=0)
    assert all(word in str(caught.value) for word in sides)


def test_equal_names_in_two_folders_are_two_patients() -> None:
    split = draw_split(
        cohort("/a", 2), cohort("/b", 2), source_choice=["c00_0"], pool=["c00_0"], test=["c01_0"], seed=0
    )
    assert split.source == split.pool == ("P00",)


@pytest.mark.parametrize(
    ("cases", "message"), [(["c00_0", "c00_0"], "twice"), (["c02_1"], "no label"), (["nobody"], "no case 'nobody'")]
)
def test_bad_lists_are_refused(cases: list[str], message: str) -> None:
    dataset = cohort("/a", 4, unlabelled=("c02_1",))
    with pytest.raises(DataError, match=message):
        draw_split(dataset, dataset, source_choice=cases, pool=[], test=[], seed=0)


@given(
    st.integers(1, 20), st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 9), st.integers(0, 2**40)
)
def test_subsets_are_nested_and_have_their_size(patients: int, sizes: list[int], repeat: int, seed: int) -> None:
    pool = [f"P{i}" for i in range(patients)]
    sizes = [min(size, patients) for size in sizes]
    subsets = nested_subsets(pool, sizes, repeat, seed)
    assert subsets == nested_subsets(pool[::-1], sizes, repeat, seed)
    for size, subset in subsets.items():
        assert len(set(subset)) == size
        assert set(subset) <= set(pool)
        assert all(set(subset) <= set(other) for n, other in subsets.items() if n >= size)


def test_repeats_differ() -> None:
    pool = [f"P{i}" for i in range(30)]
    assert len({nested_subsets(pool, [5], repeat, 0)[5] for repeat in range(10)}) == 10


@pytest.mark.parametrize("size", [-1, 4])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(DataError, match=r"`target_training.sizes` holds .*the pool has 3 patients"):
        nested_subsets(["a", "b", "c"], [2, size], 0, 0)


@given(st.integers(1, 12), st.integers(0, 2**32), st.integers(0, 5))
def test_a_bootstrap_sample_partitions_the_patients(count: int, seed: int, network: int) -> None:
    patients = [f"P{i:02d}" for i in range(count)]
    sample = bootstrap_sample(patients, seed, network)
    assert len(sample.drawn) == count
    assert set(sample.drawn) | set(sample.out_of_bag) == set(patients)
    assert not set(sample.drawn) & set(sample.out_of_bag)
    assert bool(sample.out_of_bag) == (count > 1)
    assert sample == bootstrap_sample(patients[::-1], seed, network)


def test_networks_get_their_own_samples_with_the_expected_share_out_of_bag() -> None:
    patients = [f"P{i}" for i in range(100)]
    samples = [bootstrap_sample(patients, 0, network) for network in range(50)]
    assert len({sample.drawn for sample in samples}) == 50
    share = sum(len(sample.out_of_bag) for sample in samples) / 5000
    assert share == pytest.approx((1 - 1 / 100) ** 100, abs=0.02)


def test_no_patients_is_an_error() -> None:
    with pytest.raises(DataError, match="no patients"):
        bootstrap_sample([], 0, 0)


def test_who_was_seen_by_a_trunk_is_out_of_bag_for_no_branch() -> None:
    patients = [f"p{number}" for number in range(400)]
    trunk = bootstrap_sample(patients, 0, "trunk")
    assert trunk != bootstrap_sample(patients, 0, 0)
    own = bootstrap_sample(patients, 0, 0)
    after = own.after(trunk)
    assert after.drawn == own.drawn
    assert set(after.out_of_bag) == set(patients) - set(own.drawn) - set(trunk.drawn)
    assert len(after.out_of_bag) / 400 == pytest.approx(math.exp(-2), abs=0.05)


def test_the_source_is_drawn_beside_listed_target_cases() -> None:
    one = cohort("/data/one", 8, unlabelled=("c07_1",))
    target = {"pool": ["c01_0", "c02_0"], "test": ["c03_1"]}
    split = draw_split(one, one, source_choice=4, seed=3, **target)
    assert (split.pool_cases, split.test_cases) == ({"P01": ("c01_0",), "P02": ("c02_0",)}, {"P03": ("c03_1",)})
    assert {*split.source} == {"P00", "P04", "P05", "P06"}
    assert split.source_cases["P00"] == ("c00_0", "c00_1")
    assert draw_split(one, one, source_choice=3, seed=3, **target).source == split.source[:3]
    with pytest.raises(DataError, match=r"only 4 labelled .* beside those of `target.pool_cases` and"):
        draw_split(one, one, source_choice=5, seed=3, **target)
    assert len(draw_split(cohort("/data/two", 8), one, source_choice=8, seed=3, **target).source) == 8
    with pytest.raises(DataError, match="is on both sides"):
        draw_split(one, one, source_choice=1, pool=["c01_0"], test=["c01_1"], seed=3)


def test_the_target_is_drawn_beside_listed_source_cases() -> None:
    one = cohort("/data/one", 6)
    split = draw_split(one, one, source_choice=["c01_0", "c02_0"], pool=2, test=2, seed=3)
    assert split.source_cases == {"P01": ("c01_0",), "P02": ("c02_0",)}
    assert {*split.pool, *split.test} == {"P00", "P03", "P04", "P05"}
    with pytest.raises(DataError, match=r"only 4 labelled .* beside those of `source.cases`"):
        draw_split(one, one, source_choice=["c01_0", "c02_0"], pool=3, test=2, seed=3)
    other = draw_split(cohort("/b", 6), one, source_choice=["c01_0"], pool=3, test=3, seed=3)
    assert len({*other.pool, *other.test}) == 6


@given(st.integers(2, 20), st.data())
def test_folds_part_patients_evenly_and_every_repeat_anew(count: int, data: st.DataObject) -> None:
    patients = [f"p{i}" for i in range(count)]
    folds = data.draw(st.integers(2, count))
    parts = draw_folds(patients, folds, 0, seed=1)
    assert sorted(p for part in parts for p in part) == sorted(patients)
    assert len(parts) == folds
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert draw_folds(list(reversed(patients)), folds, 0, seed=1) == parts
    if count > 9 and folds < count:
        assert draw_folds(patients, folds, 1, seed=1) != parts


def test_a_pool_of_all_patients_leaves_out_those_with_another_role() -> None:
    one = cohort("/data/one", 6, unlabelled=("c05_1",))
    split = draw_split(one, one, source_choice=["c00_0"], pool=None, test=1, seed=3)
    assert {*split.pool, *split.test} == {"P01", "P02", "P03", "P04"}
    assert len(draw_split(cohort("/b", 2), one, source_choice=2, pool=None, test=0, seed=3).pool) == 5
    with pytest.raises(DataError, match=r"only 0 labelled .* beside the 1 of `target.test` and the 4 of the pool"):
        draw_split(one, one, source_choice=1, pool=None, test=1, seed=3)

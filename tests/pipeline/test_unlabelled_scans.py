"""Scans without annotation: which ones a study takes in each layout, and which ones are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from data.case import Case, ImageSource
from data.dataset import Dataset
from data.errors import DataError, GraftError
from data.image_file import read_volume, write_volume
from data.layouts.detection import read_dataset
from data.splits import Split
from data.volume import Volume
from pipeline.cli import main
from pipeline.config.reading import read_config
from pipeline.config.study import StudyConfig
from pipeline.stages import check
from pipeline.stages.resources import Resources
from pipeline.stages.study_plan import read_plan
from pipeline.stages.unlabelled_scans import (
    UnlabelledScans,
    choose_unlabelled,
    planned_datasets,
    read_unlabelled_folder,
)
from pipeline.storage.cached_case import ARRAYS
from pipeline.storage.plan_record import PlanRecord
from pipeline.storage.tensors import load_tensors
from pipeline.storage.workspace import Workspace

SPLIT = Split({"s1": ("s1",)}, {"p1": ("p1",), "p2": ("p2",)}, {"t1": ("t1",), "t2": ("t2",)})


def study(unlabelled: Any, path: str = "target", source: str = "source", **target: Any) -> StudyConfig:
    dataset = {"modality": "mr", "foreground": [1]}
    raw = {
        "name": "s",
        "seed": 3,
        "datasets": {"a": {**dataset, "path": source}, "b": {**dataset, "path": path}},
        "source": {"dataset": "a", "patients": 2},
        "target": {"dataset": "b", "unlabelled": unlabelled, **(target or {"pool": 2, "test": 2})},
        "target_training": {} if "folds" in target else {"sizes": [2], "arms": ["random"]},
    }
    return StudyConfig.model_validate(raw)


def dataset(root: str, cases: Sequence[str]) -> Dataset:
    """Cases `patient[/case][+]`, the latter with a label."""
    made = []
    for text in cases:
        patient, _, name = text.rstrip("+").partition("/")
        label = Path(f"{text}.nii") if text.endswith("+") else None
        made.append(Case(name or patient, patient, {"T1": ImageSource(Path(f"{text}.nii"))}, label))
    return Dataset(Path(root), "csv", tuple(made), ("T1",), {0: "background", 1: "x"}, True)


TARGET = ("p1+", "p2+", "t1+", "t2+", "t1/later", "p1/early", "u1", "u2", "u3", "u4", "u5", "a1+", "a2+")


def chosen(unlabelled: Any, *, cases: Sequence[str] = TARGET, one_folder: bool = False) -> UnlabelledScans:
    target = dataset("target", cases)
    source = target if one_folder else dataset("source", ["s1+", "u1+"])
    return choose_unlabelled(study(unlabelled), {"a": source, "b": target}, (), SPLIT)


def test_all_are_those_without_a_label_of_patients_without_another_role() -> None:
    found = chosen("all")
    assert found.names == ["u1", "u2", "u3", "u4", "u5"]
    assert found.withheld == ()
    # In one folder, a patient of the source has a role, too.
    both = (*TARGET, "s1/second")
    assert "second" not in chosen("all", cases=both, one_folder=True).names
    assert "second" in chosen("all", cases=both).names
    assert chosen(None).names == []


def test_labels_are_withheld_on_request_from_patients_without_another_role() -> None:
    found = chosen({"withhold_labels": True})
    assert found.names == ["u1", "u2", "u3", "u4", "u5", "a1", "a2"]
    assert found.withheld == ("a1", "a2")


def test_a_number_is_drawn_and_a_larger_one_keeps_what_a_smaller_one_drew() -> None:
    three, four = (set(chosen(n).names) for n in (3, 4))
    assert (len(three), len(four)) == (3, 4)
    assert three < four < set(chosen("all").names)
    with pytest.raises(DataError, match="asks for 6 scans without annotation, and there are 5") as refused:
        chosen(6)
    assert "withhold_labels: true" in str(refused.value)


def test_a_study_that_asks_for_scans_and_has_none_is_refused() -> None:
    with pytest.raises(DataError, match="asks for all scans without annotation, and there is none"):
        chosen("all", cases=[case for case in TARGET if not case.startswith("u")])


@pytest.mark.parametrize(
    ("unlabelled", "words"),
    [
        (["u1", "later"], "'later' is of patient 't1', who is in the test set"),
        (["early"], "'early' is of patient 'p1', who is in the pool"),
        ({"cases": ["t2"], "withhold_labels": True}, "'t2' is of patient 't2', who is in the test set"),
        (["u1", "a1"], "case 'a1' of `target.unlabelled` has a label"),
        (["u9"], "there is no case 'u9'"),
        ({"cases": ["p1"], "transductive": True, "withhold_labels": True}, "'p1' is itself learned from"),
    ],
)
def test_named_scans_that_may_not_be_used_are_refused(unlabelled: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as refused:
        chosen(unlabelled)
    assert refused.value.exit_code == 2


def test_scans_of_tested_patients_are_used_where_that_is_allowed() -> None:
    assert chosen({"cases": ["u1", "later"], "transductive": True}).names == ["u1", "later"]
    everything = chosen({"transductive": True, "withhold_labels": True})
    # Whom the arms learn from stays apart; of the test scans, the tests read the labels.
    assert set(everything.names) == {"u1", "u2", "u3", "u4", "u5", "a1", "a2", "later", "early", "t1", "t2"}
    assert everything.withheld == ("a1", "a2")


@pytest.mark.parametrize("wrong", [True, 0, [], ["a", "a"], {"cases": True}, {"folder": "x"}, 1.5])
def test_what_is_no_choice_of_scans_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        study(wrong)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


NAMES = [f"sub-{number}" for number in range(1, 7)]
LABELLED = NAMES[:2]


def write_msd(root: Path) -> Path:
    training = [
        {"image": f"imagesTr/{name}.nii.gz"} | ({"label": f"labelsTr/{name}.nii.gz"} if name in LABELLED else {})
        for name in NAMES
    ]
    touch(*(root / own["image"] for own in training), root / "imagesTs/test_1.nii.gz")
    description = {"modality": {"0": "T1"}, "labels": {"0": "background", "1": "x"}, "training": training}
    (root / "dataset.json").write_text(json.dumps(description | {"test": ["imagesTs/test_1.nii.gz"]}))
    return root


def write_nnunet(root: Path) -> Path:
    touch(*(root / f"imagesTr/{name}_0000.nii.gz" for name in NAMES), root / "imagesTs/test_1_0000.nii.gz")
    touch(*(root / f"labelsTr/{name}.nii.gz" for name in LABELLED))
    description = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def write_bids(root: Path) -> Path:
    touch(*(root / f"{name}/anat/{name}_T1w.nii.gz" for name in NAMES))
    touch(*(root / f"derivatives/manual/{name}/anat/{name}_label-x_mask.nii.gz" for name in LABELLED))
    return root


def write_csv(root: Path) -> Path:
    rows = [f"{name},{name}.nii.gz,{f'{name}-label.nii.gz' if name in LABELLED else ''}" for name in NAMES]
    root.mkdir(parents=True)
    (root / "manifest.csv").write_text("\n".join(["case,T1,label", *rows]) + "\n")
    (root / "labels.csv").write_text("value,name\n1,x\n")
    return root


@pytest.mark.parametrize("write", [write_msd, write_nnunet, write_bids, write_csv])
def test_every_layout_can_say_which_cases_have_no_label(write: Callable[[Path], Path], tmp_path: Path) -> None:
    target = read_dataset(write(tmp_path / "data"))
    pool, test = ({name: (name,)} for name in LABELLED)
    datasets = {"a": dataset("source", ["s1+"]), "b": target}
    found = choose_unlabelled(study("all"), datasets, (), Split({}, pool, test))
    # Images of a test set, whose labels are somebody's secret, are none of them.
    assert found.names == NAMES[2:]
    folder = study({"path": str(target.root)}, path="elsewhere")
    # As a folder beside the target, it gives the same scans.
    cases = read_unlabelled_folder(folder, target.channel_names)
    assert [case.name for case in cases] == NAMES[2:]
    other = {"a": dataset("source", ["s1+"]), "b": dataset("target", ["p1+", "t1+"])}
    assert choose_unlabelled(folder, other, cases, SPLIT).names == NAMES[2:]


def test_a_folder_of_plain_images_will_do(tmp_path: Path) -> None:
    touch(*(tmp_path / f"images/{name}_0000.nii.gz" for name in NAMES))
    config = study({"path": str(tmp_path / "images"), "cases": 3})
    cases = read_unlabelled_folder(config, ["T1"])
    assert [case.name for case in cases] == NAMES
    target = dataset("target", ["p1+", "t1+", "u1"])
    found = choose_unlabelled(config, {"a": dataset("source", ["s1+"]), "b": target}, cases, SPLIT)
    assert len(found.names) == 3
    assert set(found.names) < set(NAMES)


def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        read_unlabelled_folder(study({"path": str(tmp_path / "nowhere")}), ["T1"])
    write_csv(tmp_path / "other")
    with pytest.raises(DataError, match="sub-3 does not fit the target") as refused:
        read_unlabelled_folder(study({"path": str(tmp_path / "other")}), ["FLAIR"])
    assert "scans with the target's channels: FLAIR" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [("u1", "'u1' has the name of the case 'u1'"), ("U1", "'U1' has the name"), ("t1/x", "'x' is of patient 't1'")],
)
def test_a_folder_with_names_of_the_target_is_refused(name: str, words: str, tmp_path: Path) -> None:
    config = study({"path": str(tmp_path)})
    cases = dataset(str(tmp_path), [name]).cases
    datasets = {"a": dataset("source", ["s1+"]), "b": dataset("target", TARGET)}
    with pytest.raises(DataError, match=words):
        choose_unlabelled(config, datasets, cases, SPLIT)


@pytest.fixture
def cohort(write_cohort: Callable, tmp_path: Path) -> Path:
    """Nine scans; the labels of the last four are not listed."""
    root = write_cohort(tmp_path / "cohort")
    description = json.loads((root / "dataset.json").read_text())
    for entry in description["training"][5:]:
        del entry["label"]
    (root / "dataset.json").write_text(json.dumps(description))
    return root


LISTED = {"pool": None, "test": None, "pool_cases": ["case_1", "case_2"], "test_cases": ["case_3"]}
SOURCE = {"patients": None, "cases": ["case_0"]}


def write_target(write_study: Callable, folder: Path, cohort: Path, unlabelled: Any) -> Path:
    target = {**LISTED, "unlabelled": unlabelled}
    training = {"arms": ["random"], "sizes": [1, 2], "reference_sizes": []}
    return write_study(folder / "tiny.yaml", cohort, source=SOURCE, target=target, target_training=training)


@pytest.mark.slow
def test_unlabelled_scans_are_checked_planned_and_preprocessed_without_labels(
    write_study: Callable, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in (5, 6):
        shutil.move(cohort / f"imagesTr/case_{number}.nii.gz", images / f"new_{number}.nii.gz")
    for name, unlabelled, expected, hidden in (
        ("own", {"cases": ["case_7", "case_4"], "withhold_labels": True}, {"case_7", "case_4"}, ["case_4"]),
        ("other", {"path": str(images)}, {"new_5", "new_6"}, None),
    ):
        config_file = write_target(write_study, tmp_path, cohort, unlabelled)
        root = tmp_path / name
        # A study with self-training preprocesses scans whose labels are withheld (tests/integration).
        for stage in ("check",) if hidden else ("check", "preprocess"):
            assert main([stage, str(config_file), "--workspace", str(root), "--jobs", "1"]) == 0
        record = PlanRecord.model_validate(json.loads((root / "check/study/study.json").read_text()))
        assert {case for cases in record.unlabelled.values() for case in cases} == expected
        assert record.withheld == (hidden or [])
        for case in () if hidden else ("case_1", *expected):
            arrays = load_tensors(root / "preprocess/right" / case / ARRAYS)
            assert ("label" in arrays) == (case == "case_1"), case
        config = read_config(config_file, workspace=root)
        plan = read_plan(config, Workspace(root))
        if not hidden:
            (cached,) = plan.cached("unlabelled", next(iter(plan.patients("unlabelled"))))
            assert cached.shape == tuple(cached.image().shape[1:])
        assert all(planned_datasets(plan)["right"].case(case).label is None for case in expected)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_scans_that_differ_or_occur_twice_are_refused_by_check(
    write_study: Callable, cohort: Path, tmp_path: Path, elsewhere: bool
) -> None:
    folder = tmp_path / "images" if elsewhere else cohort / "imagesTr"
    folder.mkdir(exist_ok=True)
    names = [f"{'new' if elsewhere else 'case'}_{number}" for number in range(5, 9)]
    for name in names:
        if elsewhere:
            shutil.move(cohort / f"imagesTr/case_{name[-1]}.nii.gz", folder / f"{name}.nii.gz")
    twin, coarse, hounsfield, _ = (folder / f"{name}.nii.gz" for name in names)
    # The same voxels with another header are the same image.
    labelled = read_volume(cohort / "imagesTr/case_2.nii.gz")
    write_volume(Volume(labelled.array.astype(np.float64), labelled.affine + np.eye(4, k=3)), twin)
    volume = read_volume(coarse)
    write_volume(Volume(volume.array, volume.affine @ np.diag([1, 1, 3, 1])), coarse)
    volume = read_volume(hounsfield)
    write_volume(Volume(np.where(volume.array > 200, 40, -1000).astype(np.float32) + volume.array % 7,
                        volume.affine), hounsfield)  # fmt: skip
    config_file = write_target(write_study, tmp_path, cohort, {"path": str(folder)} if elsewhere else "all")
    config, workspace = read_config(config_file, workspace=tmp_path / "workspace"), Workspace(tmp_path / "workspace")
    examination = check.examine(config, workspace, Resources(jobs=1))
    bad = {finding.case: finding for _, finding in examination.errors()}
    assert set(bad) == set(names[:3])
    assert "same voxels as T1 of case 'case_2'" in bad[names[0]].found
    assert "spacing 2 × 2 × 6 mm" in bad[names[1]].found
    assert bad[names[2]].check == "value_range"
    assert all("leave the scan out" in finding.fix for finding in bad.values())
    with pytest.raises(GraftError, match="same voxels") as refused:
        check.run(config, workspace, Resources(jobs=1))
    assert refused.value.exit_code == 2

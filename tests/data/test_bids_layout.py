"""BIDS: what is a scan and what is not, which label belongs to which scan, and that nothing is lost silently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.checks.finding import Finding, Level
from data.dataset import Dataset
from data.errors import DataError
from data.image_file import write_volume
from data.layouts.bids_file import closeness, parse_name
from data.layouts.bids_scans import SCAN_SUFFIXES
from data.layouts.detection import detect_layout, read_dataset
from data.volume import Volume

LABEL = Volume(np.pad(np.ones((2, 2, 2), np.uint8), 1), np.eye(4))


def add(root: Path, *names: str, pipeline: str = "", datatype: str = "anat") -> None:
    """Makes files of these names where BIDS has them; labels can be read."""
    for name in names:
        folders = [part for part in name.split("_") if part.startswith(("sub-", "ses-"))]
        home = root / "derivatives" / pipeline if pipeline else root
        path = home.joinpath(*folders, datatype, name if "." in name else f"{name}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        if pipeline:
            write_volume(LABEL, path)
        else:
            path.touch()


def labels(dataset: Dataset) -> dict[str, str | None]:
    """Case → name of its label, without the suffix of the file."""
    return {c.name: c.label.name.removesuffix(".nii.gz") if c.label else None for c in dataset.cases}


def scans(dataset: Dataset, channel: str) -> dict[str, str]:
    """Case → name of its scan."""
    found = {c.name: c.channels[channel] for c in dataset.cases if channel in c.channels}
    return {case: source.path.name.removesuffix(".nii.gz") for case, source in found.items()}


def findings(dataset: Dataset, check: str) -> list[Finding]:
    return [finding for finding in dataset.findings if finding.check == check]


@pytest.mark.parametrize(
    "mask",
    [
        "label-lesion_roi", "desc-lesion_seg", "lesion", "mask", "dseg", "probseg", "label-lesion_T1w",
        "desc-brain_mask", "T1w_label-lesion_mask", "msk", "mod-T1w_defacemask", "label-lesion",
    ],
)  # fmt: skip
def test_a_mask_beside_the_scan_is_never_an_input(tmp_path: Path, mask: str) -> None:
    for subject in ("sub-01", "sub-02"):
        add(tmp_path, f"{subject}_T1w", f"{subject}_{mask}")
    dataset = read_dataset(tmp_path)
    assert dataset.channel_names == ("T1w",)
    assert labels(dataset) == {"sub-01": None, "sub-02": None}
    (finding,) = findings(dataset, "mask_beside_scan")
    assert finding.level is Level.WARNING
    assert f"sub-01/anat/sub-01_{mask}.nii.gz" in finding.found
    assert "derivatives/manual" in finding.fix
    add(tmp_path, "sub-01_dseg", "sub-02_dseg", pipeline="manual")
    dataset = read_dataset(tmp_path)
    assert labels(dataset) == {"sub-01": "sub-01_dseg", "sub-02": "sub-02_dseg"}
    (finding,) = findings(dataset, "mask_beside_scan")
    assert finding.level is Level.INFO


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        ("label-lesion_roi", "lesion"),
        ("label-lesion_mask", "lesion"),
        ("desc-lesion_mask", "lesion"),
        ("desc-lesion_seg", "label 1"),
        ("lesion", "label 1"),
        ("msk", "label 1"),
        ("mask", "foreground"),
    ],
)
def test_a_mask_that_is_moved_as_the_finding_says_is_the_label(tmp_path: Path, mask: str, name: str) -> None:
    add(tmp_path, "sub-01_T1w")
    add(tmp_path, f"sub-01_{mask}", pipeline="manual")
    dataset = read_dataset(tmp_path)
    assert labels(dataset) == {"sub-01": f"sub-01_{mask}"}
    assert dataset.label_names == {0: "background", 1: name}


@pytest.mark.parametrize("suffix", ["bold", "dwi", "epi", "asl", "T1", "t1w", "brain", "adc", "lesions2"])
def test_what_is_no_scan_of_the_schema_is_named_and_not_used(tmp_path: Path, suffix: str) -> None:
    add(tmp_path, "sub-01_T1w", f"sub-01_{suffix}")
    dataset = read_dataset(tmp_path)
    assert dataset.channel_names == ("T1w",)
    (finding,) = findings(dataset, "not_a_scan")
    assert f"`{suffix}`" in finding.found
    assert f"sub-01/anat/sub-01_{suffix}.nii.gz is not used" in finding.found


@pytest.mark.parametrize("name", ["T1.nii.gz", "sub-01_lesion_T1w.nii.gz", "sub-01_T1w.mha", "sub-01_acq-_T1w.nii"])
def test_other_names_are_no_scans_either(tmp_path: Path, name: str) -> None:
    add(tmp_path, "sub-01_FLAIR")
    (tmp_path / "sub-01" / "anat" / name).touch()
    dataset = read_dataset(tmp_path)
    assert dataset.channel_names == ("FLAIR",)
    (finding,) = findings(dataset, "not_a_scan")
    assert f"sub-01/anat/{name}" in finding.found


@pytest.mark.parametrize(
    "name", ["._sub-01_T2w.nii.gz", ".DS_Store", "Thumbs.db", "sub-01_T1w.json", "sub-01_scans.tsv"]
)
def test_files_of_other_programs_and_sidecars_are_passed_over(tmp_path: Path, name: str) -> None:
    add(tmp_path, "sub-01_T1w")
    add(tmp_path, "sub-01_label-lesion_mask", pipeline="manual")
    (tmp_path / "sub-01" / "anat" / name).touch()
    (tmp_path / "derivatives" / "manual" / "sub-01" / "anat" / name).touch()
    (tmp_path / "derivatives" / "manual" / "sub-01" / "anat" / "._sub-01_label-lesion_mask.nii.gz").touch()
    dataset = read_dataset(tmp_path)
    assert dataset.channel_names == ("T1w",)
    assert labels(dataset) == {"sub-01": "sub-01_label-lesion_mask"}
    assert dataset.findings == ()


def test_every_suffix_of_the_schema_is_a_channel(tmp_path: Path) -> None:
    assert {
        "T1w",
        "T2w",
        "PDw",
        "FLAIR",
        "T2starw",
        "UNIT1",
        "angio",
        "inplaneT1",
        "inplaneT2",
        "T1map",
    } <= SCAN_SUFFIXES
    for suffix in SCAN_SUFFIXES:
        add(tmp_path, f"sub-01_{suffix}")
    assert read_dataset(tmp_path).channel_names == tuple(sorted(SCAN_SUFFIXES))


def test_ct_and_pet_have_folders_of_their_own(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_ct", datatype="ct")
    add(tmp_path, "sub-02_CT")
    add(tmp_path, "sub-02_space-CT_label-bleeding_mask", pipeline="manual")
    add(tmp_path, "sub-01_trc-FDG_pet", "sub-01_label-lesion_mask", datatype="pet")
    dataset = read_dataset(tmp_path)
    assert dataset.channel_names == ("ct", "trc-FDG_pet")
    assert labels(dataset) == {"sub-01": None, "sub-02": "sub-02_space-CT_label-bleeding_mask"}
    assert findings(dataset, "mask_beside_scan")


@pytest.mark.parametrize(
    ("datatype", "name", "message"),
    [
        ("func", "sub-01_task-rest_bold", "holds no images but those of func"),
        ("dwi", "sub-01_dwi", "holds no images but those of dwi"),
        (
            "anat",
            "sub-01_label-lesion_roi",
            "only masks; sub-01/anat/sub-01_label-lesion_roi.nii.gz is not used",
        ),
        ("anat", "sub-01_T1", "there is no scan; `T1` is not a BIDS suffix for scans"),
        ("anat", "sub-02_T1w", "there is no scan"),
    ],
)
def test_a_dataset_without_scans_is_refused_in_one_sentence(
    tmp_path: Path, datatype: str, name: str, message: str
) -> None:
    folder = tmp_path / "sub-01" / datatype
    folder.mkdir(parents=True)
    (folder / f"{name}.nii.gz").touch()
    assert detect_layout(tmp_path).name == "bids"
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.expected
    assert caught.value.fix


def test_two_files_that_are_one_scan_are_refused(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_T1w", "sub-01_T1w.nii")
    with pytest.raises(DataError, match=r"sub-01_T1w\.nii\.gz: the same image as .*sub-01_T1w\.nii;"):
        read_dataset(tmp_path)


def test_a_session_in_the_name_alone_is_a_session(tmp_path: Path) -> None:
    for session in ("ses-1", "ses-2"):
        add(tmp_path, f"sub-01_{session}_T1w")
        found = tmp_path / "sub-01" / session / "anat" / f"sub-01_{session}_T1w.nii.gz"
        (tmp_path / "sub-01" / "anat").mkdir(exist_ok=True)
        found.rename(tmp_path / "sub-01" / "anat" / found.name)
    dataset = read_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["sub-01_ses-1", "sub-01_ses-2"]
    assert dataset.findings == ()


def test_a_scan_in_the_folder_of_another_participant_is_an_error_of_that_case(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_T1w", "sub-02_T1w")
    (tmp_path / "sub-01" / "anat" / "sub-02_acq-x_T1w.nii.gz").touch()
    dataset = read_dataset(tmp_path)
    assert scans(dataset, "T1w") == {"sub-01": "sub-01_T1w", "sub-02": "sub-02_T1w"}
    (finding,) = findings(dataset, "misplaced_scan")
    assert (finding.level, finding.case) == (Level.ERROR, "sub-01")


@pytest.mark.parametrize(
    ("scan_names", "label_names"),
    [
        # What names which scan of a session is no kind of label.
        (["sub-01_run-1", "sub-02_run-1", "sub-03_run-2"], ["sub-01_run-1", "sub-02_run-1", "sub-03_run-2"]),
        (["sub-01_run-01", "sub-02", "sub-03"], ["sub-01_run-1", "sub-02", "sub-03"]),
        (["sub-01_acq-mprage", "sub-02_acq-spgr", "sub-03"], ["sub-01_acq-mprage", "sub-02_acq-spgr", "sub-03"]),
        (["sub-01", "sub-02", "sub-03"], ["sub-01_space-orig", "sub-02", "sub-03_space-T1w"]),
        (["sub-01_ses-1", "sub-02_ses-2", "sub-03"], ["sub-01_ses-1", "sub-02_ses-2", "sub-03"]),
        # A label may leave out entities of its scan, and say more than it.
        (["sub-01_ses-1_acq-a_run-1", "sub-02_rec-b", "sub-03"], ["sub-01", "sub-02", "sub-03_res-1"]),
        # A template's space that the scan itself is in.
        (["sub-01_space-MNI", "sub-02", "sub-03"], ["sub-01_space-MNI", "sub-02", "sub-03"]),
    ],
)
def test_labels_are_one_kind_whatever_the_scan_is_called(
    tmp_path: Path, scan_names: list[str], label_names: list[str]
) -> None:
    add(tmp_path, *(f"{name}_T1w" for name in scan_names))
    add(tmp_path, *(f"{name}_label-lesion_mask" for name in label_names), pipeline="manual")
    dataset = read_dataset(tmp_path)
    assert list(labels(dataset).values()) == [f"{name}_label-lesion_mask" for name in label_names]
    assert dataset.channel_names == ("T1w",)
    assert dataset.label_names == {0: "background", 1: "lesion"}
    assert not findings(dataset, "label_without_scan")


def test_labels_right_below_derivatives_are_one_pipeline(tmp_path: Path) -> None:
    for subject in ("sub-01", "sub-02"):
        add(tmp_path, f"{subject}_T1w")
        add(tmp_path, f"{subject}_dseg", pipeline=".")
    assert labels(read_dataset(tmp_path)) == {"sub-01": "sub-01_dseg", "sub-02": "sub-02_dseg"}


def test_a_name_with_the_suffix_of_the_scan_in_it_belongs_to_that_scan(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_T1w", "sub-01_T2w")
    add(tmp_path, "sub-01_T2w_desc-lesion_mask", pipeline="manual")
    assert labels(read_dataset(tmp_path)) == {"sub-01": "sub-01_T2w_desc-lesion_mask"}
    add(tmp_path, "sub-02_T1w")
    add(tmp_path, "sub-02_FLAIR_desc-lesion_mask", pipeline="manual")
    dataset = read_dataset(tmp_path)
    assert labels(dataset)["sub-02"] is None
    assert "sub-02_FLAIR_desc-lesion_mask" in findings(dataset, "label_without_scan")[0].found


def test_of_several_runs_the_labelled_one_is_taken_with_its_label(tmp_path: Path) -> None:
    add(tmp_path, *(f"sub-0{s}_run-{r}_T1w" for s in (1, 2, 3) for r in (1, 2, 10)), "sub-04_T1w")
    add(tmp_path, "sub-01_run-2_dseg", "sub-02_dseg", "sub-04_dseg", pipeline="manual")
    dataset = read_dataset(tmp_path)
    assert dataset.channel_names == ("T1w",)
    assert scans(dataset, "T1w") == {
        "sub-01": "sub-01_run-2_T1w",
        "sub-02": "sub-02_run-1_T1w",
        "sub-03": "sub-03_run-1_T1w",
        "sub-04": "sub-04_T1w",
    }
    assert labels(dataset) == {
        "sub-01": "sub-01_run-2_dseg",
        "sub-02": "sub-02_dseg",
        "sub-03": None,
        "sub-04": "sub-04_dseg",
    }
    (finding,) = findings(dataset, "repeated_scan")
    assert finding.level is Level.WARNING
    assert "3 sessions have several scans, of which one is used" in finding.found
    # Both runs are labelled: the label is that of the scan.
    add(tmp_path, "sub-01_run-1_dseg", pipeline="manual")
    dataset = read_dataset(tmp_path)
    assert scans(dataset, "T1w")["sub-01"] == "sub-01_run-1_T1w"
    assert labels(dataset)["sub-01"] == "sub-01_run-1_dseg"


def test_a_few_sessions_with_two_acquisitions_get_the_usual_one(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_acq-mprage_T1w", "sub-01_acq-spgr_T1w", "sub-02_acq-spgr_T1w", "sub-03_acq-spgr_T1w")
    add(tmp_path, "sub-01_dseg", pipeline="manual")
    dataset = read_dataset(tmp_path)
    assert scans(dataset, "T1w")["sub-01"] == "sub-01_acq-spgr_T1w"
    (finding,) = findings(dataset, "repeated_scan")
    assert "sub-01/anat/sub-01_acq-mprage_T1w.nii.gz is not used" in finding.found
    add(tmp_path, "sub-01_acq-mprage_dseg", pipeline="manual")
    (tmp_path / "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz").unlink()
    dataset = read_dataset(tmp_path)
    assert scans(dataset, "T1w")["sub-01"] == "sub-01_acq-mprage_T1w"
    assert labels(dataset)["sub-01"] == "sub-01_acq-mprage_dseg"


def test_acquisitions_that_most_sessions_have_are_channels(tmp_path: Path) -> None:
    add(tmp_path, *(f"sub-0{s}_acq-{plane}_T2w" for s in (1, 2, 3) for plane in ("axial", "sagittal")))
    add(tmp_path, "sub-04_acq-axial_T2w")
    dataset = read_dataset(tmp_path)
    assert dataset.channel_names == ("acq-axial_T2w", "acq-sagittal_T2w")
    assert not findings(dataset, "repeated_scan")


def test_different_acquisitions_in_one_channel_are_said(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_acq-mprage_T1w", "sub-02_acq-spgr_T1w", "sub-03_acq-spgr_T1w")
    (finding,) = findings(read_dataset(tmp_path), "mixed_scans")
    assert finding.found == (
        "T1w: acq-mprage_T1w in 1 of 3 sessions, acq-spgr_T1w in 2 of 3 sessions; used as one channel"
    )


def test_two_kinds_of_label_are_an_error_that_names_them(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_run-1_T1w", "sub-02_run-2_T1w")
    add(tmp_path, "sub-01_run-1_dseg", "sub-02_run-2_dseg", "sub-02_desc-aseg_dseg", pipeline="fmriprep")
    add(tmp_path, "sub-01_label-lesion_mask", pipeline="manual/rater1")
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    offers = "fmriprep: dseg (2 cases); fmriprep: desc-aseg_dseg (1 case); manual/rater1: label-lesion_mask (1 case)"
    assert offers in caught.value.found
    assert '`label_kind: "manual/rater1: label-lesion_mask"`' in caught.value.fix
    for kind in ("manual/rater1: label-lesion_mask", "manual/rater1", "label-lesion_mask"):
        dataset = read_dataset(tmp_path, label_kind=kind)
        assert labels(dataset) == {"sub-01": "sub-01_label-lesion_mask", "sub-02": None}
    with pytest.raises(
        DataError, match=r"several derivatives are the label kind 'fmriprep': fmriprep: dseg \(2 cases\); "
    ):
        read_dataset(tmp_path, label_kind="fmriprep")
    with pytest.raises(DataError, match="no derivatives are the label kind 'other': fmriprep: dseg"):
        read_dataset(tmp_path, label_kind="other")
    assert [c.name for c in read_dataset(tmp_path, labels=False).cases] == ["sub-01", "sub-02"]


def test_two_labels_of_one_kind_that_fit_equally_well_are_refused(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_T1w")
    add(tmp_path, "sub-01_run-1_dseg", "sub-01_run-2_dseg", pipeline="manual")
    with pytest.raises(DataError, match=r"sub-01: both .*run-1_dseg.* and .*run-2_dseg.* could be its label"):
        read_dataset(tmp_path)


def test_the_same_label_in_two_formats_or_folders_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_T1w")
    add(tmp_path, "sub-01_dseg", "sub-01_dseg.nii", pipeline="manual")
    with pytest.raises(
        DataError, match=r"sub-01: both .*sub-01_dseg\.nii and .*sub-01_dseg\.nii\.gz could be its label"
    ):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, labels=False).cases[0].label is None


def test_one_segmentation_on_several_grids_is_one_label(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_T1w", "sub-01_FLAIR")
    names = ("space-MNI152NLin6Asym", "space-FLAIR", "space-T1w")
    add(tmp_path, *(f"sub-01_{name}_dseg" for name in names), pipeline="manual")
    assert labels(read_dataset(tmp_path)) == {"sub-01": "sub-01_space-FLAIR_dseg"}
    add(tmp_path, "sub-01_dseg", pipeline="manual")
    assert labels(read_dataset(tmp_path)) == {"sub-01": "sub-01_dseg"}


@pytest.mark.parametrize(
    ("scan", "label"),
    [
        ("sub-01_T1w", "sub-09_dseg"),
        ("sub-01_ses-1_T1w", "sub-01_ses-2_dseg"),
        ("sub-01_run-1_T1w", "sub-01_run-2_dseg"),
        ("sub-01_T1w", "sub-01_space-MNI152NLin6Asym_dseg"),
        ("sub-01_T1w", "sub-01_space-T2w_dseg"),
    ],
)
def test_a_label_that_belongs_to_no_scan_is_named(tmp_path: Path, scan: str, label: str) -> None:
    add(tmp_path, scan, "sub-05_T1w")
    add(tmp_path, label, pipeline="manual")
    alone = read_dataset(tmp_path)
    assert set(labels(alone).values()) == {None}
    add(tmp_path, "sub-05_dseg", pipeline="manual")
    for dataset in (alone, read_dataset(tmp_path)):
        (finding,) = findings(dataset, "label_without_scan")
        assert finding.level is Level.WARNING
        assert f"{label}.nii.gz is not used" in finding.found


def test_a_label_without_session_belongs_to_the_only_one(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_ses-1_T1w", "sub-02_ses-1_T1w", "sub-02_ses-2_T1w")
    add(tmp_path, "sub-01_dseg", "sub-02_dseg", pipeline="manual")
    dataset = read_dataset(tmp_path)
    assert labels(dataset) == {"sub-01_ses-1": "sub-01_dseg", "sub-02_ses-1": None, "sub-02_ses-2": None}
    assert "sub-02_dseg" in findings(dataset, "label_without_scan")[0].found


def test_masks_that_graft_predicted_are_labels_only_where_there_are_no_others(tmp_path: Path) -> None:
    subjects = ("sub-01", "sub-02")
    add(tmp_path, *(f"{s}_T1w" for s in subjects))
    add(tmp_path, *(f"{s}_desc-graft_dseg" for s in subjects), pipeline="graft")
    dataset = read_dataset(tmp_path)
    assert labels(dataset) == {s: f"{s}_desc-graft_dseg" for s in subjects}
    (finding,) = findings(dataset, "predicted_labels")
    assert "graft: desc-graft_dseg" in finding.found
    add(tmp_path, "sub-01_label-lesion_mask", pipeline="manual")
    dataset = read_dataset(tmp_path)
    assert labels(dataset) == {"sub-01": "sub-01_label-lesion_mask", "sub-02": None}
    assert not findings(dataset, "predicted_labels")
    named = read_dataset(tmp_path, label_kind="graft")
    assert labels(named) == {s: f"{s}_desc-graft_dseg" for s in subjects}
    (tmp_path / "derivatives/manual/sub-01/anat/sub-01_label-lesion_mask.nii.gz").unlink()
    add(tmp_path, "sub-01_desc-graft_dseg", pipeline="graft-2")
    with pytest.raises(DataError, match=r"graft: desc-graft_dseg \(2 cases\); graft-2: desc-graft_dseg \(1 case\)"):
        read_dataset(tmp_path)


def test_brain_masks_are_no_labels_and_belong_to_the_scan(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_run-1_T1w", "sub-01_run-2_T1w", "sub-02_T1w")
    add(tmp_path, "sub-01_run-2_dseg", pipeline="manual")
    add(tmp_path, "sub-01_run-1_desc-brain_mask", "sub-01_run-2_desc-brain_mask", pipeline="fmriprep")
    add(tmp_path, "sub-02_space-MNI152NLin6Asym_desc-brain_mask", "sub-02_desc-brain_mask", pipeline="fmriprep")
    add(tmp_path, "sub-02_desc-brain_mask", pipeline="other")
    add(tmp_path, "sub-02_desc-brain_mask", "sub-02_dseg", pipeline="fmriprep", datatype="func")
    masks = {case.name: case.brain_mask for case in read_dataset(tmp_path).cases}
    folder = tmp_path / "derivatives" / "fmriprep"
    assert masks == {
        "sub-01": folder / "sub-01" / "anat" / "sub-01_run-2_desc-brain_mask.nii.gz",
        "sub-02": folder / "sub-02" / "anat" / "sub-02_desc-brain_mask.nii.gz",
    }


def test_tables_name_the_labels_that_they_belong_to(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_T1w")
    add(tmp_path, "sub-01_desc-aseg_dseg", pipeline="fmriprep")
    folder = tmp_path / "derivatives" / "fmriprep"
    (folder / "desc-aparcaseg_dseg.tsv").write_text("index\tname\n1\tcortex\n")
    (folder / "dseg.tsv").write_text("index\tname\n1\tgrey\n")
    assert read_dataset(tmp_path).label_names == {0: "background", 1: "grey"}
    (folder / "desc-aseg_dseg.tsv").write_text("index\tname\n1\tputamen\n")
    assert read_dataset(tmp_path).label_names == {0: "background", 1: "putamen"}
    (folder / "sub-01" / "anat" / "sub-01_desc-aseg_dseg.tsv").write_text("index\tname\n1\tnearest\n")
    assert read_dataset(tmp_path).label_names == {0: "background", 1: "nearest"}
    (tmp_path / "labels.csv").write_text("value,name\n1,own\n")
    assert read_dataset(tmp_path).label_names == {0: "background", 1: "own"}


@pytest.mark.parametrize(
    ("derivative", "scan", "shared"),
    [
        ("sub-1_dseg", "sub-1_acq-a_T1w", 0),
        ("sub-1_acq-a_run-02_dseg", "sub-1_acq-a_run-2_T1w", 2),
        ("sub-1_acq-b_dseg", "sub-1_acq-a_T1w", None),
        ("sub-2_dseg", "sub-1_T1w", None),
        ("sub-1_run-1_dseg", "sub-1_T1w", 0),
        ("sub-1_desc-x_label-y_dseg", "sub-1_T1w", 0),
    ],
)
def test_closeness_counts_shared_entities(derivative: str, scan: str, shared: int | None) -> None:
    files = [parse_name(Path(f"{name}.nii.gz")) for name in (derivative, scan)]
    assert files[0] is not None
    assert files[1] is not None
    assert closeness(files[0], files[1]) == shared

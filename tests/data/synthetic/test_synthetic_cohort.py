import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from pydantic import ValidationError
from scipy import ndimage

from data.errors import GraftError
from data.image_file import read_header, read_label, read_volume
from data.synthetic.anatomy import load_head
from data.synthetic.cohort import (
    CohortKind,
    CohortOptions,
    case_files,
    claim_folder,
    make_case,
    synthesize,
    write_case,
    write_dataset_description,
)
from data.synthetic.deformation import WarpOptions
from data.synthetic.scanner import ScannerOptions

COARSE = ScannerOptions(in_plane_spacing=(4.5, 5), through_plane_spacing=(5, 6), sample_mm=2.5)


def options(cohort: CohortKind = CohortKind.MS, cases: int = 2, **others: object) -> CohortOptions:
    return CohortOptions(cohort=cohort, cases=cases, **({"scanner": COARSE} | others))  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "ms"
    synthesize(options(), out)
    return out


@pytest.mark.slow
def test_same_seed_same_bytes_in_any_order_and_number(folder: Path, tmp_path: Path) -> None:
    write_case(options(cases=7), 1, tmp_path)
    files = case_files(options(), 1, tmp_path)
    assert {"image", "label"} <= set(files)
    for path in files.values():
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name


@pytest.mark.slow
def test_cases_seeds_and_cohorts_differ(folder: Path) -> None:
    images = [make_case(options(seed=s), 0).images[0] for s in (0, 1)]
    assert images[0].shape != images[1].shape or (images[0].array != images[1].array).any()
    first, second = (read_header(case_files(options(), i, folder)["image"]) for i in (0, 1))
    assert not np.allclose(first.affine, second.affine)


def test_folder_is_a_decathlon_dataset(folder: Path) -> None:
    described = json.loads((folder / "dataset.json").read_text())
    assert described["labels"] == {"0": "background", "1": "lesion"}
    assert described["modality"] == {"0": "FLAIR"}
    assert described["tensorImageSize"] == "3D"
    assert described["numTraining"] == 2
    assert described["test"] == []
    assert [pair["image"] for pair in described["training"]] == ["./imagesTr/ms_001.nii.gz", "./imagesTr/ms_002.nii.gz"]
    for pair in described["training"]:
        image, label = read_volume(folder / pair["image"]), read_label(folder / pair["label"])
        assert image.same_grid(label)
        assert set(np.unique(label.array)) == {0, 1}
    with (folder / "patients.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["ms_001", "ms_002"]
    assert len({row["patient"] for row in rows}) == 2
    assert not list(folder.rglob("*partial*"))


def test_scans_are_raw(folder: Path) -> None:
    files = case_files(options(), 0, folder)
    header = read_header(files["image"])
    assert header.dtype == np.int16
    mask = read_label(files["brain_mask"])
    image = read_volume(files["image"])
    assert image.same_grid(mask)
    outside = image.array[~ndimage.binary_dilation(mask.array > 0, iterations=2)]
    assert (outside > 0.3 * np.median(image.array[mask.array > 0])).mean() > 0.02  # scalp and face
    axes = image.affine[:3, :3] / image.spacing
    assert np.abs(axes).min() > 0.0  # oblique
    assert read_label(files["label"]).array[mask.array == 0].sum() == 0
    truth = json.loads(files["truth"].read_text())
    assert truth["orientation"] == image.orientation
    np.testing.assert_allclose(truth["spacing"], image.spacing, atol=1e-4)


@pytest.mark.slow
def test_truth_affine_maps_the_template_onto_the_case() -> None:
    # Without the smooth part the warp is its affine, and the mask is the mapped template.
    stiff = WarpOptions(deformation_mm=0, fine_deformation_mm=0)
    scan = make_case(options(warp=stiff), 3)
    assert scan.residual_mm < 1e-6
    assert scan.brain_mask is not None
    assert mapped_dice(scan.brain_mask, scan.affine) > 0.985
    bent = make_case(options(), 3)
    assert bent.brain_mask is not None
    assert 0.5 < bent.residual_mm < 6
    assert mapped_dice(bent.brain_mask, bent.affine) > 0.94
    assert mapped_dice(bent.brain_mask, np.eye(4)) < 0.94


def mapped_dice(mask: object, affine: np.ndarray) -> float:
    """Dice of a case's brain mask and the template's brain, looked up through the affine at each voxel."""
    head = load_head(2)
    index = np.moveaxis(np.indices(mask.array.shape), 0, -1)  # type: ignore[attr-defined]
    to_template = np.linalg.inv(head.box_affine) @ np.linalg.inv(affine) @ mask.affine  # type: ignore[attr-defined]
    place = np.moveaxis(apply_affine(to_template, index), -1, 0)
    template = ndimage.map_coordinates(head.brain.astype(np.float32), place, order=1) >= 0.5
    found = mask.array > 0  # type: ignore[attr-defined]
    return float(2 * (template & found).sum() / (template.sum() + found.sum()))


@pytest.mark.slow
def test_several_channels_are_frames_of_one_file(tmp_path: Path) -> None:
    chosen = options(CohortKind.TUMOUR, cases=1, channels=("T1", "FLAIR"))
    write_case(chosen, 0, tmp_path)
    write_dataset_description(chosen, tmp_path)
    files = case_files(chosen, 0, tmp_path)
    header = read_header(files["image"])
    assert header.shape[3:] == (2,)
    described = json.loads((tmp_path / "dataset.json").read_text())
    assert described["modality"] == {"0": "T1", "1": "FLAIR"}
    assert described["tensorImageSize"] == "4D"
    label = read_label(files["label"]).array
    assert set(np.unique(label)) == {0, 1, 2, 3}
    brain = (read_label(files["brain_mask"]).array > 0) & (label == 0)
    t1, flair = (read_volume(files["image"], frame).array for frame in (0, 1))
    assert np.median(flair[label == 3]) > 1.2 * np.median(flair[brain])
    assert np.median(t1[label == 3]) < np.median(t1[brain])


@pytest.mark.slow
def test_a_second_run_makes_only_what_is_missing(folder: Path) -> None:
    before = contents(folder)
    stamps = {p: p.stat().st_mtime_ns for p in (folder / "imagesTr").iterdir()}
    lost = case_files(options(), 0, folder)["truth"]
    lost.write_text("{")  # as after a crash between two files
    done: list[int] = []
    synthesize(options(), folder, progress=lambda: done.append(1))
    assert len(done) == 2
    assert contents(folder) == before
    kept = case_files(options(), 1, folder)["image"]
    assert kept.stat().st_mtime_ns == stamps[kept]
    made = case_files(options(), 0, folder)["image"]
    assert made.stat().st_mtime_ns != stamps[made]


@pytest.mark.slow
def test_a_cohort_can_grow_and_processes_change_nothing(folder: Path, tmp_path: Path) -> None:
    synthesize(options(cases=1), tmp_path / "grown")
    synthesize(options(cases=2), tmp_path / "grown", jobs=2)
    assert contents(tmp_path / "grown") == contents(folder)


def test_a_folder_of_other_options_is_refused(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    with pytest.raises(GraftError, match=r"other options.*to fix it") as caught:
        synthesize(options(seed=5), folder)
    assert str(folder) in str(caught.value)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(GraftError, match="not a synthetic cohort"):
        synthesize(options(), tmp_path)
    assert contents(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_killed_while_it_claimed_its_folder_can_go_on(tmp_path: Path) -> None:
    (tmp_path / ".partial.synthetic.json").write_text("{")
    claim_folder(options(), tmp_path)
    assert json.loads((tmp_path / "synthetic.json").read_text())["options_digest"] == options(cases=9).digest


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": ("CT",)},
        {"channels": ()},
        {"channels": ("FLAIR", "FLAIR")},
        {"cohort": CohortKind.ABDOMEN, "channels": ("T1",)},
        {"cases": 0},
        {"colour": "red"},
        {"lesions": {"load_ml": (20, 5)}},
        {"tumour": {"mass_share": (0.5, 1.5)}},
    ],
)
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        CohortOptions(**({"cohort": CohortKind.MS, "cases": 1} | wrong))


def test_files_open_in_nibabel_with_both_transforms(folder: Path) -> None:
    image = nib.load(case_files(options(), 0, folder)["image"])
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_corrected_file_is_never_replaced(folder: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    files = case_files(options(), 0, out)
    files["truth"].unlink()
    files["label"].write_bytes(b"corrected")
    with pytest.raises(GraftError, match=r"ms_001.nii.gz: does not match these options.*move or rename it"):
        synthesize(options(), out)
    assert files["label"].read_bytes() == b"corrected"
    assert not list(out.rglob(".partial*"))
    files["label"].rename(tmp_path / "corrected.nii.gz")
    synthesize(options(), out)
    assert contents(out) == contents(folder)
    patients = out / "patients.csv"
    patients.write_text(patients.read_text().replace("ms_patient_002", "ms_patient_001"))
    with pytest.raises(GraftError, match=r"patients.csv: does not match these options"):
        synthesize(options(), out)
    assert "ms_patient_002" not in patients.read_text()

"""Each check of a case finds a file that the test breaks in just that way, and nothing else is lost."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom

from data.case import Case, ImageSource
from data.checks.battery import check_case, check_dataset
from data.checks.finding import Finding, Level
from data.checks.mirroring import mutual_information
from data.checks.report import Presence
from data.image_file import read_volume, write_frames, write_volume
from data.layouts.detection import read_dataset
from data.volume import Volume, reorient

Write = Callable[..., Path]
BAD = "case_1"


def image_of(root: Path) -> Path:
    return root / "imagesTr" / f"{BAD}.nii.gz"


def label_of(root: Path) -> Path:
    return root / "labelsTr" / f"{BAD}.nii.gz"


def rewrite(path: Path, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    """Reads a file, changes array and affine, and writes it in the type of the changed array."""
    volume = read_volume(path)
    write_volume(Volume(*change(volume.array.copy(), volume.affine.copy())), path)


def set_voxel(value: float) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    def change(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        array[0, 0, 0] = value
        return array, affine

    return change


def moved_by(mm: float) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    def change(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        affine[2, 3] += mm
        return array, affine

    return change


def claim_too_much(root: Path) -> None:
    content = bytearray(gzip.decompress(image_of(root).read_bytes()))
    content[42:48] = np.array([30000] * 3, "<i2").tobytes()
    image_of(root).write_bytes(gzip.compress(content))


def truncate(root: Path) -> None:
    image_of(root).write_bytes(image_of(root).read_bytes()[:-500])


def dicom_folder(root: Path) -> None:
    image_of(root).unlink()
    image_of(root).mkdir()


def series(root: Path) -> None:
    volume = read_volume(image_of(root))
    write_frames([volume, volume], image_of(root))


def two_dimensional(root: Path) -> None:
    nib.Nifti1Image(np.zeros((9, 9), np.float32), np.eye(4)).to_filename(image_of(root))


def thin(root: Path) -> None:
    for path in (image_of(root), label_of(root)):
        rewrite(path, lambda array, affine: (array[:, :, :2], affine))


def shear(root: Path) -> None:
    for path in (image_of(root), label_of(root)):
        rewrite(path, lambda array, affine: (array, affine @ np.array([[1, 0.2, 0, 0], *np.eye(4)[1:]])))


def change_header(root: Path, change: Callable[[nib.Nifti1Image], None]) -> None:
    image = nib.load(image_of(root))
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    change(image)
    content = image.to_bytes()
    image_of(root).write_bytes(gzip.compress(content))


def singular(root: Path) -> None:
    content = bytearray(gzip.decompress(image_of(root).read_bytes()))
    content[280:296] = bytes(16)  # srow_x
    image_of(root).write_bytes(gzip.compress(content))


def disagreeing_forms(root: Path) -> None:
    def change(image: nib.Nifti1Image) -> None:
        other = image.affine.copy()
        other[:3, 3] += 5
        image.set_qform(other, code=1)

    change_header(root, change)


def no_forms(root: Path) -> None:
    for path in (image_of(root), label_of(root)):
        header = nib.load(path).header.copy()
        header["sform_code"] = header["qform_code"] = 0
        content = nib.Nifti1Image(np.asarray(nib.load(path).dataobj), None, header).to_bytes()
        path.write_bytes(gzip.compress(content))


def mirrored_forms(root: Path) -> None:
    change_header(root, lambda image: image.set_qform(image.affine @ np.diag([-1, 1, 1, 1]), code=1))


def micrometres(root: Path) -> None:
    change_header(root, lambda image: image.header.set_xyzt_units("micron"))


def zero_spacing(root: Path) -> None:
    content = bytearray(gzip.decompress(image_of(root).read_bytes()))
    content[84:88] = bytes(4)  # pixdim[2]; the sform still holds
    image_of(root).write_bytes(gzip.compress(content))


def one_slice(root: Path) -> None:
    for path in (image_of(root), label_of(root)):
        rewrite(path, lambda array, affine: (array[:, :, 4:5], affine))


def spaced(mm: float) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for path in (image_of(root), label_of(root)):
            rewrite(path, lambda array, affine: (array, np.diag([mm, mm, mm, 1])))

    return write


def empty_label(root: Path) -> None:
    rewrite(label_of(root), lambda array, affine: (np.zeros_like(array), affine))


def other_shape(root: Path) -> None:
    rewrite(label_of(root), lambda array, affine: (array[1:], affine))


def brain_mask(values: tuple[int, ...]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        image = read_volume(image_of(root))
        array = np.resize(np.array(values, np.uint8), image.shape)
        (root / "masksTr").mkdir()
        write_volume(image.with_array(array), root / "masksTr" / f"{BAD}.nii.gz")

    return write


def mask_elsewhere(root: Path) -> None:
    brain_mask((0, 1))(root)
    rewrite(root / "masksTr" / f"{BAD}.nii.gz", moved_by(3))


ERRORS: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "missing image": ("missing_file", "T1: there is no file", lambda root: image_of(root).unlink()),
    "missing label": ("missing_file", "label: there is no file", lambda root: label_of(root).unlink()),
    "truncated gzip": ("unreadable_file", "truncated or damaged", truncate),
    "30,000³ voxels": ("unreadable_file", "claims 30000×30000×30000 voxels", claim_too_much),
    "no image": ("unreadable_file", "cannot be read", lambda root: image_of(root).write_bytes(b"text")),
    "DICOM folder": ("unreadable_file", "DICOM", dicom_folder),
    "4D series": ("not_3d", "12×14×10×2", series),
    "2D image": ("not_3d", "9×9", two_dimensional),
    "NaN": ("nan_inf", "T1: 1 voxels are NaN", lambda root: rewrite(image_of(root), set_voxel(np.nan))),
    "Inf": ("nan_inf", "1 are Inf", lambda root: rewrite(image_of(root), set_voxel(np.inf))),
    "NaN label": (
        "label_values",
        "label: 1 of 1,680 voxels are NaN",
        lambda root: rewrite(label_of(root), set_voxel(np.nan)),
    ),
    "spacing of no scan": ("implausible_spacing", "1e-21 × 1e-21", spaced(1e-21)),
    "one slice": ("thin", "12×14×1, a single slice", one_slice),
    "empty image": (
        "constant_image",
        "every voxel is 0",
        lambda root: rewrite(image_of(root), lambda array, affine: (0 * array, affine)),
    ),
    "singular affine": ("affine", "cannot be inverted", singular),
    "sheared affine": ("shear", "axes at right angles would move a corner by", shear),
    "mirrored forms": ("sform_qform", "one mirrors the other", mirrored_forms),
    "label elsewhere": ("label_grid", "3 mm from that of T1", lambda root: rewrite(label_of(root), moved_by(3))),
    "label of another shape": (
        "label_grid",
        "on a different grid from T1: it has 11×14×10 voxels, T1 12×14×10",
        other_shape,
    ),
    "brain mask elsewhere": (
        "mask_grid",
        "brain mask: on a different grid from T1: a corner lies 3 mm",
        mask_elsewhere,
    ),
    "empty brain mask": ("brain_mask", "every voxel is 0", brain_mask((0,))),
    "undeclared value": (
        "label_values",
        "not declared: 9 (declared: 0, 1, 2)",
        lambda root: rewrite(label_of(root), set_voxel(9)),
    ),
    "negative value": ("label_values", "values from -4 to 2", lambda root: rewrite(label_of(root), set_voxel(-4))),
    "fraction": (
        "label_values",
        "not whole numbers: 0.25",
        lambda root: rewrite(label_of(root), set_voxel(0.25)),
    ),
}

WARNINGS: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "forms apart": ("sform_qform", "8.66 mm apart; the sform is used", disagreeing_forms),
    "no forms": ("no_form", "neither sform nor qform is set", no_forms),
    "micrometres": ("unit", "declares µm as its unit; which is impossible; mm are assumed", micrometres),
    "zero spacing": ("header", "pixdim[1,2,3] should be non-zero", zero_spacing),
    "spacing of no scanner": ("implausible_spacing", "0.0125 × 0.0125", spaced(0.0125)),
    "empty label": ("empty_label", "every voxel is background", empty_label),
    "thin": ("thin", "12×14×2", thin),
    "brain mask of three values": ("brain_mask", "3 values from 0 to 2", brain_mask((0, 1, 2))),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "check", "found", "break_it"),
    [pytest.param(Level.ERROR, *row, id=name) for name, row in ERRORS.items()]
    + [pytest.param(Level.WARNING, *row, id=name) for name, row in WARNINGS.items()],
)
def test_one_broken_case_is_named_and_the_others_are_checked(
    msd_folder: Write, level: Level, check: str, found: str, break_it: Callable[[Path], None]
) -> None:
    root = msd_folder()
    break_it(root)
    report = check_dataset(read_dataset(root))
    hits = [finding for finding in report.findings if finding.check == check]
    assert {(finding.level, finding.case) for finding in hits} == {(level, BAD)}
    assert found in hits[0].found
    assert hits[0].fix
    assert report.worst_level is level
    assert {finding.case for finding in report.findings} == {BAD}
    assert report.exit_code() == (2 if level is Level.ERROR else 0)
    assert report.exit_code(strict=True) == (2 if level is Level.ERROR else 1)
    assert list(report.table) == [f"case_{i}" for i in range(4)]
    sound = {"T1": Presence.PRESENT, "label": Presence.PRESENT, "brain_mask": Presence.ABSENT}
    assert report.table["case_2"] == sound


def test_a_sound_dataset_has_no_findings(msd_folder: Write) -> None:
    report = check_dataset(read_dataset(msd_folder()), channels=["T1"], foreground=[1])
    assert report.findings == ()
    assert report.worst_level is None
    assert report.exit_code(strict=True) == 0


def test_what_counts_as_rounding_is_said_and_accepted(msd_folder: Write) -> None:
    root = msd_folder()
    rewrite(label_of(root), moved_by(0.1))
    (finding,) = check_dataset(read_dataset(root)).findings
    assert (finding.level, finding.check, finding.case) == (Level.INFO, "label_grid", BAD)
    assert "0.1 mm" in finding.found


def test_a_label_in_another_orientation_is_in_its_place(msd_folder: Write) -> None:
    root = msd_folder()
    write_volume(reorient(read_volume(label_of(root)), "SPL"), label_of(root))
    (finding,) = check_dataset(read_dataset(root)).findings
    assert (finding.level, finding.check) == (Level.INFO, "label_grid")
    assert "stored as SPL" in finding.found


def test_one_frame_is_accepted(msd_folder: Write) -> None:
    root = msd_folder()
    volume = read_volume(image_of(root))
    nib.Nifti1Image(volume.array[..., None], volume.affine).to_filename(image_of(root))
    assert check_dataset(read_dataset(root)).findings == ()


def test_a_label_without_the_foreground_in_use_is_reported(msd_folder: Write) -> None:
    root = msd_folder()
    rewrite(label_of(root), lambda array, affine: (np.where(array == 2, 1, array), affine))
    assert check_dataset(read_dataset(root), foreground=[1]).findings == ()
    (finding,) = check_dataset(read_dataset(root), foreground=[2]).findings
    assert (finding.check, finding.case, finding.level) == ("empty_label", BAD, Level.WARNING)


@pytest.mark.parametrize(("names", "level"), [(3, Level.ERROR), (1, Level.WARNING)])
def test_frames_and_channels_have_to_agree(msd_folder: Write, names: int, level: Level) -> None:
    root = msd_folder(cases=1)
    volume = read_volume(root / "imagesTr" / "case_0.nii.gz")
    frames = [volume, volume.with_array(volume.array.max() - volume.array)]
    write_frames(frames, root / "imagesTr" / "case_0.nii.gz")
    case = Case(
        "case_0", "P0", {str(i): ImageSource(root / "imagesTr" / "case_0.nii.gz", i) for i in range(names)}, None
    )
    _, findings = check_case(case, tuple(case.channels), (0, 1))
    assert [(f.level, f.check) for f in findings if f.level is not Level.INFO] == [
        (level, "not_3d" if names == 3 else "frames")
    ]


def head(contrast: int, shape: tuple[int, int, int] = (40, 44, 36)) -> np.ndarray:
    """An off-centre, asymmetric object; tissues have other grey values in each contrast."""
    tissue = gaussian_filter(np.random.default_rng(1).normal(size=shape), 2.5)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = (x - 0.1) ** 2 / 0.6 + y**2 / 0.7 + z**2 / 0.7 < 1
    classes = (np.digitize(tissue, np.quantile(tissue, [0.3, 0.6])) + 1) * inside
    values = np.random.default_rng(contrast).permutation([300, 600, 900])
    noise = np.random.default_rng(contrast + 10).normal(0, 20, shape)
    return (np.array([0, *values])[classes] + noise).astype(np.float32)


def test_a_channel_with_left_and_right_swapped_is_suspicious(tmp_path: Path) -> None:
    affine = np.diag([-3.0, 3.0, 3.0, 1.0])
    arrays = {"T1": head(0), "T2": head(1), "FLAIR": head(2)[::-1]}
    for name, array in arrays.items():
        write_volume(Volume(np.ascontiguousarray(array), affine), tmp_path / f"{name}.nii.gz")
    case = Case("a", "a", {name: ImageSource(tmp_path / f"{name}.nii.gz") for name in arrays})
    _, findings = check_case(case, tuple(arrays), (0,))
    assert [(f.level, f.check) for f in findings] == [(Level.WARNING, "mirrored_channel")]
    assert findings[0].found.startswith("FLAIR fits T1 better with left and right swapped")


def test_mutual_information_of_known_distributions() -> None:
    x = np.repeat([0.1, 0.9], 500)
    assert mutual_information(x, 1 - x) == pytest.approx(np.log(2))
    assert mutual_information(x, np.tile([0.1, 0.9], 500)) == pytest.approx(0, abs=1e-12)


def test_channels_on_other_grids_and_a_label_on_the_second(tmp_path: Path) -> None:
    first, second = head(0), zoom(head(1), 0.5, order=1)
    write_volume(Volume(first, np.diag([2.0, 2, 2, 1])), tmp_path / "T1.nii.gz")
    write_volume(Volume(second, np.diag([4.0, 4, 4, 1])), tmp_path / "FLAIR.nii.gz")
    write_volume(Volume((second > 500).astype(np.uint8), np.diag([4.0, 4, 4, 1])), tmp_path / "label.nii.gz")
    channels = {name: ImageSource(tmp_path / f"{name}.nii.gz") for name in ("T1", "FLAIR")}
    case = Case("a", "a", channels, tmp_path / "label.nii.gz")
    _, findings = check_case(case, tuple(channels), (0, 1))
    assert {(f.level, f.check) for f in findings} == {(Level.INFO, "channel_grid"), (Level.WARNING, "label_grid")}
    assert "label: on the grid of FLAIR, not on that of the first channel T1" in {f.found for f in findings}


@pytest.mark.slow
def test_workers_give_the_same_report_and_progress_counts_up(msd_folder: Write) -> None:
    root = msd_folder(cases=6)
    truncate(root)
    dataset = read_dataset(root)
    seen: list[tuple[int, int]] = []
    alone = check_dataset(dataset, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 6) for i in range(6)]
    assert check_dataset(dataset, jobs=2) == alone


@pytest.mark.slow
def test_a_killed_worker_costs_one_case(msd_folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    import data.checks.battery as battery

    original = battery.check_case

    def deadly(case: Case, *arguments: object) -> object:
        import os
        import signal

        if case.name == BAD:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(case, *arguments)

    monkeypatch.setattr(battery, "check_case", deadly)
    report = check_dataset(read_dataset(msd_folder(cases=5)), jobs=2)
    (finding,) = report.findings
    assert (finding.level, finding.case, finding.check) == (Level.ERROR, BAD, "unreadable_file")
    assert "killed" in finding.found
    assert report.table["case_4"]["T1"] is Presence.PRESENT


def test_the_report_is_json(msd_folder: Write) -> None:
    root = msd_folder(patients=False)
    truncate(root)
    content = json.loads(json.dumps(check_dataset(read_dataset(root)).as_json()))
    assert content["worst_level"] == "error"
    assert content["counts"] == {"info": 1, "warning": 0, "error": 1}
    assert content["findings"][0]["case"] == BAD
    assert set(content["findings"][0]) == {"level", "case", "check", "found", "fix"}
    assert content["table"][BAD] == {"T1": "unreadable", "label": "present", "brain_mask": "absent"}
    assert content["label_names"]["2"] == "posterior"
    assert Finding(Level.INFO, None, "a", "b", "c").as_json()["level"] == "info"

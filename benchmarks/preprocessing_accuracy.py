"""Measures the preprocessing against its figures and prints a markdown table.

`python benchmarks/preprocessing_accuracy.py --real DIR --synthetic DIR`, where `--real` is a folder of real scans (see
`docs/results/preprocessing.md`) and `--synthetic` a synthetic MS cohort made by Graft; either may be left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data.case import Case, ImageSource
from data.image_file import read_label, read_volume
from data.modality import Modality
from data.volume import Volume
from preprocessing.chain import Chain, default_options
from preprocessing.content import overlap
from preprocessing.coregistration import Coregistration, CoregistrationOptions
from preprocessing.grid import resample
from preprocessing.itk_image import use_itk_threads, world_matrix
from preprocessing.orientation import to_canonical
from preprocessing.registration import scaling
from preprocessing.skull_strip import SkullStrip, SkullStripMethod, SkullStripOptions
from preprocessing.step import Interpolation
from preprocessing.subject import Subject, load_subject
from preprocessing.template import load_template


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    wanted: str
    found: str


def read_itk_matrix(path: Path) -> NDArray[np.float64]:
    import SimpleITK as sitk

    read = sitk.Transform(sitk.ReadTransform(str(path)))
    transform = sitk.AffineTransform(3)
    transform.SetFixedParameters(read.GetFixedParameters())
    transform.SetParameters(read.GetParameters())
    return world_matrix(transform)


def strip(volume: Volume, method: SkullStripMethod) -> tuple[Volume, list[str]]:
    subject = Subject("case", {"any": to_canonical(volume)})
    stripped, record = SkullStrip(SkullStripOptions(method=method)).apply(subject)
    assert stripped.mask is not None
    return stripped.mask, record["suspect"]


def mask_dice(volume: Volume, truth: Volume, method: SkullStripMethod) -> tuple[float, list[str]]:
    mask, suspect = strip(volume, method)
    truth = truth.with_array((truth.array > 0).astype(np.uint8))
    there = resample(truth, mask.shape, mask.affine, Interpolation.NEAREST)
    return overlap(mask.array > 0, there.array > 0), suspect


def real_masks(real: Path) -> Iterator[Row]:
    glioma, ms, mni = real / "RAW_TCGA-FG-6692", real / "MS_raw_registration/patient12_study1", real / "MNI_template"
    common = read_label(ms / "brainmask_common_space.nii.gz")
    flair = Volume(common.array, read_itk_matrix(ms / "FLAIR_to_common_space.txt") @ common.affine)
    t1 = Volume(common.array, read_itk_matrix(ms / "T1W_to_FLAIR.txt") @ flair.affine)
    cases = [
        ("RAW_TCGA-FG-6692 T1c", "≥ 0.92", glioma / "t1c.nii.gz", read_label(glioma / "t1c_brainmask.nii.gz")),
        (
            "MNI_template head",
            "≥ 0.94",
            mni / "MNI152_T1_2mm.nii.gz",
            read_label(mni / "MNI152_T1_2mm_Brain_Mask.nii.gz"),
        ),
        ("MS_raw_registration FLAIR", "none", ms / "FLAIR.nii.gz", flair),
        ("MS_raw_registration T1", "none", ms / "T1W.nii.gz", t1),
    ]
    for name, wanted, path, truth in cases:
        volume, parts = read_volume(path), []
        for method in (SkullStripMethod.COMBINED, SkullStripMethod.NETWORK, SkullStripMethod.TEMPLATE):
            dice, suspect = mask_dice(volume, truth, method)
            parts.append(f"{method.value} {dice:.3f}" + (f" ({'; '.join(suspect)})" if suspect else ""))
        yield Row(f"brain mask Dice, {name}", wanted, ", ".join(parts))


def channel_registration(real: Path) -> Iterator[Row]:
    folder = real / "MS_raw_registration/patient12_study1"
    flair, t1 = read_volume(folder / "FLAIR.nii.gz"), read_volume(folder / "T1W.nii.gz")
    mask = read_label(folder / "brainmask_common_space.nii.gz")
    true = read_itk_matrix(folder / "T1W_to_FLAIR.txt")
    affine = read_itk_matrix(folder / "FLAIR_to_common_space.txt") @ mask.affine
    points = nib.affines.apply_affine(affine, np.argwhere(mask.array > 0)[::50])
    _, record = Coregistration(CoregistrationOptions()).apply(Subject("ms", {"FLAIR": flair, "T1": t1}))
    found = np.array(record["channels"]["T1"]["matrix"])
    distance = displacement(found, true, points)
    yield Row("T1 → FLAIR of MS_raw_registration, mean displacement in the brain", "≤ 1.5 mm", f"{distance:.2f} mm")


def displacement(first: NDArray[np.float64], second: NDArray[np.float64], points: NDArray[np.float64]) -> float:
    apply = nib.affines.apply_affine
    return float(np.linalg.norm(apply(first, points) - apply(second, points), axis=1).mean())


def synthetic_cohort(folder: Path, cases: int) -> Iterator[Row]:
    template = load_template(2.0)
    points = nib.affines.apply_affine(template.image.affine, np.argwhere(template.mask)[::20])
    dices, distances, cut, suspects = [], [], 0, 0
    options = default_options(Modality.MR_HEAD)
    chain = Chain(options)
    for path in sorted((folder / "imagesTr").glob("*.nii.gz"))[:cases]:
        name = path.name.removesuffix(".nii.gz")
        truth = read_label(folder / f"ground_truth/{name}_brain_mask.nii.gz")
        frame = 0 if len(nib.load(path).shape) == 4 else None
        raw = Subject(name, {"first": read_volume(path, frame)})
        processed, records = chain.apply(raw)
        assert processed.mask is not None
        mask = chain.invert(
            processed.mask.with_array(processed.mask.array.astype(np.float32)), records, Interpolation.LINEAR
        )
        dices.append(overlap(mask.array > 0.5, truth.array > 0))
        matrix = next(np.array(r["matrix"]) for r in records if r["step"] == "alignment")
        true = np.array(json.loads((folder / f"ground_truth/{name}.json").read_text())["affine"])
        distances.append(displacement(matrix, true, points))
        suspects += any(record["suspect"] for record in records)
        cut += 1
    found = f"{np.mean(dices):.3f} / {min(dices):.3f} ({cut} cases, {suspects} suspect)"
    yield Row("brain mask Dice after the whole chain and back, synthetic, mean / worst", "≥ 0.96 / ≥ 0.93", found)
    found = f"{np.mean(distances):.2f} / {max(distances):.2f} mm ({cut} cases)"
    yield Row("affine to the template, synthetic, mean displacement, mean / worst", "≤ 2 / ≤ 4 mm", found)


def orientations(real: Path) -> Iterator[Row]:
    volumes = [to_canonical(read_volume(path)) for path in sorted((real / "orientations").glob("*.nii.gz"))]
    same = all(np.array_equal(volume.array, volumes[0].array) for volume in volumes)
    yield Row(
        "the files of `orientations` in canonical orientation",
        "identical",
        f"{'identical' if same else 'differ'} ({len(volumes)})",
    )


def label_round_trips(real: Path) -> Iterator[Row]:
    hippocampus = real / "Task04_Hippocampus"
    labels = sorted((hippocampus / "labelsTr").glob("*.nii.gz"))[:20]
    cases = [Case(p.name, p.name, {"MR": ImageSource(hippocampus / "imagesTr" / p.name)}, p) for p in labels]
    yield Row(
        "label → chain → native, hippocampus 1 mm, worst Dice",
        "≥ 0.98",
        f"{min(round_trip(c, Modality.MR) for c in cases):.3f} ({len(cases)} cases)",
    )
    ms = real / "MS_openms_MNI/patient26"
    case = Case(
        "ms", "ms", {name: ImageSource(ms / f"{name}.nii.gz") for name in ("FLAIR", "T1", "T2")}, ms / "lesions.nii.gz"
    )
    found = f"{round_trip(case, Modality.MR):.3f} without alignment, {round_trip(case, Modality.MR_BRAIN):.3f} with"
    yield Row("label → chain → native, MS lesions 1 mm", "≥ 0.98", found)


def round_trip(case: Case, modality: Modality) -> float:
    subject, chain = load_subject(case), Chain(default_options(modality))
    processed, records = chain.apply(subject)
    assert subject.label is not None
    assert processed.label is not None
    back = chain.invert(processed.label, json.loads(json.dumps(records)))
    assert back.shape == subject.reference.shape
    assert np.abs(back.affine - subject.reference.affine).max() <= 1e-6
    values = [v for v in np.unique(subject.label.array) if v]
    return min(overlap(back.array == v, subject.label.array == v) for v in values)


def time_and_bytes(real: Path) -> Iterator[Row]:
    """The MNI head, sampled at 240×240×155 of 1 mm, through the whole chain."""
    head = to_canonical(read_volume(real / "MNI_template/MNI152_T1_2mm.nii.gz"))
    affine = scaling(1.0, np.zeros(3))
    affine[:3, 3] = [-120, -136, -72]
    image = resample(head, (240, 240, 155), affine, Interpolation.LINEAR)
    digests, times = [], []
    for channels in (1, 1, 2):
        subject = Subject("case", {f"T1_{i}": image for i in range(channels)})
        start = time.process_time()
        processed, records = Chain(default_options(Modality.MR_HEAD)).apply(subject)
        times.append(time.process_time() - start)
        digest = hashlib.sha256(processed.reference.array.tobytes() + json.dumps(records[:1]).encode()).hexdigest()
        digests.append(digest)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = (
        f"{times[1]:.1f} s CPU (first case of a process {times[0]:.1f} s), peak {memory:.2f} GB; "
        f"further channel {times[2] - times[1]:.1f} s CPU"
    )
    yield Row("240×240×155, one channel, whole chain, one thread; a further channel", "≤ 40 s, ≤ 2.5 GB; ≤ 20 s", found)
    yield Row("same input twice", "identical bytes", "identical" if digests[0] == digests[1] else "differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, help="folder of real scans")
    parser.add_argument("--synthetic", type=Path, help="folder of a synthetic MS cohort")
    parser.add_argument("--cases", type=int, default=20, help="most synthetic cases")
    options = parser.parse_args()
    use_itk_threads(1)
    print("| what | wanted | found |\n|---|---|---|")
    sections = []
    if options.real:
        sections += [
            f(options.real) for f in (time_and_bytes, orientations, label_round_trips, channel_registration, real_masks)
        ]
    if options.synthetic:
        sections.append(synthetic_cohort(options.synthetic, options.cases))
    for section in sections:
        for row in section:
            print(f"| {row.what} | {row.wanted} | {row.found} |", flush=True)


if __name__ == "__main__":
    main()

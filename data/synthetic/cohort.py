"""Synthetic cohorts: raw scans with known truth, in the layout of the Medical Segmentation Decathlon.

A case is a function of the options, the seed and its number only, so cases can be made in any order, in parallel, and
added later. The ground truth, which only tests may see, lies in the folder `ground_truth`, which no layout reads.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from data.errors import DataError
from data.image_file import write_frames, write_volume
from data.input_file import read_json
from data.options import Options
from data.parallel import in_workers
from data.random_streams import random_stream
from data.synthetic.abdomen import make_abdomen
from data.synthetic.anatomy import Head
from data.synthetic.brain import Pathology, SyntheticScan, make_brain
from data.synthetic.cohort_kind import CohortKind
from data.synthetic.contrast import Contrast, ContrastOptions
from data.synthetic.deformation import WarpOptions
from data.synthetic.ms_lesions import MSLesionOptions, draw_lesions
from data.synthetic.scanner import ScannerOptions
from data.synthetic.tumour import TumourOptions, draw_tumour

logger = logging.getLogger(__name__)

GROUND_TRUTH = "ground_truth"
_OPTIONS_FILE = "synthetic.json"
# Raise this when the same options give other cases, so that old folders are not mistaken for new ones.
_FORM = 1
_MOST_CASES = 999

LABELS: Mapping[CohortKind, Mapping[int, str]] = {
    CohortKind.MS: {0: "background", 1: "lesion"},
    CohortKind.TUMOUR: {0: "background", 1: "core", 2: "rim", 3: "oedema"},
    CohortKind.ABDOMEN: {0: "background", 1: "liver", 2: "spleen"},
}
_DESCRIPTION = {
    CohortKind.MS: "Synthetic brains with multiple sclerosis lesions",
    CohortKind.TUMOUR: "Synthetic brains with a tumour",
    CohortKind.ABDOMEN: "Synthetic abdominal CT",
}
_ICBM = "Anatomy: ICBM 152 nonlinear symmetric 2009a (Fonov et al., NeuroImage 2011), as shipped with nilearn"
_REFERENCE = {
    CohortKind.MS: _ICBM,
    CohortKind.TUMOUR: _ICBM,
    CohortKind.ABDOMEN: "Anatomy: a geometric phantom",
}


class CohortOptions(Options):
    """What `graft synthesize` makes."""

    cohort: CohortKind = Field(description="anatomy and disease: ms, tumour or abdomen")
    cases: int = Field(ge=1, le=_MOST_CASES, description="number of cases, each of its own patient")
    seed: int = Field(0, ge=0, description="seed of the cohort; the same seed gives the same bytes")
    channels: tuple[str, ...] | None = Field(
        None, description="contrasts of a brain (T1, T2, FLAIR; FLAIR by default), or CT for the abdomen"
    )
    warp: WarpOptions = Field(default_factory=WarpOptions, description="how anatomies differ")
    contrast: ContrastOptions = Field(default_factory=ContrastOptions, description="how signals vary (brains)")
    scanner: ScannerOptions = Field(default_factory=ScannerOptions, description="grid, bias and noise of the scans")
    lesions: MSLesionOptions = Field(default_factory=MSLesionOptions, description="lesions of the ms cohort")
    tumour: TumourOptions = Field(default_factory=TumourOptions, description="the mass of the tumour cohort")

    @model_validator(mode="after")
    def _channels_exist(self) -> CohortOptions:
        allowed = ("CT",) if self.cohort is CohortKind.ABDOMEN else tuple(c.value for c in Contrast)
        chosen = self.channel_names
        if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(allowed):
            raise ValueError(
                f"channels of the {self.cohort} cohort are different ones of {', '.join(allowed)}, not {chosen}"
            )
        return self

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The channels, with the cohort's default where none are given."""
        if self.channels is not None:
            return self.channels
        return ("CT",) if self.cohort is CohortKind.ABDOMEN else (Contrast.FLAIR.value,)

    @property
    def digest(self) -> str:
        """Hash of all that decides what a case holds: everything but the number of cases."""
        text = self.model_copy(update={"channels": self.channel_names}).model_dump_json(exclude={"cases"})
        return hashlib.sha256(f"{_FORM}:{text}".encode()).hexdigest()


def case_name(options: CohortOptions, index: int) -> str:
    """Returns the name of the case of that index, counted from 0: `ms_001` is the first."""
    return f"{options.cohort}_{index + 1:03d}"


def case_files(options: CohortOptions, index: int, out: Path) -> dict[str, Path]:
    """Returns the files of a case by role: `image`, `label`, `truth`, and for brains `brain_mask`."""
    name = case_name(options, index)
    files = {"image": out / "imagesTr" / f"{name}.nii.gz", "label": out / "labelsTr" / f"{name}.nii.gz"}
    if options.cohort is not CohortKind.ABDOMEN:
        files["brain_mask"] = out / GROUND_TRUTH / f"{name}_brain_mask.nii.gz"
    return files | {"truth": out / GROUND_TRUTH / f"{name}.json"}


def make_case(options: CohortOptions, index: int) -> SyntheticScan:
    """Makes one case in memory, from (options, seed, index) only."""

    def streams(purpose: str) -> np.random.Generator:
        return random_stream(options.seed, "synthetic", options.cohort.value, index, purpose)

    if options.cohort is CohortKind.ABDOMEN:
        return make_abdomen(options.warp, options.scanner, streams)
    contrasts = [Contrast(name) for name in options.channel_names]

    def draw_pathology(head: Head, rng: np.random.Generator) -> Pathology:
        if options.cohort is CohortKind.TUMOUR:
            return draw_tumour(head, options.tumour, rng)
        overlay = draw_lesions(head, options.lesions, rng)
        return Pathology([overlay], (overlay.fraction >= 0.5).astype(np.uint8), (1,))

    return make_brain(contrasts, draw_pathology, options.warp, options.contrast, options.scanner, streams)


def write_case(options: CohortOptions, index: int, out: Path) -> None:
    """Writes one case, each file under a temporary name first; the truth, which marks the case as whole, comes last.

    Raises:
        DataError: a file of the case is there and was changed.
    """
    scan = make_case(options, index)
    files = case_files(options, index, out)
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    _write(files["image"], lambda path: write_frames(scan.images, path), same=True)
    _write(files["label"], lambda path: write_volume(scan.label, path), same=True)
    if scan.brain_mask is not None:
        mask = scan.brain_mask
        _write(files["brain_mask"], lambda path: write_volume(mask, path), same=True)
    truth = {
        "case": case_name(options, index),
        "affine": scan.affine.tolist(),
        "affine_maps": "template mm (RAS) to case mm (RAS), least squares over the brain or body",
        "residual_mm": scan.residual_mm,
        "smallest_jacobian": scan.smallest_jacobian,
        "orientation": scan.label.orientation,
        "spacing": scan.label.spacing.round(6).tolist(),
        "options_digest": options.digest,
    }
    _write(files["truth"], lambda path: path.write_text(json.dumps(truth, indent=1) + "\n"))


def write_dataset_description(options: CohortOptions, out: Path) -> None:
    """Writes `dataset.json` (Medical Segmentation Decathlon) and `patients.csv` for all cases of the options.

    Raises:
        DataError: one is there and was changed.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, text in _descriptions(options, options.cases).items():
        path = out / name
        found = path.read_bytes().decode(errors="replace") if path.exists() else text
        # A cohort may grow, so the file may describe another number of cases.
        if found != text and not any(found == _descriptions(options, n)[name] for n in range(1, _MOST_CASES + 1)):
            raise _changed(path)
        _write(path, partial(Path.write_bytes, data=text.encode()))


def _descriptions(options: CohortOptions, cases: int) -> dict[str, str]:
    """Name of a file that describes the cohort → its text."""
    names = [case_name(options, index) for index in range(cases)]
    description = {
        "name": f"synthetic_{options.cohort}",
        "description": _DESCRIPTION[options.cohort],
        "reference": _REFERENCE[options.cohort],
        "licence": "CC0-1.0",
        "release": "1.0",
        "tensorImageSize": "3D" if len(options.channel_names) == 1 else "4D",
        "modality": {str(i): name for i, name in enumerate(options.channel_names)},
        "labels": {str(value): name for value, name in LABELS[options.cohort].items()},
        "numTraining": len(names),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": [],
    }
    patients = "".join(f"{name},{name.replace('_', '_patient_')}\n" for name in names)
    return {"dataset.json": json.dumps(description, indent=1) + "\n", "patients.csv": "case,patient\n" + patients}


def _changed(path: Path) -> DataError:
    return DataError(
        f"{path}: does not match these options, so it was changed or made with other versions of the libraries",
        expected="only files that Graft made, because it replaces them",
        fix="move or rename it, or make the cohort in another folder",
    )


def synthesize(options: CohortOptions, out: Path, jobs: int = 1, progress: Callable[[], None] | None = None) -> None:
    """Makes a cohort; cases that are there already, made with the same options, are kept.

    Raises:
        DataError: the folder holds something else, a cohort made with other options, or files that were changed.
    """
    claim_folder(options, out)
    missing = []
    for index in range(options.cases):
        if is_whole(options, index, out):
            if progress is not None:
                progress()
        else:
            missing.append(index)
    logger.info("%s: %d of %d cases to make", out, len(missing), options.cases)
    for _ in in_workers(write_case, ((options, index, out) for index in missing), jobs):
        if progress is not None:
            progress()
    write_dataset_description(options, out)


def claim_folder(options: CohortOptions, out: Path) -> None:
    """Records the options of a folder; to be called before `write_case`, as `synthesize` does.

    Raises:
        DataError: the folder holds something else, or a cohort made with other options.
    """
    record = out / _OPTIONS_FILE
    fix = "give another folder, or delete this one"
    if record.exists():
        try:
            found = read_json(record)["options_digest"]
        except (DataError, KeyError, TypeError) as error:
            raise DataError(
                f"{record} is damaged ({error})", expected="the record of a synthetic cohort", fix=fix
            ) from error
        if found != options.digest:
            raise DataError(
                f"{out} holds a synthetic cohort that was made with other options (see {record.name})",
                expected="the same cohort, seed and options, or an empty folder",
                fix=fix,
            )
        return
    # A partial record that a killed run left does not count.
    if out.exists() and (not out.is_dir() or any(p.name != f".partial.{_OPTIONS_FILE}" for p in out.iterdir())):
        raise DataError(f"{out} exists and is not a synthetic cohort", expected="a new or empty folder", fix=fix)
    out.mkdir(parents=True, exist_ok=True)
    text = {"options_digest": options.digest, "options": options.model_dump(mode="json", exclude={"cases"})}
    _write(record, lambda path: path.write_text(json.dumps(text, indent=1) + "\n"))


def is_whole(options: CohortOptions, index: int, out: Path) -> bool:
    """Whether all files of a case are there, made with these options."""
    files = case_files(options, index, out)
    if not all(path.exists() for path in files.values()):
        return False
    try:
        return bool(json.loads(files["truth"].read_text())["options_digest"] == options.digest)
    except (ValueError, KeyError, TypeError):
        return False


def _write(path: Path, write: Callable[[Path], object], *, same: bool = False) -> None:
    """Writes through a hidden name in the same folder, so that a name never holds half a file.

    Args:
        path: of the file.
        write: writes it.
        same: whether to refuse to replace a file with different content, which a person may have corrected.

    Raises:
        DataError: the file is there and differs.
    """
    partial_path = path.with_name(f".partial.{path.name}")
    try:
        write(partial_path)
        if same and path.exists() and not filecmp.cmp(path, partial_path, shallow=False):
            raise _changed(path)
        os.replace(partial_path, path)
    finally:
        partial_path.unlink(missing_ok=True)

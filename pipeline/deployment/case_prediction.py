"""One scan from its raw files to masks, maps and numbers on its own grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.case import Case
from data.errors import ModelError
from data.image_file import read_geometry, write_volume
from data.volume import Volume
from pipeline.deployment.bids_derivative import write_sidecars
from pipeline.deployment.case_figure import draw_case
from pipeline.deployment.case_files import CaseFiles
from pipeline.deployment.fingerprint import case_facts, voxel_ml
from pipeline.deployment.model_folder import Model, read_model
from pipeline.deployment.predict_options import PredictOptions
from pipeline.deployment.structure_facts import structure_facts
from pipeline.deployment.suspicion import chain_reasons, implausible_structures, scan_reasons, unlike_training
from pipeline.deployment.weight_passes import pass_count, weight_passes
from pipeline.inference.native_maps import NativeMaps
from pipeline.inference.native_mask import native_mask
from pipeline.inference.posterior_average import PosteriorAverage
from pipeline.inference.scan_prediction import mirrorings, predict_scan
from pipeline.inference.stored_prediction import read_average
from pipeline.progress import ProgressFile
from pipeline.storage.atomic import write_json
from preprocessing.chain import Chain
from preprocessing.quality_control import case_numbers
from preprocessing.step import Record
from preprocessing.subject import Subject, load_subject

ENTROPY, MUTUAL_INFORMATION, STANDARD_DEVIATION = "entropy", "mutual-information", "standard-deviation"
_PREPARED, _PREDICTED = 0.1, 0.9
Write = Callable[[Volume, Path], None]


def predict_input(
    folder: Path,
    progress: ProgressFile,
    *,
    case: Case,
    files: CaseFiles,
    model: Path,
    digest: str,
    options: PredictOptions,
    device: str,
) -> None:
    """Predicts a scan and writes its files into the folder.

    Raises:
        GraftError: the scan cannot be read or is of another modality, a step of preprocessing cannot be carried out,
            or the model is damaged.
    """
    found = _model(model, digest, device)
    about = found.description
    raw = load_subject(case, about.channels)
    reasons = scan_reasons(case, raw.channels, about.modality, options.limits)
    geometry = read_geometry(case.channels[raw.reference_name].path)
    chain = Chain(about.preprocessing)
    processed, records = chain.apply(raw, lambda share: progress(_PREPARED * share))
    reasons += chain_reasons(records)
    # The other channels of the raw scan are no longer needed.
    raw = Subject(raw.name, {raw.reference_name: raw.reference})
    image, inside, affine = _arrays(processed)
    del processed
    facts = case_facts(image, inside, affine, about.channels, records)
    reasons += unlike_training(facts, about.fingerprint, options.limits)
    progress(_PREPARED)

    flips = mirrorings(about.flip_axes if options.tta else ())
    average, draws = predict_scan(
        weight_passes(found, options.samples, device),
        pass_count(found, options.samples),
        torch.from_numpy(image).to(device),
        about.patch,
        about.window,
        flips,
        lambda share: progress(_PREPARED + (_PREDICTED - _PREPARED) * share),
    )
    native = NativeMaps(chain, records, affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    average.temper(about.arm.reading.logit_temperature)
    read = read_average(average.probability, about.arm.reading, spacing)
    write = partial(write_volume, geometry=geometry)
    mask = _write_mask(folder, files, native, average, about.classes, options, read.thresholds, write)
    entropy = _write_uncertainty(folder, files, native, average, write)
    structures = structure_facts(
        mask,
        about.classes,
        average,
        draws,
        spacing,
        voxel_ml(affine, records),
        about.calibration,
        read.thresholds,
        read.voxel_correlation,
    )
    volumes = {name: own["volume_ml"] for name, own in structures.items()}
    reasons += implausible_structures(volumes, about.fingerprint.structure_ml, options.limits.structure)
    if options.pictures:
        draw_case(folder / files.picture, raw.reference, mask, entropy, len(about.classes), structures, reasons)
    _write_facts(folder / files.facts, case, found, structures, reasons, records, len(flips), average.count, facts)
    write_sidecars(folder, files, about, digest)


@lru_cache(maxsize=1)
def _model(path: Path, digest: str, device: str) -> Model:
    """Reads the model once for each worker.

    Raises:
        ModelError: it is not the one that the command started with.
    """
    found = read_model(path, device)
    if found.digest != digest:
        raise ModelError(f"{path}: the model was changed while scans were predicted", fix="run the command again")
    return found


def _arrays(subject: Subject) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Image `[C, X, Y, Z]`, mask `[X, Y, Z]` (all of it where the chain makes none) and affine."""
    volumes = list(subject.channels.values())
    image = np.stack([volume.array.astype(np.float32, copy=False) for volume in volumes])
    mask = subject.mask.array > 0 if subject.mask is not None else np.ones(image.shape[1:], dtype=bool)
    return image, mask, volumes[0].affine


def _write_mask(
    folder: Path,
    files: CaseFiles,
    native: NativeMaps,
    average: PosteriorAverage,
    classes: dict[str, int],
    options: PredictOptions,
    thresholds: Sequence[float] | None,
    write: Write,
) -> Volume:
    """Writes the mask and, if asked for, the probabilities."""
    names = files.probabilities(classes)

    def maps() -> Iterator[Volume]:
        for number, name in enumerate(classes, start=1):
            volume = native(average.probability[number])
            if options.probabilities:
                write(volume, folder / names[name])
            yield volume

    mask = native_mask(maps(), list(classes.values()), thresholds)
    write(mask, folder / files.mask)
    return mask


def _write_uncertainty(
    folder: Path, files: CaseFiles, native: NativeMaps, average: PosteriorAverage, write: Write
) -> Volume:
    """Writes the maps of uncertainty: the entropy, and with several draws what they disagree on."""
    entropy = native(average.predictive_entropy)
    write(entropy, folder / files.uncertainty(ENTROPY))
    if average.count > 1:
        write(native(average.mutual_information), folder / files.uncertainty(MUTUAL_INFORMATION))
        write(native(average.standard_deviation), folder / files.uncertainty(STANDARD_DEVIATION))
    return entropy


def _write_facts(
    path: Path,
    case: Case,
    model: Model,
    structures: dict[str, dict[str, Any]],
    reasons: Sequence[str],
    records: Sequence[Record],
    mirrored: int,
    draws: int,
    facts: Any,
) -> None:
    about = model.description
    quality = case_numbers(Subject(case.name, {}), records)
    content = {
        "case": case.name,
        "sources": {name: source.path.name for name, source in case.channels.items()},
        "model": {
            "study": about.study,
            "arm": about.arm_name,
            "training_patients": about.training_patients,
            "sha256": model.digest,
            "graft_version": about.graft_version,
        },
        "draws": draws,
        "mirrorings": mirrored,
        "structures": structures,
        "suspect": list(reasons),
        "preprocessing": {k: v for k, v in quality.items() if k not in ("case", "suspect") and _finite(v)},
        "scan": facts.model_dump(mode="json", exclude={"structure_ml"}),
    }
    write_json(path, content)


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)

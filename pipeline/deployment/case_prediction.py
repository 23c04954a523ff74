"""Prediction of one scan: from raw files to mask, maps and numbers on the scan's own grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.case import Case
from data.errors import ModelError
from data.image_file import read_geometry, write_volume
from data.volume import Volume
from models.networks.imported_network import network_code_allowed
from pipeline.deployment.bids_derivative import write_sidecars
from pipeline.deployment.case_figure import draw_case
from pipeline.deployment.case_files import CaseFiles
from pipeline.deployment.fingerprint import CaseFacts, case_facts, voxel_ml
from pipeline.deployment.judgement import Judgement
from pipeline.deployment.model_folder import Model, read_model
from pipeline.deployment.predict_options import PredictOptions
from pipeline.deployment.raw_scan import RawScan
from pipeline.deployment.structure_facts import structure_facts
from pipeline.deployment.suspicion import (
    beyond_the_gates,
    chain_reasons,
    implausible_structures,
    scan_reasons,
    unlike_training,
)
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.expected_dice import DrawMasks
from pipeline.prediction.native_maps import NativeMaps
from pipeline.prediction.native_mask import native_mask
from pipeline.prediction.posterior_average import PosteriorAverage
from pipeline.prediction.scan_prediction import mirrorings, predict_scan
from pipeline.prediction.stored_prediction import read_average
from pipeline.storage.atomic import write_json
from preprocessing.chain import Chain
from preprocessing.quality_control import case_numbers
from preprocessing.step import Record
from preprocessing.subject import Subject

ENTROPY, MUTUAL_INFORMATION, STANDARD_DEVIATION = "entropy", "mutual-information", "standard-deviation"
UNLIKENESS = "unlikeness"
_PREPARED, _PREDICTED = 0.1, 0.9


@dataclass(frozen=True)
class PredictedScan:
    """The prediction of a scan on the scan's own grid.

    Attributes:
        scan: the scan; only the first channel of its volumes is kept.
        model: the model.
        mask: label map, as `ModelDescription.classes` says.
        structures: class → numbers, JSON-able (`structure_facts`).
        reasons: why the case should be reviewed before its mask is used.
        records: what each preprocessing step did.
        facts: numbers of the scan that were compared with the training cases.
        judgements: how unlike the training scans it is to each gate of the model.
        mirrored: number of mirrorings that each draw was averaged over.
        draws: number of draws.
    """

    scan: RawScan
    model: Model
    mask: Volume
    structures: dict[str, dict[str, Any]]
    reasons: list[str]
    records: Sequence[Record]
    facts: CaseFacts
    judgements: Sequence[Judgement]
    mirrored: int
    draws: int
    _native: NativeMaps
    _average: PosteriorAverage

    def uncertainty(self) -> Iterator[tuple[str, Volume]]:
        """Yields the maps of uncertainty, one at a time: the entropy and, with several draws, their disagreement."""
        yield ENTROPY, self._native(self._average.predictive_entropy)
        if self.draws > 1:
            yield MUTUAL_INFORMATION, self._native(self._average.mutual_information)
            yield STANDARD_DEVIATION, self._native(self._average.standard_deviation)

    def unlikeness(self) -> Volume | None:
        """Returns where the scan is unlike those of the training, if it is, to the gate that finds it most unusual."""
        beyond = [own for own in self.judgements if own.beyond]
        return self._native(max(beyond, key=lambda own: own.percentile).where) if beyond else None

    def numbers(self) -> dict[str, Any]:
        """Returns all results except volumes, JSON-able."""
        about, case = self.model.description, self.scan.case
        quality = case_numbers(Subject(case.name, {}), self.records)
        return {
            "case": case.name,
            "sources": {name: source.path.name for name, source in case.channels.items()},
            "model": {
                "study": about.study,
                "arm": about.arm_name,
                "training_patients": about.training_patients,
                "sha256": self.model.digest,
                "graft_version": about.graft_version,
            },
            "draws": self.draws,
            "mirrorings": self.mirrored,
            "structures": self.structures,
            "suspect": self.reasons,
            "preprocessing": {name: value for name, value in quality.numbers().items() if math.isfinite(value)},
            "scan": self.facts.model_dump(mode="json", exclude={"structure_ml"}),
            **({"gate": {own.score: own.numbers() for own in self.judgements}} if self.judgements else {}),
        }


def predict_case(
    model: Model,
    scan: RawScan,
    options: PredictOptions,
    device: str,
    progress: Callable[[float], None] = lambda share: None,
    keep: Callable[[str, Volume], None] = lambda name, probability: None,
) -> PredictedScan:
    """Predicts a scan.

    Args:
        model: the model, on `device`.
        scan: the raw scan.
        options: of the prediction.
        device: `cpu` or `cuda`.
        progress: called with the share done.
        keep: called with each class and its probability on the scan's grid.

    Raises:
        GraftError: the scan cannot be used or is of another modality, or a preprocessing step fails.
    """
    about = model.description
    reasons = scan_reasons(scan, about.modality, options.limits)
    chain = Chain(about.preprocessing)
    processed, records = chain.apply(scan.subject, lambda share: progress(_PREPARED * share))
    reasons += chain_reasons(records)
    # The other channels of the raw scan are no longer needed.
    scan = replace(scan, subject=scan.subject.with_channels({scan.subject.reference_name: scan.subject.reference}))
    image, affine = processed.image(), processed.reference.affine
    content = processed.content()
    facts = case_facts(image, content, affine, about.channels, records)
    del processed
    reasons += [] if about.fingerprint is None else unlike_training(facts, about.fingerprint, options.limits)
    voxels, inside = torch.from_numpy(image).to(device), torch.from_numpy(content)
    judgements = model.judgements(voxels, inside, options.limits.gate)
    reasons += beyond_the_gates(judgements)
    del content, voxels, inside
    progress(_PREPARED)
    flips = mirrorings(about.flip_axes if options.tta else ())
    average, draws = _averaged(model, image, flips, options.samples, device, progress)
    native = NativeMaps(chain, records, affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    read = read_average(average.probability, about.arm.reading, tuple(about.classes), spacing, about.heads)

    def maps() -> Iterator[Volume]:
        for number, name in enumerate(about.classes, start=1):
            probability = native(about.heads.of_structure(average.probability, number))
            keep(name, probability)
            yield probability

    mask = native_mask(maps(), list(about.classes.values()), read.thresholds, read.rules, about.heads)
    information = average.mutual_information.cpu().numpy() if average.count > 1 else None
    structures = structure_facts(
        mask, about.classes, read, draws, spacing, voxel_ml(affine, records), about.dice_fits, information
    )
    volumes = {name: own["volume_ml"] for name, own in structures.items()}
    usual = {} if about.fingerprint is None else about.fingerprint.structure_ml
    reasons += implausible_structures(volumes, usual, options.limits.structure)
    return PredictedScan(
        scan, model, mask, structures, reasons, records, facts, judgements, len(flips), average.count, native, average
    )


def _averaged(
    model: Model,
    image: NDArray[np.float32],
    flips: Sequence[tuple[int, ...]],
    samples: int | None,
    device: str,
    progress: Callable[[float], None],
) -> tuple[PosteriorAverage, DrawMasks]:
    """Predicts a preprocessed image with every draw, and reads the average with the model's temperature."""
    about, drawn = model.description, model.draws(samples, device)
    average, draws = predict_scan(
        (own.member.with_weights(draw) for own in drawn for draw in own),
        sum(map(len, drawn)),
        torch.from_numpy(image).to(device),
        about.patch,
        about.window,
        flips,
        lambda share: progress(_PREPARED + (_PREDICTED - _PREPARED) * share),
        about.heads,
    )
    with torch.inference_mode():
        # Its tensors were made in this mode and are changed in place.
        average.read(about.arm.reading.logit_temperature)
    return average, draws


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
    allow_code: bool = False,
) -> None:
    """Predicts a scan and writes its files into the folder.

    Raises:
        GraftError: the scan cannot be read or is of another modality, a preprocessing step fails, or the model is
            damaged.
    """
    found = _model(model, digest, device, allow_code)
    about = found.description
    reference = case.channels[about.channels[0]].path
    names = files.probabilities(about.classes)

    def write(volume: Volume, name: str) -> None:
        write_volume(volume, folder / name, read_geometry(reference))

    def keep(name: str, probability: Volume) -> None:
        if options.probabilities:
            write(probability, names[name])

    # No reference is kept here, so that channels are freed as soon as they are preprocessed.
    predicted = predict_case(found, RawScan.read(case, about.channels), options, device, progress, keep)
    write(predicted.mask, files.mask)
    for name, mask_name in files.masks(about.classes, about.heads).items():
        inside = about.heads.holds(predicted.mask.array, about.classes[name])
        write(predicted.mask.with_array(inside.astype(np.uint8)), mask_name)
    unlikeness = predicted.unlikeness()
    if unlikeness is not None:
        write(unlikeness, files.uncertainty(UNLIKENESS))
    for kind, volume in predicted.uncertainty():
        write(volume, files.uncertainty(kind))
        if kind == ENTROPY and options.pictures:
            draw_case(
                folder / files.picture,
                predicted.scan.subject.reference,
                predicted.mask,
                volume,
                about.heads.largest_entropy(len(about.classes)),
                predicted.structures,
                predicted.reasons,
                unlikeness,
            )
    write_json(folder / files.facts, predicted.numbers())
    write_sidecars(folder, files, about, digest)


@lru_cache(maxsize=1)
def _model(path: Path, digest: str, device: str, allow_code: bool) -> Model:
    """Reads the model once for each worker.

    Raises:
        ModelError: it is not the model that the command started with.
    """
    with network_code_allowed(allow_code):
        found = read_model(path, device)
    if found.digest != digest:
        raise ModelError(f"{path}: the model was changed while scans were predicted", fix="run the command again")
    return found

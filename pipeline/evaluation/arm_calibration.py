"""Calibration of one trained arm on all its test cases, raw and after temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from models.heads import IGNORED, Heads
from pipeline.evaluation.calibration import (
    BandSample,
    band_sample,
    brier_score,
    class_probabilities,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_curve,
)
from pipeline.evaluation.calibration_tables import CalibrationRow, ReliabilityRow
from pipeline.evaluation.case_evaluation import TrainedArm
from pipeline.evaluation.case_review import predicted_uncertainty
from pipeline.evaluation.options import CalibrationOptions
from pipeline.evaluation.temperature_scaling import SCALED, cross_fitted, scale
from pipeline.evaluation.volume_interval import VolumeInterval, volume_interval
from pipeline.evaluation.voxel_correlation import PossibleVoxels, cross_fitted_correlation
from pipeline.prediction.boundary_band import possible_voxels
from pipeline.prediction.correlated_volume import correlated_volume_interval
from pipeline.prediction.post_processing import ComponentRule, mask_of
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import ReadPrediction, StoredPrediction, read_average
from pipeline.prediction.temperature import tempered
from pipeline.storage.cached_case import CachedCase


@dataclass(frozen=True)
class CalibrationCase:
    """A prediction and its reference on the preprocessed grid.

    Attributes:
        case: name of the case.
        patient: whose case it is.
        labels: names of the foreground classes; class k (from 1) is the k-th.
        spacing: mm between voxel centres along each axis.
        probability: `[K, X, Y, Z]` of the foreground classes.
        prediction: `[X, Y, Z]` predicted codes of `heads`.
        reference: `[X, Y, Z]` codes; voxels that are not annotated are left out of all that needs it.
        mutual_information: `[X, Y, Z]` in nats, or None where there was one draw.
        volumes_ml: `[S, K]` volume of each draw's mask, or None where it was not stored.
        draws: S, passes that the probability is the mean of.
        thresholds: of the mask, of each class; None for the most probable class.
        rules: what is kept of the components of each class in the mask; everything without rules.
        voxel_correlation: ρ of the volume interval, or None for the interval of the draws' masks.
        dice: of each label, as the study measures it.
        heads: what channels and codes stand for.
    """

    case: str
    patient: str
    labels: Sequence[str]
    spacing: tuple[float, float, float]
    probability: NDArray[np.floating]
    prediction: NDArray[np.integer]
    reference: NDArray[np.integer]
    mutual_information: NDArray[np.floating] | None
    volumes_ml: NDArray[np.floating] | None
    draws: int
    thresholds: Sequence[float] | None = None
    rules: Sequence[ComponentRule] = ()
    voxel_correlation: float | None = None
    dice: Mapping[str, float] = field(default_factory=dict)
    heads: Heads = Heads.EXCLUSIVE

    @classmethod
    def of(cls, stored: StoredPrediction, case: CachedCase, reading: ReadingOptions) -> CalibrationCase:
        """Reads a stored prediction, and the reference of its case."""
        read = stored.read(reading)
        information, volumes = stored.mutual_information, stored.volumes_ml
        return cls(
            case.name,
            case.patient,
            tuple(case.classes),
            stored.spacing,
            read.foreground.numpy(),
            read.mask,
            case.label().numpy(),
            None if information is None else information.float().numpy(),
            None if volumes is None else volumes.numpy(),
            stored.draws,
            read.thresholds,
            read.rules,
            read.voxel_correlation,
            heads=case.heads,
        )

    @property
    def most_probable(self) -> NDArray[np.integer]:
        """`[X, Y, Z]` codes without thresholds, after post-processing: the prediction unless its mask has some."""
        if self.thresholds is None:
            return self.prediction
        return mask_of(torch.from_numpy(self.probability), None, self.rules, math.prod(self.spacing), self.heads)

    @property
    def annotated(self) -> NDArray[np.bool_]:
        """`[X, Y, Z]`, where the reference is known."""
        return np.asarray(self.reference != IGNORED)

    def read_again(self, reading: ReadingOptions) -> ReadPrediction:
        """Applies another reading to the probabilities of a case that was read without a temperature."""
        probability = foreground = torch.from_numpy(self.probability)
        if self.heads is Heads.EXCLUSIVE:
            background = (1 - foreground.sum(dim=0, keepdim=True)).clamp_min(0)
            probability = torch.cat([background, foreground])
        probability = tempered(probability, reading.logit_temperature, self.heads)
        return read_average(probability, reading, self.labels, self.spacing, self.heads)

    def near_boundary(self, options: CalibrationOptions) -> BandSample:
        """The voxels that calibration is measured on."""
        return band_sample(
            self.probability,
            self.prediction,
            self.reference,
            self.spacing,
            case=self.case,
            patient=self.patient,
            band=options.band,
            clamp=options.clamp,
            heads=self.heads,
        )

    def with_dice(self, dice: Mapping[str, float]) -> CalibrationCase:
        """Returns the case with the Dice of each label."""
        return replace(self, dice=dice)


class ArmCalibration:
    """Gathers the test cases of one trained arm, of which only voxels near the structures are kept.

    Args:
        trained: which arm.
        options: how calibration is measured.
        seed: of the study, for the two halves of temperature scaling.
    """

    def __init__(self, trained: TrainedArm, options: CalibrationOptions, seed: int) -> None:
        self._trained = trained
        self._options = options
        self._seed = seed
        self._samples: list[BandSample] = []
        self._rows: list[list[CalibrationRow]] = []
        self._millilitres: dict[str, float] = {}
        self._possible: dict[tuple[str, int], PossibleVoxels] = {}

    def add(self, case: CalibrationCase) -> None:
        """Adds one case."""
        options = self._options
        sample = case.near_boundary(options)
        self._samples.append(sample)
        numbers = range(1, len(case.labels) + 1)
        self._rows.append([self._row(case, sample, k) for k in numbers])
        self._millilitres[case.case] = float(np.prod(case.spacing)) / 1000
        if self._is_scaled:
            self._possible |= {(case.case, k): possible_in(case, k, options.clamp) for k in numbers}

    @property
    def _is_scaled(self) -> bool:
        return self._options.is_scaled(self._trained.arm)

    def _row(self, case: CalibrationCase, sample: BandSample, number: int) -> CalibrationRow:
        """What does not depend on temperature scaling."""
        options, label = self._options, case.labels[number - 1]
        millilitres = float(np.prod(case.spacing)) / 1000
        doubt = predicted_uncertainty(
            case.probability,
            case.prediction,
            case.mutual_information,
            number,
            case.spacing,
            band=options.band,
            clamp=options.clamp,
            heads=case.heads,
        )
        row = CalibrationRow(
            self._trained.arm,
            self._trained.n,
            self._trained.repeat,
            case.case,
            case.patient,
            label,
            draws=case.draws,
            band_voxels=int(sample.near[number - 1].sum()),
            false_positive_outside_ml=sample.outside[number - 1] * millilitres,
            dice=case.dice.get(label, math.nan),
            entropy=doubt.entropy,
            mutual_information=doubt.mutual_information,
            expected_dice=doubt.expected_dice,
            reference_ml=int(np.count_nonzero(case.heads.belongs(case.reference, number))) * millilitres,
        )
        if case.voxel_correlation is not None:
            return _with_correlation(
                row,
                case.probability[number - 1][_where_possible(case, number)],
                case.voxel_correlation,
                millilitres,
                options.level,
            )
        # The draws' volumes hold voxels whose reference is not known.
        if case.volumes_ml is None or not case.annotated.all():
            return row
        interval = volume_interval(case.volumes_ml[:, number - 1], options.level)
        return row if interval is None else _with_volumes(row, interval)

    def finish(self) -> tuple[list[CalibrationRow], list[ReliabilityRow]]:
        """Scores all cases; an arm that is to be scaled has its rows twice, raw and scaled."""
        rows, curve = self._scored(self._trained.arm, self._samples, {})
        if self._is_scaled:
            fitted = cross_fitted(self._samples, self._seed)
            scaled = [
                s.with_probability(scale(s.probability, fitted[s.patient], s.heads))
                for s in self._samples
                if s.patient in fitted
            ]
            more_rows, more_curve = self._scored(self._trained.arm + SCALED, scaled, fitted)
            rows, curve = rows + self._with_fitted_correlation(more_rows, fitted), curve + more_curve
        return rows, curve

    def _with_fitted_correlation(
        self, rows: Sequence[CalibrationRow], temperatures: Mapping[str, float]
    ) -> list[CalibrationRow]:
        """Gives scaled rows the volume interval of correlated voxels."""
        numbers = {row.label: number for number, row in enumerate(self._rows[0] if self._rows else (), start=1)}
        fitted = cross_fitted_correlation(list(self._possible.values()), temperatures, self._seed)

        def with_interval(row: CalibrationRow) -> CalibrationRow:
            if row.patient not in fitted:
                return row
            own = self._possible[row.case, numbers[row.label]].scaled(temperatures[row.patient]).own
            millilitres = self._millilitres[row.case]
            return _with_correlation(row, own, fitted[row.patient], millilitres, self._options.level)

        return [with_interval(row) for row in rows]

    def _scored(
        self, arm: str, samples: Sequence[BandSample], temperatures: Mapping[str, float]
    ) -> tuple[list[CalibrationRow], list[ReliabilityRow]]:
        rows: list[CalibrationRow] = []
        curve: list[ReliabilityRow] = []
        prepared = {of_case[0].case: of_case for of_case in self._rows}
        for place in range(len(self._rows[0]) if self._rows else 0):
            by_patient = _by_patient(samples, place + 1)
            errors = {p: expected_calibration_error(*v, self._options.bins) for p, v in by_patient.items()}
            for sample in samples:
                probability, truth = sample.of_class(place + 1)
                row = replace(
                    prepared[sample.case][place],
                    arm=arm,
                    nll=negative_log_likelihood(probability, truth),
                    brier=brier_score(probability, truth),
                    ece=errors[sample.patient],
                )
                rows.append(_scaled(row, temperatures[sample.patient]) if temperatures else row)
            label = self._rows[0][place].label
            curve += [
                ReliabilityRow(
                    arm,
                    self._trained.n,
                    self._trained.repeat,
                    label,
                    b.low,
                    b.high,
                    b.share,
                    b.probability,
                    b.frequency,
                )
                for b in reliability_curve(list(by_patient.values()), self._options.bins)
            ]
        return rows, curve


def _scaled(row: CalibrationRow, temperature: float) -> CalibrationRow:
    """Leaves out what is not measured anew after scaling: it would be the raw arm's."""
    return replace(
        row,
        temperature=temperature,
        voxel_correlation=math.nan,
        entropy=math.nan,
        mutual_information=math.nan,
        expected_dice=math.nan,
        volume_low_ml=math.nan,
        volume_high_ml=math.nan,
        volume_nominal=math.nan,
        covered=math.nan,
        volume_width_ml=math.nan,
        volume_width_relative=math.nan,
    )


def _where_possible(case: CalibrationCase, number: int) -> NDArray[np.bool_]:
    """`[X, Y, Z]`, where class `number` (from 1) may be, whatever mask the arm makes of its probabilities.

    Voxels that are not annotated are left out: the reference volume does not hold them either.
    """
    return possible_voxels(case.heads.belongs(case.most_probable, number), case.spacing) & case.annotated


def possible_in(case: CalibrationCase, number: int, clamp: float) -> PossibleVoxels:
    """The voxels of a case that may belong to class `number` (from 1)."""
    reference = int(np.count_nonzero(case.heads.belongs(case.reference, number)))
    probability = class_probabilities(case.probability[:, _where_possible(case, number)], clamp, case.heads)
    if case.heads is Heads.OVERLAPPING:
        own = probability[number - 1]
        return PossibleVoxels(case.patient, 1, np.stack([1 - own, own]), reference)
    return PossibleVoxels(case.patient, number, probability, reference)


def _with_correlation(
    row: CalibrationRow, probability: NDArray[np.floating], correlation: float, millilitres: float, level: float
) -> CalibrationRow:
    ends = correlated_volume_interval(probability, correlation, millilitres, level)
    return replace(_with_volumes(row, VolumeInterval(*ends, level)), voxel_correlation=correlation)


def _with_volumes(row: CalibrationRow, interval: VolumeInterval) -> CalibrationRow:
    return replace(
        row,
        volume_low_ml=interval.low,
        volume_high_ml=interval.high,
        volume_nominal=interval.nominal,
        covered=float(interval.covers(row.reference_ml)),
        volume_width_ml=interval.width,
        volume_width_relative=interval.width / row.reference_ml if row.reference_ml else math.nan,
    )


def _by_patient(samples: Sequence[BandSample], number: int) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Probability and truth of one class, the cases of a patient joined."""
    parts: dict[str, list[tuple[NDArray[np.float64], NDArray[np.bool_]]]] = {}
    for sample in samples:
        parts.setdefault(sample.patient, []).append(sample.of_class(number))
    return {
        patient: (np.concatenate([p for p, _ in found]), np.concatenate([t for _, t in found]))
        for patient, found in parts.items()
    }

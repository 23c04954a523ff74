"""Reasons to look at a case before its prediction is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data.errors import DataError
from data.volume import Volume
from pipeline.deployment.fingerprint import CaseFacts, Span, TrainingFingerprint
from pipeline.deployment.predict_options import SuspicionLimits
from preprocessing.chain import Modality
from preprocessing.step import Record

_AXES = ("left-right", "back-front", "down-up")
_AIR, _WATER = -900.0, 200.0
_SHARE = 0.01


def looks_like_ct(volume: Volume) -> bool:
    """Whether the values look like Hounsfield units: a part near or below air (−1000), another near water (0)."""
    air = float(np.mean(volume.array <= _AIR))
    water = float(np.mean(np.abs(volume.array) <= _WATER))
    return air >= _SHARE and water >= _SHARE


def check_modality(case: str, channels: Mapping[str, Volume], modality: Modality, limits: SuspicionLimits) -> list[str]:
    """Compares raw intensities with the model's modality.

    Returns:
        reasons for suspicion.

    Raises:
        DataError: a CT was given to a model for MR, and the limits refuse it.
    """
    reasons = []
    for name, volume in channels.items():
        lowest = float(volume.array.min())
        if modality is Modality.CT:
            if lowest > _AIR / 2:
                reasons.append(f"{name}: the lowest value is {lowest:g}, so this is no CT in Hounsfield units with air")
        elif looks_like_ct(volume):
            share = float(np.mean(volume.array <= _AIR))
            found = f"{name} looks like CT in Hounsfield units ({share:.0%} of the voxels at {_AIR:g} or below)"
            if limits.refuse_other_modality:
                raise DataError(
                    f"case {case}: {found}",
                    expected=f"the model's modality, {modality.value}",
                    fix="use a model for CT, or flag only with --set limits.refuse_other_modality=false",
                )
            reasons.append(f"{found}, the model is for {modality.value}")
    return reasons


def chain_reasons(records: Sequence[Record]) -> list[str]:
    """What the steps of preprocessing found implausible, each after the step's name."""
    return [f"{record['step']}: {reason}" for record in records for reason in record["suspect"]]


def unlike_training(facts: CaseFacts, training: TrainingFingerprint, limits: SuspicionLimits) -> list[str]:
    """Numbers of a scan that lie far from those of the training cases, each with the training span."""
    return [*_geometry(facts, training, limits), *_intensities(facts, training, limits)]


def _geometry(facts: CaseFacts, training: TrainingFingerprint, limits: SuspicionLimits) -> Iterator[str]:
    for axis, spacing, span in zip(_AXES, facts.spacing, training.spacing, strict=True):
        if _beyond(spacing, span, limits.size):
            yield f"spacing {axis} is {spacing:.3g} mm, in training {_shown(span)} mm"
    extents = [n * s for n, s in zip(facts.shape, facts.spacing, strict=True)]
    for axis, extent, span in zip(_AXES, extents, training.extent, strict=True):
        if _beyond(extent, span, limits.size):
            yield f"the field of view {axis} is {extent:.0f} mm, in training {_shown(span)} mm"
    if _beyond(facts.mask_ml, training.mask_ml, limits.size):
        yield f"the mask has {facts.mask_ml:.0f} ml, in training {_shown(training.mask_ml)} ml"


def _intensities(facts: CaseFacts, training: TrainingFingerprint, limits: SuspicionLimits) -> Iterator[str]:
    """The percentile of each channel that lies farthest out; means of raw values only by their sign, MR has no unit."""
    for channel, spans in training.after.items():
        own = facts.after[channel]
        unit = max(spans["std"].high, 1e-6)
        away = {key: _distance(own[key], span) / unit for key, span in spans.items() if key != "std"}
        worst = max(away, key=lambda key: away[key])
        if away[worst] > limits.intensity:
            what = "mean" if worst == "mean" else f"{int(worst[1:])}th percentile"
            yield f"{channel}: the {what} after scaling is {own[worst]:.2f}, in training {_shown(spans[worst])}"
        raw, mean = training.before.get(channel, {}).get("mean"), facts.before.get(channel, {}).get("mean")
        if raw is not None and mean is not None and raw.low > 0 > mean:
            yield f"{channel}: the mean before scaling is {mean:.3g}, in training {_shown(raw)}"


def implausible_structures(volumes: Mapping[str, float], spans: Mapping[str, Span], factor: float) -> list[str]:
    """Structures that were not found, or whose volume in ml lies far from the training cases."""
    reasons = []
    for name, volume in volumes.items():
        span = spans.get(name)
        if volume == 0:
            reasons.append(f"no {name} found")
        elif span is not None and _beyond(volume, span, factor):
            reasons.append(f"{name} has {volume:.3g} ml, in training {_shown(span)} ml")
    return reasons


def _beyond(value: float, span: Span, factor: float) -> bool:
    return value < span.low / factor or value > span.high * factor


def _distance(value: float, span: Span) -> float:
    return max(span.low - value, value - span.high, 0.0)


def _shown(span: Span) -> str:
    return f"{span.low:.3g} to {span.high:.3g}"

"""Reasons to review a case before its prediction is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from data.checks import value_range
from data.checks.battery import case_findings
from data.checks.finding import Level
from data.checks.observation import observe_scan
from data.errors import DataError
from data.modality import Modality
from data.plain_number import plain_number, plain_span
from pipeline.deployment.contrast_profile import tissue_profile, white_over_grey
from pipeline.deployment.fingerprint import CaseFacts, Span, TrainingFingerprint
from pipeline.deployment.judgement import FEATURES, Judgement
from pipeline.deployment.predict_options import SuspicionLimits
from pipeline.deployment.raw_scan import RawScan
from preprocessing.step import Record

_AXES = ("left-right", "back-front", "down-up")
_FLAGGED_ERRORS = ("sform_qform",)
"""Errors that leave a mask usable on the voxels of its scan: they are reported, and the case is predicted."""
_LEAST_HISTOGRAM, _LEAST_TISSUES, _LEAST_WHITE_GREY = 0.15, 0.25, 0.4
"""Distances in standard deviations that count as zero: a few training cases may be alike by chance."""


def scan_reasons(scan: RawScan, modality: Modality, limits: SuspicionLimits) -> list[str]:
    """Runs the checks of `graft check` on a scan.

    Args:
        scan: the raw scan.
        modality: the model's.
        limits: whether a model for MR refuses a CT.

    Returns:
        Reasons for suspicion: first errors that leave the mask usable, then warnings.

    Raises:
        DataError: the scan cannot be used (such as one with a sheared affine), or it is a CT, the model is for MR and
            the limits refuse it.
    """
    case = scan.case
    findings = case_findings(observe_scan(case, scan.subject.channels, modality, scan.files))
    for finding in findings:
        if finding.check == value_range.CHECK and modality is not Modality.CT and limits.refuse_other_modality:
            raise DataError(
                f"case {case.name}: {finding.found}",
                expected=f"the model's modality, {modality.value}",
                fix="use a model for CT, or flag only with --set limits.refuse_other_modality=false",
            )
        if finding.level is Level.ERROR and finding.check not in _FLAGGED_ERRORS:
            raise DataError(f"case {case.name}: {finding.found}", fix=finding.fix)
    worst_first = sorted(findings, key=lambda finding: -finding.level.rank)
    return [finding.found for finding in worst_first if finding.level is not Level.INFO]


def chain_reasons(records: Sequence[Record]) -> list[str]:
    """What the preprocessing steps found implausible, each after the name of the step."""
    return [f"{record['step']}: {reason}" for record in records for reason in record["suspect"]]


def unlike_training(facts: CaseFacts, training: TrainingFingerprint, limits: SuspicionLimits) -> list[str]:
    """Numbers of a scan that lie far outside those of the training cases, each with the training span."""
    contrast = other_contrast(facts, training, limits.contrast)
    return [*contrast, *_geometry(facts, training, limits), *_intensities(facts, training, limits)]


def other_contrast(facts: CaseFacts, training: TrainingFingerprint, factor: float) -> Iterator[str]:
    """Reports channels whose contrast differs from that of the training cases.

    Args:
        facts: of the case.
        training: of the training cases; older models lack the profiles, and nothing is reported.
        factor: largest distance as a multiple of the training cases' own spread.
    """
    for channel, profile in training.tissues.items():
        own = facts.tissues.get(channel)
        if not own:
            continue
        apart = training.white_over_grey[channel]
        other = profile.distance(tissue_profile(own)) > max(factor * profile.spread, _LEAST_TISSUES)
        if other or apart.distance((white_over_grey(own),)) > max(factor * apart.spread, _LEAST_WHITE_GREY):
            usual = _order(dict(zip(sorted(own), profile.mean, strict=True)))
            yield f"{channel}: a different contrast from training ({_order(own)}; in training {usual})"
    for channel, profile in training.histogram.items():
        if channel in training.tissues and channel in facts.tissues:
            # Lesions change the histogram more than a different contrast does.
            continue
        away = profile.distance(facts.histogram[channel]) if channel in facts.histogram else 0.0
        if away > max(factor * profile.spread, _LEAST_HISTOGRAM):
            yield (
                f"{channel}: the shape of the histogram lies {plain_number(away, 2)} standard deviations from the "
                f"training cases, which lie within {plain_number(profile.spread, 2)} of each other"
            )


def _order(tissues: Mapping[str, float]) -> str:
    """Tissues with their means, the brightest first."""
    ordered = sorted(tissues.items(), key=lambda item: -item[1])
    # Adding 0 turns −0 into 0.
    return ", ".join(f"{name} {round(value, 1) + 0.0:.1f}" for name, value in ordered)


def _geometry(facts: CaseFacts, training: TrainingFingerprint, limits: SuspicionLimits) -> Iterator[str]:
    for axis, spacing, span in zip(_AXES, facts.spacing, training.spacing, strict=True):
        if _beyond(spacing, span, limits.size):
            yield f"spacing {axis} is {plain_number(spacing)} mm, in training {_shown(span)} mm"
    extents = [n * s for n, s in zip(facts.shape, facts.spacing, strict=True)]
    for axis, extent, span in zip(_AXES, extents, training.extent, strict=True):
        if _beyond(extent, span, limits.size):
            yield f"the field of view {axis} is {plain_number(extent)} mm, in training {_shown(span)} mm"
    if _beyond(facts.mask_ml, training.mask_ml, limits.size):
        yield f"the mask has {plain_number(facts.mask_ml)} ml, in training {_shown(training.mask_ml)} ml"


def _intensities(facts: CaseFacts, training: TrainingFingerprint, limits: SuspicionLimits) -> Iterator[str]:
    """The percentile of each channel that lies farthest out; of raw means only the sign, because MR has no unit."""
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
            yield f"{channel}: the mean before scaling is {plain_number(mean)}, in training {_shown(raw)}"


def beyond_the_gates(judgements: Iterable[Judgement]) -> list[str]:
    """Says to which gates of a model a scan is unlike those of the training, if it is."""
    return [_beyond_words(own) for own in judgements if own.beyond]


def _beyond_words(own: Judgement) -> str:
    value, span = plain_number(own.value), plain_span(own.low, own.high)
    shown = "more than 99.99" if own.percentile > 0.9999 else f"{100 * own.percentile:.2f}"
    if own.score == FEATURES:
        return (
            f"the features of the network lie {value} from those of the training scans (Mahalanobis distance; {span} "
            f"between these), farther than in {shown} % of scans like them"
        )
    return (
        f"the {own.score} scores the scan {value}, and scans of other patients of the study {span}: higher than "
        f"{shown} % of scans like them"
    )


def implausible_structures(volumes: Mapping[str, float], spans: Mapping[str, Span], factor: float) -> list[str]:
    """Structures that were not found, or whose volume in ml lies far from the training cases."""
    reasons = []
    for name, volume in volumes.items():
        span = spans.get(name)
        if volume == 0:
            reasons.append(f"no {name} found")
        elif span is not None and _beyond(volume, span, factor):
            reasons.append(f"{name} has {plain_number(volume)} ml, in training {_shown(span)} ml")
    return reasons


def _beyond(value: float, span: Span, factor: float) -> bool:
    return value < span.low / factor or value > span.high * factor


def _distance(value: float, span: Span) -> float:
    return max(span.low - value, value - span.high, 0.0)


def _shown(span: Span) -> str:
    return plain_span(span.low, span.high)

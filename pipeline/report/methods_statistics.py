"""Methods: sentences on metrics, empty masks, intervals and tests, and software."""

from __future__ import annotations

from pipeline.evaluation.case_row import METRICS
from pipeline.evaluation.measure_titles import metric_title
from pipeline.evaluation.options import EvaluationOptions, EvaluationSpace
from pipeline.evaluation.statistics import FEWEST_PATIENTS_FOR_P, why_no_interval
from pipeline.metrics.overlap import EmptyMaskPolicy
from pipeline.report.number_text import plain
from pipeline.report.section import Material, listing
from pipeline.report.study_files import StudyFiles

_POLICIES = {
    EmptyMaskPolicy.REWARD_AGREEMENT: "an absent structure that was not predicted scored one, a false one zero",
    EmptyMaskPolicy.SKIP_AGREEMENT: "an absent structure that was not predicted is left out, a false one scored zero",
    EmptyMaskPolicy.SKIP_EMPTY_REFERENCE: "cases without the structure are left out",
}


_SPACES = {
    EvaluationSpace.NATIVE: "on the original grid of each scan, where masks were made of the probabilities carried "
    "there, against the reference as it was drawn,",
    EvaluationSpace.PREPROCESSED: "on the preprocessed grid",
}


def measure_sentences(files: StudyFiles) -> list[str]:
    """Describes the metrics and what empty masks gave."""
    options = files.options(EvaluationOptions, "evaluation") or EvaluationOptions()
    measured = {row.metric.partition("[")[0] for row in files.summary} or {"dice", "iou"}
    names = [m.words.format(tolerance=options.surface_tolerance) for name, m in METRICS.items() if name in measured]
    policy = options.empty_masks
    sentences = [
        f"Predictions were measured {_SPACES[options.space]} by {listing(names)}.",
        f"Where a mask was empty, {_POLICIES[policy]}; a structure that was present and missed got the worst value.",
    ]
    others = {metric: str(own) for metric, own in options.policies().items() if own != policy}
    if others:
        exceptions = listing([f"{metric_title(name)} ({p.replace('_', ' ')})" for name, p in others.items()])
        sentences.append(f"A different policy for empty masks applied to {exceptions}.")
    return sentences


def statistics_sentences(material: Material) -> list[str]:
    """Describes averages, intervals and tests as they were carried out."""
    files, study = material.files, material.files.study
    text = "Metrics were averaged over the labels of a case, the cases of a patient, then patients and repeats"
    few = None if study is None else why_no_interval(len(study.patients))
    if few is not None:
        return [f"{text}; {few}, so that arms were not compared."]
    text += (
        "; 95\N{NO-BREAK SPACE}% intervals are percentiles of a bootstrap that resamples patients and repeats "
        "independently, with the same draws for every arm"
    )
    sentences = [f"{text} ({plain(files.table_settings.resamples)} resamples)."]
    if study is None:
        return sentences
    rivals = [f"“{arm}”" for arm in files.table_settings.rivals if arm in study.arms]
    if rivals:
        others = f"the best of the non-Bayesian arms {listing(rivals)}" if len(rivals) > 1 else f"the arm {rivals[0]}"
        text = f"At each n, every arm was compared with {others} by the paired difference of Dice"
        if len(study.patients) >= FEWEST_PATIENTS_FOR_P:
            text += ", tested by a Wilcoxon signed-rank test on per-patient means with Holm's correction over the arms"
        else:
            text += f"; with fewer than {FEWEST_PATIENTS_FOR_P} test patients no test was made"
        sentences.append(text + ".")
    return sentences


def software_sentences(files: StudyFiles) -> list[str]:
    """Names the software, its versions and the device."""
    record = files.provenance
    if record is None or not record.graft_version:
        return []
    stack = [f"{name} {version}" for key, name in _STACK.items() if (version := record.versions.get(key))]
    text = f"All steps were carried out with Graft {record.graft_version}" + (f" on {listing(stack)}" if stack else "")
    device, commit = record.machine.device, record.git_commit.split(" ")[0][:10]
    text += f" (commit {commit})" if commit else ""
    text += f"; networks were trained on {device}" if device and device != "auto" else ""
    seed = files.setting("seed")
    return [text + (f"; the seed of all randomness was {seed}" if seed is not None else "") + "."]


_STACK = {"python": "Python", "torch": "PyTorch", "monai": "MONAI", "SimpleITK": "SimpleITK"}

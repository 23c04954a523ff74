"""Methods: sentences on the data, the roles of the patients, and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.report.section import listing
from pipeline.report.source_use import SourceUse
from pipeline.report.study_files import StudyFiles
from preprocessing.alignment import AlignmentKind, AlignmentOptions
from preprocessing.chain import PreprocessingOptions
from preprocessing.intensity import IntensityOptions, Scaling
from preprocessing.resampling import ResamplingOptions
from preprocessing.skull_strip import SkullStripMethod

_MODALITIES = {
    "mr_head": "MR scans of the head",
    "mr_brain": "skull-stripped MR scans of the brain",
    "mr": "MR scans",
    "ct": "CT scans",
}
_STRIPPING = {
    SkullStripMethod.COMBINED: "masking the brain by the consensus of a segmentation network and a registered template",
    SkullStripMethod.NETWORK: "masking the brain with a segmentation network",
    SkullStripMethod.TEMPLATE: "masking the brain by registration of a template",
    SkullStripMethod.CONTENT: "taking the foreground of the skull-stripped scans as the brain mask",
}


_ROLES = ("source", "target")


def roles(files: StudyFiles) -> dict[str, int]:
    """Number of patients by role (`source`, `pool`, `test`), from the plan that `check` wrote; empty without one."""
    return {} if files.plan is None else {role: len(patients) for role, patients in files.plan.split.items()}


def dataset_title(files: StudyFiles, role: str) -> str | None:
    """Prints a role's dataset and structures, e.g. `hippocampus (anterior)`; None where the configuration lacks it."""
    name = files.setting(role, "dataset")
    if name is None:
        return None
    foreground = files.setting("datasets", name, "foreground", default=())
    return f"{name} ({', '.join(str(label) for label in foreground)})" if foreground else str(name)


def synthetic_warning(files: StudyFiles) -> str | None:
    """Says that scans of this study are synthetic, and what its figures are worth then; None where all are real."""
    synthetic = [role for role in _ROLES if files.setting("datasets", files.setting(role, "dataset"), "synthetic")]
    if not synthetic:
        return None
    which = "These" if len(synthetic) == len(_ROLES) else f"The {synthetic[0]} scans"
    scans = " are synthetic scans" if len(synthetic) == len(_ROLES) else " are synthetic"
    return f"{which}{scans}: the figures show that the software works, not how good the method is."


def data_sentences(files: StudyFiles, use: SourceUse) -> list[str]:
    """Describes source and target, and who was trained and tested on.

    Args:
        files: of the study.
        use: what the arms that are described use of the source.
    """
    source, target, counts = _dataset(files, "source"), _dataset(files, "target"), roles(files)
    if source is None or target is None:
        return []
    if learned := use.learned():
        sentences = [f"{learned} on the source dataset {source}, and used on the target dataset {target}."]
    else:
        sentences = [f"The target dataset is {target}; nothing was taken from the source dataset {source}."]
    if counts:
        sentences.append(
            f"The source comprised {_patients(counts.get('source', 0))}; target training sets were drawn from a pool "
            f"of {_patients(counts.get('pool', 0))}, and {counts.get('test', 0)} others formed the test set, the same "
            "for every arm. Splits and resampling were by patient."
        )
    return sentences


def _patients(count: int) -> str:
    return f"{count} patient" + ("s" if count != 1 else "")


def _dataset(files: StudyFiles, role: str) -> str | None:
    name = files.setting(role, "dataset")
    if name is None:
        return None
    about = files.setting("datasets", name, default={})
    kind = _MODALITIES.get(str(about.get("modality")), "scans")
    if about.get("synthetic"):
        kind = "synthetic " + kind
    channels, foreground = about.get("channels") or (), about.get("foreground") or ()
    text = f"“{name}” ({kind}"
    text += f", {listing([str(c) for c in channels])}" if channels else ""
    if isinstance(foreground, Mapping):
        merged = {n: v for n, v in foreground.items() if len(v) > 1}
        text += f"; structures: {listing([str(n) for n in foreground])}"
        text += "".join(f", where {n} joins {listing([str(v) for v in labels])}" for n, labels in merged.items())
    elif foreground:
        text += f"; structure: {' with '.join(str(label) for label in foreground)}"
    return text + ")"


def preprocessing_sentences(files: StudyFiles) -> list[str]:
    """Describes the chain of the target, and what differs on the source."""
    source, target = (_steps(files, files.setting(role, "dataset")) for role in _ROLES)
    if not target:
        return []
    if not source or source == target:
        which = "of all scans " if source else ""
        return [f"Preprocessing {which}comprised {listing(target)}."]
    return [
        f"Preprocessing of the source scans comprised {listing(source)}.",
        f"Preprocessing of the target scans comprised {listing(target)}.",
    ]


def _steps(files: StudyFiles, dataset: str) -> list[str]:
    chain = files.options(PreprocessingOptions, "datasets", dataset, "preprocessing")
    if chain is None:
        return []
    several = len(files.setting("datasets", dataset, "channels") or ()) != 1
    steps = (
        chain.padding_removal and "removal of padding and of wide borders of air",
        chain.canonical_orientation and "reorientation to the nearest right–anterior–superior grid",
        chain.coregistration and several and "rigid registration of all channels to the first",
        chain.bias_field and "N4 correction of the bias field",
        chain.skull_strip and _STRIPPING.get(chain.skull_strip.method, "masking the brain"),
        chain.alignment and _alignment(chain.alignment),
        chain.resampling and _resampling(chain.resampling),
        chain.intensity and _intensity(chain.intensity),
        chain.cropping and f"cropping to the content with a margin of {chain.cropping.margin:g} mm",
        chain.padding and "padding",
    )
    return [words for words in steps if words]


def _alignment(options: AlignmentOptions) -> str:
    if options.kind is AlignmentKind.NONE:
        return "no alignment"
    return f"{options.kind} registration to the ICBM-152 template"


def _resampling(options: ResamplingOptions) -> str:
    spacing = options.spacing
    if len(set(spacing)) == 1:
        return f"resampling to {spacing[0]:g} mm isotropic voxels"
    return f"resampling to {' × '.join(f'{s:g}' for s in spacing)} mm"


def _intensity(options: IntensityOptions) -> str:
    window = f"{options.window_low:g} to {options.window_high:g}".replace("-", "−")
    return {
        Scaling.ZSCORE: f"clipping of each channel to its percentiles {options.lower_percentile:g} and "
        f"{options.upper_percentile:g} and scaling to zero mean and unit variance",
        Scaling.WINDOW: f"clipping to the window {window} and scaling to the range from 0 to 1",
        Scaling.WINDOW_ZSCORE: f"clipping to the window {window} and scaling to zero mean and unit variance inside it",
    }[options.scaling]

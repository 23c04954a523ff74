"""Methods: a paragraph made from the resolved configuration, and the configuration itself."""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.evaluation.metrics import EmptyMaskPolicy
from pipeline.report.section import Material, Section, listing
from pipeline.report.study_files import StudyFiles, folders, nested, read_mapping

_POLICIES = {
    EmptyMaskPolicy.REWARD_AGREEMENT: "an absent structure that was not predicted scored one, a false one zero",
    EmptyMaskPolicy.SKIP_AGREEMENT: "an absent structure that was not predicted is left out, a false one scored zero",
    EmptyMaskPolicy.SKIP_EMPTY_REFERENCE: "cases without the structure are left out",
}


def method_section(material: Material) -> Section:
    """Builds the section of methods from `config.resolved.yaml` and what the stages wrote."""
    files = material.files
    if not files.config:
        text = "config.resolved.yaml is missing: every command writes it, so the settings of this study are not known."
        return Section("methods", "Methods", missing=(text,))
    sentences = [*_data(files), *_training(files), *_arms(files), *_measures(files)]
    text = yaml.safe_dump(files.config, sort_keys=False, allow_unicode=True, width=100)
    return Section("methods", "Methods", {"paragraph": " ".join(sentences), "config": text})


def roles(files: StudyFiles) -> dict[str, int]:
    """Number of patients by role (`source`, `pool`, `test`), from the plan that `check` wrote; empty without one."""
    split = nested(read_mapping(files.root / "check/study/study.json"), "split", default={})
    return {role: len(patients) for role, patients in split.items()}


def dataset_title(files: StudyFiles, role: str) -> str | None:
    """Prints a role's dataset and structures, e.g. `hippocampus (anterior)`; None where the configuration lacks it."""
    name = nested(files.config, role, "dataset")
    if name is None:
        return None
    foreground = nested(files.config, "datasets", name, "foreground", default=())
    return f"{name} ({', '.join(str(label) for label in foreground)})" if foreground else str(name)


def _data(files: StudyFiles) -> list[str]:
    source, target, counts = dataset_title(files, "source"), dataset_title(files, "target"), roles(files)
    if source is None or target is None:
        return []
    text = f"Filter priors were learned on the source {source} and used on the target {target}."
    if counts:
        text += (
            f" The source had {counts.get('source', 0)} patients; target training sets were drawn from a pool of "
            f"{counts.get('pool', 0)} patients, and {counts.get('test', 0)} others were the test set of every arm."
        )
    name = nested(files.config, "target", "dataset")
    chain = nested(files.config, "datasets", name, "preprocessing", default={})
    steps = [str(key).replace("_", " ") for key, value in chain.items() if isinstance(value, dict)]
    return [text, f"Preprocessing comprised the steps {listing(steps)}."] if steps else [text]


def _training(files: StudyFiles) -> list[str]:
    source = nested(files.config, "source_training", default={})
    networks = source.get("networks") or len(folders(files.root / "train-source"))
    if not networks:
        return []
    text = f"{networks} source networks were trained, each on its own bootstrap sample of the source patients"
    if source.get("cycles"):
        text += f", with a cyclical learning rate and a snapshot at the end of each of {source['cycles']} cycles"
    return [
        text + ".",
        "Densities over their 3×3×3 convolution filters were fitted separately for each group of layers.",
    ]


def _arms(files: StudyFiles) -> list[str]:
    arms = list(nested(files.config, "inference", "arms", default=())) or (
        list(files.study.arms) if files.study else []
    )
    if not arms:
        return []
    study = files.study
    sizes = nested(files.config, "inference", "sizes") or (study.sizes if study else ())
    repeats = nested(files.config, "inference", "repeats") or (len(study.repeats) if study else 0)
    text = f"On the target, the arms {listing([str(a) for a in arms])} were compared at n = "
    text += f"{listing([str(n) for n in sizes])} annotated patients with {repeats} repeat{'s' if repeats != 1 else ''}"
    steps = nested(files.config, "inference", "steps")
    return [text + (f" of {steps} optimiser steps." if steps else "."),
            "Every arm saw the same patients, number of steps and augmentation."]  # fmt: skip


def _measures(files: StudyFiles) -> list[str]:
    evaluation: dict[str, Any] = nested(files.config, "evaluation", default={})
    text = (
        "Dice and intersection over union were averaged over the labels of a case, the cases of a patient, then "
        "patients and repeats; 95 % intervals are percentiles of a bootstrap that resamples patients and repeats "
        "independently, with the same draws for every arm"
    )
    if evaluation.get("resamples"):
        text += f" ({evaluation['resamples']} resamples)"
    policy = evaluation.get("empty_masks")
    sentences = [text + "."]
    if policy in set(EmptyMaskPolicy):
        sentences.append(
            f"Where a mask was empty, {_POLICIES[EmptyMaskPolicy(policy)]}; a structure that was missed scored zero."
        )
    return sentences

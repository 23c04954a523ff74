"""The translation of source images: which scans of the target it may use, and its unit, the first of `train-source`.

translate-source/KIND        what a translation knows of scans, and what it does to patches and pictures
"""

from __future__ import annotations

from data.errors import DataError
from pipeline.execution.unit import Unit
from pipeline.stages.study_plan import StudyPlan
from pipeline.stages.untested_scans import require_scans, untested_patients
from pipeline.storage.cached_image import CachedImage
from pipeline.storage.file_names import TRANSLATIONS
from pipeline.training.image_model_options import Scans
from pipeline.training.translation_options import NoTranslation, RandomContrast
from pipeline.training.translation_preparation import TranslationTask, prepare_translation

_KEY = "source.translate"


def target_patients(plan: StudyPlan) -> dict[str, list[str]]:
    """Returns the target patients whose scans the translation of the source may use, by role; nobody who is tested.

    Raises:
        DataError: source and target have other numbers of channels, or the scans are too few.
    """
    if plan.config.source is None or isinstance(plan.config.source.translate, NoTranslation):
        return {}
    options = plan.config.source.translate
    source, target = (plan.channels[name] for name in (plan.dataset_of("source"), plan.config.target.dataset))
    if len(source) != len(target):
        raise DataError(
            f"`{_KEY}` is {options.kind}, and the source has the channels {', '.join(source)}, the target "
            f"{', '.join(target)}",
            expected="as many channels of the source as of the target: each is translated to the one in its place",
            fix=f"set `channels` of both datasets, or leave out `{_KEY}`",
        )
    found = untested_patients(plan, (Scans.POOL, Scans.UNLABELLED))
    # It needs none: those that are there are compared with what it makes.
    if not isinstance(options, RandomContrast):
        require_scans(
            plan,
            found,
            f"`{_KEY}: {options.kind}`",
            "scans of target patients who are not tested",
            "add scans to the pool or `target.unlabelled`, or choose `random_contrast`, which needs none",
        )
    return found


def translation_unit(plan: StudyPlan) -> Unit | None:
    """The unit that prepares the translation of the source; None without one.

    Raises:
        DataError: source and target have other numbers of channels, or the scans are too few.
        WorkspaceError: a scan is not preprocessed.
    """
    config = plan.config
    if config.source is None or isinstance(config.source.translate, NoTranslation):
        return None
    options, learned = config.source.translate, target_patients(plan)
    for role, patients in learned.items():
        # Said with the stage that makes it, where one is missing.
        plan.digests(role, patients)
    of_source = plan.digests("source", list(plan.patients("source")))
    targets = {
        role: {patient: [CachedImage.of(case) for case in plan.cached(role, patient)] for patient in patients}
        for role, patients in learned.items()
    }
    source = [case for patient in plan.patients("source") for case in plan.cached("source", patient)]
    task = TranslationTask(config.seed, options, source, targets, config.patches)
    recipe = {
        "options": options.in_recipe(),
        # What is made from labels depends on them; of all else, images alone count.
        "source": of_source
        if isinstance(options, RandomContrast)
        else {case.name: case.image_digest for case in source},
        "targets": {scan.name: scan.image_digest for scan in task.target_scans},
        "patch": list(config.patches.size),
        "seed": config.seed,
        "version": 1,
    }
    if isinstance(options, RandomContrast):
        recipe |= plan.labels(plan.dataset_of("source"))
    return Unit(TRANSLATIONS, options.kind, recipe, prepare_translation, {"task": task})

"""Image models: which scans they learn from, and their trainings, the first units of `infer`.

train-image-model/NAME       an image model of the study
fit-gates/NAME               one that tells later which scans are unlike the study's, with its scores of tested patients
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.deployment.gate import LEAST_PATIENTS
from pipeline.deployment.image_gate import MOST_SCANS, ImageGateTask, fit_image_gate, scores_scans
from pipeline.execution.unit import Unit
from pipeline.stages.resources import Resources
from pipeline.stages.settled_computing import settled_computing
from pipeline.stages.source_snapshots import source_snapshots
from pipeline.stages.study_plan import StudyPlan
from pipeline.stages.untested_scans import require_scans, untested_patients
from pipeline.storage.cached_image import CachedImage
from pipeline.storage.file_names import IMAGE_GATES, IMAGE_MODELS
from pipeline.training.image_model_options import ImageModelOptions
from pipeline.training.image_model_training import ImageModelTask, of_images, train_image_model


def patients_learned_from(plan: StudyPlan, name: str) -> dict[str, list[str]]:
    """Returns the patients whose scans an image model learns from, by role; nobody who is tested.

    Args:
        plan: of the study.
        name: of the model.

    Raises:
        DataError: their scans are too few.
    """
    found = untested_patients(plan, plan.config.image_models[name].learn_from)
    require_scans(
        plan,
        found,
        f"the image model {name!r}",
        "scans of patients who are not tested, with the channels of the target",
        f"add scans to the source, the pool or `target.unlabelled`, or leave out `image_models.{name}` and the arms "
        "that start from it",
    )
    return found


def image_model_units(plan: StudyPlan, resources: Resources) -> dict[str, Unit]:
    """One unit for each image model of the study, by its name.

    Raises:
        DataError: a model has too few scans to learn from.
        WorkspaceError: a scan is not preprocessed, or the source network that a model goes on from is not trained.
    """
    models = plan.config.image_models
    if not models:
        return {}
    execution, device = resources.training(plan.config)
    workers = resources.workers(plan.config, IMAGE_MODELS, len(models))
    return {name: _unit(plan, name, own, device, execution.threads, workers) for name, own in models.items()}


def image_gate_units(plan: StudyPlan, resources: Resources, image_models: Mapping[str, Unit]) -> dict[str, Unit]:
    """One unit for each image model that can tell which scans are unlike those of the study, by its name.

    It is calibrated by the scans of tested patients, of whom no image model has seen any; with too few of them, nothing
    is known of what is usual.

    Raises:
        WorkspaceError: a scan is not preprocessed.
    """
    patients = list(plan.patients("test"))
    if len(patients) < LEAST_PATIENTS:
        return {}
    own = {name: unit for name, unit in image_models.items() if scores_scans(plan.config.image_models[name].objective)}
    device = resources.training(plan.config)[1] if own else ""
    found = {}
    for name, unit in own.items():
        plan.digests("test", patients)
        cases = [case for patient in patients for case in plan.cached("test", patient)][:MOST_SCANS]
        recipe = {"image_model": unit.digest, "images": {case.name: case.image_digest for case in cases}, "version": 1}
        task = ImageGateTask(plan.workspace.unit_folder(unit.stage, unit.key), cases, device)
        found[name] = Unit(IMAGE_GATES, name, recipe, fit_image_gate, {"task": task}, needs=(unit.name,))
    return found


def _unit(plan: StudyPlan, name: str, options: ImageModelOptions, device: str, threads: int, workers: int) -> Unit:
    config, learned = plan.config, patients_learned_from(plan, name)
    for role, patients in learned.items():
        # Said with the stage that makes it, where one is missing.
        plan.digests(role, patients)
    scans = {role: {patient: _images(plan, role, patient) for patient in own} for role, own in learned.items()}
    source = source_snapshots(plan, [0])[0] if options.from_source else None
    computing = settled_computing(config, plan.workspace, device)
    patches = config.patches.model_copy(update={"foreground_share": 0.0})
    augmentation = of_images(config.augmentation)
    recipe = {
        # Of the images alone: another label of a patient makes no image model stale.
        "images": {own.name: own.image_digest for of_role in scans.values() for s in of_role.values() for own in s},
        "options": options.in_recipe(),
        **({} if source is None else {"source": source[0]}),
        "network": config.network.model_dump(mode="json"),
        "patches": patches.model_dump(mode="json"),
        "augmentation": augmentation.model_dump(mode="json"),
        "computing": computing.model_dump(mode="json"),
        "seed": config.seed,
        "threads": threads,
        "version": 1,
    }
    task = ImageModelTask(
        name, config.seed, scans, config.network, options, patches, augmentation, computing,
        None if source is None else source[1],
    )  # fmt: skip
    arguments = {
        "task": task,
        "device": device,
        "workers": workers,
        "tracking": config.tracking,
        "checkpoint_steps": config.execution.checkpoint_steps,
        "checkpoint_seconds": 60 * config.execution.checkpoint_minutes,
    }
    return Unit(IMAGE_MODELS, name, recipe, train_image_model, arguments, float(options.steps), resumable=True)


def _images(plan: StudyPlan, role: str, patient: str) -> Sequence[CachedImage]:
    return [CachedImage.of(case) for case in plan.cached(role, patient)]

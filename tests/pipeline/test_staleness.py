"""Which option makes which units stale: read from the recipes, all the way down, without training anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.arms.choices import ArmOptions
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.cli import main
from pipeline.config.reading import read_config
from pipeline.evaluation.options import EvaluationOptions
from pipeline.execution.unit import MARKER, Unit, is_done
from pipeline.priors.filter_options import FilterOptions, PriorFitOptions
from pipeline.stages.resources import Resources
from pipeline.stages.stale_results import COMPARED, stage_module
from pipeline.stages.target_plan import plan_target
from pipeline.storage.atomic import write_json
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace
from pipeline.training.image_model_options import ImageModelOptions
from pipeline.training.patches import PatchOptions
from pipeline.training.source_options import SourceTrainingOptions

TRUNK = "train-trunk"
SOURCE = ("train-source", "collect-filters", "measure-filters")
FITS, SCORES = ("fit-priors",), ("score-priors", "compare-priors")
TRAINED, PREDICTED, READ = ("train-target",), ("predict-test",), ("infer", "evaluate")
TARGET = (*TRAINED, *PREDICTED, *READ)
FROM_SOURCE = (*SOURCE, *FITS, *SCORES, *TARGET)
EVERYTHING = ("check", "preprocess", *FROM_SOURCE)

# The arm of these options is `dwp`, which has a fitted prior and a posterior; `fine_tune` and `swag` stand beside it.
STALE: dict[str, tuple[str, ...]] = {
    "title=other": (),
    "report.case_pages=1": (),
    "tracking.tensorboard='off'": (),
    "execution.checkpoint_steps=3": (),
    "execution.checkpoint_minutes=1": (),
    "execution.workers=0": (),
    "execution.backend=in_process": (),
    "execution.threads=2": FROM_SOURCE,
    "computing.channels_last=true": FROM_SOURCE,
    "seed=5": EVERYTHING,
    "datasets.right.ignore=left": ("check", "preprocess", *TARGET),
    "datasets.right.foreground={both: [left, right], right: [right]}": ("check", *TARGET),
    "source.patients=2": ("check", *FROM_SOURCE),
    "source.translate=random_contrast": ("translate-source", *FROM_SOURCE),
    "source.translate=none": (),
    # The source is drawn after the test patients, so it is drawn again if both are in one folder.
    "target.test=1": ("check", "preprocess", *FROM_SOURCE),
    # One more patient is left in the folder; no arm learns from the scan.
    "target.unlabelled={withhold_labels: true}": ("check", "preprocess"),
    "preprocessing.padding={multiple: 3}": ("preprocess", *FROM_SOURCE),
    "network.channels=[4, 8]": FROM_SOURCE,
    "patches.size=[10, 12, 12]": FROM_SOURCE,
    "patches.batch=2": FROM_SOURCE,
    "patches.foreground_share=0.1": FROM_SOURCE,
    "augmentation.noise=0.3": FROM_SOURCE,
    "source_training.networks=3": FROM_SOURCE,
    "source_training.cycles=3": FROM_SOURCE,
    "source_training.steps_per_cycle=4": FROM_SOURCE,
    "source_training.peak_rate=0.1": FROM_SOURCE,
    "source_training.floor_rate=0.0001": FROM_SOURCE,
    "source_training.warm_up=2": FROM_SOURCE,
    "source_training.likelihood=cross_entropy": FROM_SOURCE,
    "source_training.trunk_steps=3": (TRUNK, *FROM_SOURCE),
    "source_training.optimiser.weight_decay=0.1": FROM_SOURCE,
    "source_training.optimiser.decay=decoupled": FROM_SOURCE,
    "source_training.optimiser.decayed=kernels": FROM_SOURCE,
    "source_training.validation_cases=2": (),
    "filters.grouping=layer": (*SOURCE[1:], *FITS, *SCORES, *TARGET),
    "filters.norm_threshold=0.02": ("measure-filters", *FITS, *SCORES, *TARGET),
    "filters.most_start=0.5": (),
    "priors.densities.vae.latent=3": (*FITS, *SCORES, *TARGET),
    "priors.densities.isotropic.scaling=layer": (*FITS, *SCORES),
    "priors.densities.other={kind: gaussian}": (*FITS, *SCORES),
    "priors.densities.dead={kind: spike_and_slab}": (*FITS, *SCORES),
    "priors.densities.change={kind: displacement}": ("collect-starts", *FITS, *SCORES),
    "priors.scaling=layer": (*FITS, *SCORES, *TARGET),
    "priors.largest_fit=2000": (*FITS, *SCORES, *TARGET),
    "priors.refit=false": (*FITS, *SCORES, *TARGET),
    "priors.held_out=cross": SCORES,
    "priors.held_out_networks=2": SCORES,
    "priors.folds=3": (),
    "priors.score_samples=3": SCORES,
    "priors.largest_score=200": SCORES,
    "target_training.sizes=[1]": (),
    "target_training.reference_sizes=[]": (),
    "target_training.repeats=2": TARGET,
    "target_training.steps=5": TARGET,
    "target_training.floor_rate=0.0001": TARGET,
    "target_training.likelihood=cross_entropy": TARGET,
    "target_training.log_every=1": (),
    # Of one and two patients nothing is fitted.
    "target_training.inner_folds=2": (),
    # Only `random` has a size with inner folds. Its arm is planned anew when its rate is known.
    "target_training.tune=inner_folds": ("train-target", "predict-test", "tune-rates"),
    "target_training.tuned_rates=[0.1, 0.2]": (),
    "target_training.arms.dwp.fit_reading=true": READ,
    "target_training.optimiser.weight_decay=0.1": TARGET,
    "target_training.optimiser.decay=l2": TARGET,
    "target_training.optimiser.decayed=kernels": TARGET,
    "sliding_window.overlap=0.5": (*PREDICTED, *READ),
    "target_training.arms.dwp.init=source": TARGET,
    "target_training.arms.dwp.trainable=decoder": TARGET,
    "target_training.arms.dwp.prior=isotropic": TARGET,
    "target_training.arms.dwp.posterior={kind: point}": TARGET,
    "target_training.arms.dwp.bayesian_scope=all": TARGET,
    "target_training.arms.dwp.members=2": TARGET,
    "target_training.arms.dwp.peak_rate=0.1": TARGET,
    "target_training.arms.dwp.warm_up=0.5": TARGET,
    "target_training.arms.dwp.posterior_temperature=0.5": TARGET,
    "target_training.arms.dwp.kl_warm_up=0.5": TARGET,
    "target_training.arms.dwp.spared=last_block": TARGET,
    "target_training.arms.dwp.prior_samples=2": TARGET,
    "target_training.arms.dwp.filter_share=0.5": TARGET,
    "target_training.arms.dwp.train_samples=2": TARGET,
    "target_training.arms.dwp.log_variance_rate=2": TARGET,
    "target_training.arms.dwp.encoder_rate=2": TARGET,
    "target_training.arms.dwp.draws=39": (*PREDICTED, *READ),
    "target_training.arms.swag.posterior={kind: swag, scale: 0.5}": (*PREDICTED, *READ),
    "target_training.arms.swag.posterior={kind: swag, rank: 3}": TARGET,
    "target_training.arms.dwp.logit_temperature=2": READ,
    "target_training.arms.dwp.mask=expected_dice": READ,
    "target_training.arms.dwp.post_processing={right: {keep: largest}}": READ,
    "target_training.arms.dwp.voxel_correlation=0.2": READ,
    # What an arm does not use: its record says it, its training is the same.
    "target_training.arms.dwp.other_std=3": READ,
    "target_training.arms.dwp.layer_scale_weight=0.5": READ,
    "target_training.arms.dwp.other_prior=normal": READ,
    "target_training.arms.dwp.l2_std=3": READ,
    "target_training.arms.dwp.l2_sp_std=3": READ,
    "target_training.arms.dwp.update_share=0.1": READ,
    "target_training.arms.fine_tune.posterior_temperature=0.5": READ,
    "target_training.arms.fine_tune.draws=39": READ,
    "target_training.arms.random.network={name: unet, channels: [4, 8]}": TARGET,
    "evaluation.space=preprocessed": ("evaluate",),
    "evaluation.empty_masks=skip_agreement": ("evaluate",),
    "evaluation.empty_masks_by_metric={hd95: skip_agreement}": ("evaluate",),
    "evaluation.surface_tolerance=1": ("evaluate",),
    "evaluation.lesions={}": ("evaluate",),
    "evaluation.calibration.bins=5": ("evaluate",),
    "evaluation.resamples=200": (),
    "evaluation.rivals=[random]": (),
}  # fmt: skip
SECTIONS = {
    "source_training": SourceTrainingOptions,
    "filters": FilterOptions,
    "priors": PriorFitOptions,
    "patches": PatchOptions,
    "target_training": TargetTrainingOptions,
    "target_training.arms.dwp": ArmOptions,
    "evaluation": EvaluationOptions,
}
ELSEWHERE = {
    "priors.update_from", "target_training.arms", "target_training.arms.dwp.update_from",
    "target_training.arms.dwp.network", "target_training.arms.dwp.fit_mask", "target_training.arms.dwp.layer_scale",
    "target_training.arms.dwp.image_model", "target_training.arms.dwp.unlabelled",
}  # fmt: skip
"""Options that name other studies, hold those of arms, or that `dwp` cannot have; they have tests of their own."""


def as_if_done(stage: str, units: list[Unit], workspace: Workspace) -> set[str]:
    """Marks the units that are not done as done, and returns their kinds."""
    stale = [unit for unit in units if not is_done(unit, workspace)]
    for unit in stale:
        folder = workspace.unit_folder(unit.stage, unit.key)
        folder.mkdir(parents=True, exist_ok=True)
        if unit.stage == "infer":
            unit.arguments["task"].record.write(folder)
        write_json(folder / MARKER, {"digest": unit.digest, "files": {}, "recipe": unit.recipe})
    return {unit.stage for unit in stale}


def run_marked(config_file: Path, root: Path, *changes: str) -> set[str]:
    """Runs a study like `graft run`, with marks instead of work, and returns the kinds of units that were stale."""
    config, workspace = read_config(config_file, [*changes], root), Workspace(root)
    resources = Resources(jobs=1, device="cpu")
    found: set[str] = set()
    for stage in COMPARED:
        units = stage_module(stage).units(config, workspace, resources)
        if stage in ("check", "preprocess"):
            stale = {unit.stage for unit in units if not is_done(unit, workspace)}
            if stale:
                assert main([stage, str(config_file), "--workspace", str(root), "--jobs", "1",
                             *(w for change in changes for w in ("--set", change))]) == 0  # fmt: skip
            found |= stale
            continue
        if stage == "infer":
            plan = plan_target(config, workspace, resources)
            found |= as_if_done(stage, [*plan.trainings.values(), *plan.pseudo_labels.values()], workspace)
        found |= as_if_done(stage, units, workspace)
    return found


@pytest.fixture(scope="module")
def planned(write_cohort: Callable, write_study: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was run with marks instead of work."""
    folder = tmp_path_factory.mktemp("stale")
    training = {"arms": ["random", "fine_tune", "dwp", "swag"], "sizes": [1, 2], "reference_sizes": [3]}
    config = write_study(folder / "tiny.yaml", write_cohort(folder / "cohort"), target_training=training)
    kinds = run_marked(config, folder / "workspace")
    assert kinds == set(EVERYTHING)
    assert run_marked(config, folder / "workspace") == set()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("change", STALE)
def test_an_option_makes_stale_what_depends_on_it_and_nothing_else(change: str, planned: Path, tmp_path: Path) -> None:
    shutil.copytree(planned / "workspace", tmp_path / "workspace")
    assert run_marked(planned / "tiny.yaml", tmp_path / "workspace", change) == set(STALE[change])


ON_A_TRUNK = {
    "source_training.trunk_steps=4": (TRUNK, *SOURCE, "collect-starts", *FITS, *SCORES, *TARGET),
    "source_training.trunk_steps=0": (*SOURCE, *FITS, *SCORES, *TARGET),
    "source_training.networks=4": (*SOURCE, "collect-starts", *FITS, *SCORES, *TARGET),
    "source_training.cycles=3": (*SOURCE, "collect-starts", *FITS, *SCORES, *TARGET),
    "source_training.peak_rate=0.1": (TRUNK, *SOURCE, "collect-starts", *FITS, *SCORES, *TARGET),
    "source_training.validation_cases=2": (),
    "priors.densities.gaussian_branches.shrinkage=2": (*FITS, *SCORES, *TARGET),
    "target_training.arms.gaussian_branches.layer_scale=learned": TARGET,
}


@pytest.mark.slow
def test_a_trunk_is_trained_again_only_for_what_it_depends_on(
    write_cohort: Callable, write_study: Callable, tmp_path: Path
) -> None:
    arms = ["fine_tune_branches", "gaussian_branches"]
    config = write_study(
        tmp_path / "tiny.yaml", write_cohort(tmp_path / "cohort"),
        target_training={"arms": arms, "sizes": [1], "reference_sizes": []},
        source_training={"trunk_steps": 3, "networks": 3},
    )  # fmt: skip
    assert run_marked(config, tmp_path / "planned") == {*EVERYTHING, TRUNK, "collect-starts"}
    study, workspace = read_config(config, workspace=tmp_path / "planned"), Workspace(tmp_path / "planned")
    trunk, *branches = stage_module(Stage.TRAIN_SOURCE).units(study, workspace, Resources(jobs=1, device="cpu"))
    seen = set(trunk.arguments["task"].sample.drawn)
    for branch in branches:
        task = branch.arguments["task"]
        assert branch.needs == (trunk.name,)
        assert task.trunk == workspace.unit_folder(TRUNK, "network") / "snapshot-00.safetensors"
        # Who was seen by the trunk is no evidence of how good a branch is on others.
        assert not (seen | set(task.sample.drawn)) & set(task.sample.out_of_bag)
    for number, (change, expected) in enumerate(ON_A_TRUNK.items()):
        changes = [change]
        if change == "source_training.trunk_steps=0":
            # Without it, arms of branches are refused.
            changes += ["target_training.arms={random: {}, fine_tune: {}, dwp: {}}"]
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "planned", root)
        assert run_marked(config, root, *changes) == set(expected), change


IMAGES = ("train-image-model",)
ON_AN_IMAGE_MODEL: dict[str, tuple[str, ...]] = {
    "image_models.denoising.objective=masked": (*IMAGES, *TARGET),
    "image_models.denoising.objective={kind: denoising, noise_level: 2}": (*IMAGES, *TARGET),
    "image_models.denoising.learn_from=[source, pool]": (),
    "image_models.denoising.from_source=true": ("train-source", *IMAGES, *TARGET),
    "image_models.denoising.steps=4": (*IMAGES, *TARGET),
    "image_models.denoising.peak_rate=0.1": (*IMAGES, *TARGET),
    "image_models.denoising.floor_rate=0.0001": (*IMAGES, *TARGET),
    "image_models.denoising.warm_up=0.5": (*IMAGES, *TARGET),
    "image_models.denoising.log_every=1": (),
    "image_models.denoising.optimiser.weight_decay=0.1": (*IMAGES, *TARGET),
    # A model that no arm starts from.
    "image_models.gate={objective: variational, steps: 3}": IMAGES,
    "target_training.arms.self_supervised.image_model=other": TARGET,
    "patches.foreground_share=0.1": TARGET,
    "augmentation.noise=0.3": TARGET,
    "augmentation.affine=0.1": (*IMAGES, *TARGET),
    # Of the labels, an image model knows nothing.
    "datasets.right.foreground={both: [left, right], right: [right]}": ("check", *TARGET),
}


@pytest.mark.slow
def test_an_image_model_is_trained_again_only_for_what_it_depends_on(
    write_cohort: Callable, write_study: Callable, tmp_path: Path
) -> None:
    config = write_study(
        tmp_path / "tiny.yaml", write_cohort(tmp_path / "cohort"),
        target_training={"arms": ["self_supervised"], "sizes": [1], "reference_sizes": []},
        image_models={"denoising": {"steps": 3}, "other": {"objective": "sparse", "steps": 3}},
        priors={"densities": {}},
    )  # fmt: skip
    # No arm uses the source, but its images are learned from.
    stages = run_marked(config, tmp_path / "planned")
    assert stages >= {"check", "preprocess", *IMAGES, *TARGET}
    study, workspace = read_config(config, workspace=tmp_path / "planned"), Workspace(tmp_path / "planned")
    plan = plan_target(study, workspace, Resources(jobs=1, device="cpu"))
    model, training = plan.image_models["denoising"], next(iter(plan.trainings.values()))
    assert training.needs == (model.name,)
    assert training.arguments["task"].image_model == workspace.unit_folder("train-image-model", "denoising")
    for number, (change, expected) in enumerate(ON_AN_IMAGE_MODEL.items()):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "planned", root)
        found = run_marked(config, root, change)
        assert found - {*SOURCE, *FITS, *SCORES} == {*expected} - {*SOURCE}, change
    told = {change.partition("=")[0].split(".")[2] for change in ON_AN_IMAGE_MODEL if ".denoising." in change}
    assert told == set(ImageModelOptions.model_fields)


TRANSLATED = {
    # What is known of scans stays; only trainings draw other patches.
    "source.translate.share=0.5": FROM_SOURCE,
    "source.translate.classes=3": ("translate-source", *FROM_SOURCE),
    "patches.batch=2": FROM_SOURCE,
}


@pytest.mark.slow
def test_a_translation_is_prepared_again_only_for_what_it_depends_on(
    write_cohort: Callable, write_study: Callable, tmp_path: Path
) -> None:
    config = write_study(
        tmp_path / "tiny.yaml", write_cohort(tmp_path / "cohort"),
        source={"translate": {"kind": "random_contrast"}},
        target_training={"arms": ["dwp"], "sizes": [1], "reference_sizes": []},
    )  # fmt: skip
    assert run_marked(config, tmp_path / "planned") == {*EVERYTHING, "translate-source"}
    study, workspace = read_config(config, workspace=tmp_path / "planned"), Workspace(tmp_path / "planned")
    translation, *networks = stage_module(Stage.TRAIN_SOURCE).units(study, workspace, Resources(jobs=1, device="cpu"))
    for network in networks:
        assert network.needs == (translation.name,)
        assert network.arguments["task"].translation.folder == workspace.unit_folder(*translation.name)
    for number, (change, expected) in enumerate(TRANSLATED.items()):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "planned", root)
        assert run_marked(config, root, change) == set(expected), change


# The arm `student` learns in one round from scans whose labels are withheld; `random` does not.
TAUGHT = ("predict-unlabelled", *TARGET)
SELF_TRAINED = {
    "target.unlabelled.cases=5": ("check", *TAUGHT),
    "target_training.arms.student.unlabelled.rounds=2": TAUGHT,
    # Other weights of the same predictions.
    "target_training.arms.student.unlabelled.weighting=none": TARGET,
    "target_training.arms.student.mask=expected_dice": READ,
}


@pytest.mark.slow
def test_students_are_trained_again_for_what_they_learn_from_and_nobody_else_is(
    write_cohort: Callable, write_study: Callable, tmp_path: Path
) -> None:
    arms = {"random": None, "student": {"preset": "random", "unlabelled": {"kind": "self_training"}}}
    config = write_study(
        tmp_path / "tiny.yaml", write_cohort(tmp_path / "cohort", cases=11),
        source={"patients": 2}, target={"pool": 2, "test": 1, "unlabelled": {"withhold_labels": True}},
        target_training={"arms": arms, "sizes": [2], "reference_sizes": []},
    )  # fmt: skip
    alone = ["target.unlabelled=null", "target_training.arms={random: {}}"]
    assert run_marked(config, tmp_path / "planned", *alone) == set(EVERYTHING)
    # Nothing of an arm that does not learn from them is done again.
    before = {path: path.read_bytes() for path in (tmp_path / "planned").glob("*/*/*/*/done.json")}
    assert run_marked(config, tmp_path / "planned") == {"check", "preprocess", *TAUGHT}
    assert before == {path: path.read_bytes() for path in before}
    for number, (change, expected) in enumerate(SELF_TRAINED.items()):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "planned", root)
        assert run_marked(config, root, change) == set(expected), change


def test_every_option_of_the_sections_is_in_the_table() -> None:
    told = {change.partition("=")[0] for change in STALE}
    for section, options in SECTIONS.items():
        for name in options.model_fields:
            path = f"{section}.{name}"
            assert path in ELSEWHERE or any(key == path or key.startswith(f"{path}.") for key in told), path


def test_all_trainings_are_saved_as_the_execution_says(planned: Path) -> None:
    often = ["execution.checkpoint_steps=7", "execution.checkpoint_minutes=2"]
    config, workspace = (
        read_config(planned / "tiny.yaml", often, planned / "workspace"),
        Workspace(planned / "workspace"),
    )
    resources = Resources(jobs=1, device="cpu")
    trainings = list(plan_target(config, workspace, resources).trainings.values())
    networks = stage_module(Stage.TRAIN_SOURCE).units(config, workspace, resources)
    assert all(unit.resumable for unit in (*trainings, *networks))
    settings = [unit.arguments["settings"] for unit in trainings]
    assert {(own.checkpoint_steps, own.checkpoint_seconds) for own in settings} == {(7, 120)}
    of_networks = [unit.arguments for unit in networks]
    assert {(own["checkpoint_steps"], own["checkpoint_seconds"]) for own in of_networks} == {(7, 120)}


def test_a_dry_run_names_what_is_stale_and_why_and_changes_nothing(
    planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(planned / "workspace", workspace)
    for path in (workspace / "train-target").rglob(MARKER):
        write_json(path, json.loads(path.read_text()) | {"seconds": 3600})
    files = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    run = ["run", str(planned / "tiny.yaml"), "--workspace", str(workspace), "--dry-run", "--device", "cpu"]
    assert main([*run, "--set", "target_training.arms.fine_tune.peak_rate=0.1"]) == 0
    text = capsys.readouterr().out
    trained = len([*(workspace / "train-target").rglob(MARKER)])
    assert "preprocess: nothing to do" in text
    # A training is named after what it depends on: the others are done, and two sizes of one arm are new.
    assert f"infer, train-target: 2 of {trained} to do, about 1.8 core hours" in text
    assert "infer: 2 of 9 to do, no estimate before one is done\n  infer of" in text
    assert "evaluate: nothing to do, 9 done, as far as is known before the work above is done" in text
    assert "Nothing was run." in text
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == files
    # Of source networks none was timed: neither before, nor here unless asked for.
    more_cycles = [*run, "--set", "source_training.cycles=3"]
    assert main(more_cycles) == 0
    assert "train-source: 2 of 2 to do, no estimate before one is done\n" in capsys.readouterr().out
    assert main([*more_cycles, "--probe"]) == 0
    text = capsys.readouterr().out
    probed = "(probed: a few steps were timed on this machine)"
    assert f"train-source: 2 of 2 to do, less than 0.01 core hours {probed}\n" in text
    # What was timed before is not probed, and what does not train cannot be.
    assert text.count("probed") == 1
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == files
    assert main([*run[:4], "--probe"]) == 2
    assert "--probe without --dry-run" in capsys.readouterr().err
    jobs = ["execution.backend=submitit", "execution.submitit.stages.train-target.gpus=1"]
    words = [word for job in jobs for word in ("--set", job)]
    assert main([*run[:-2], *words, "--set", "target_training.arms.fine_tune.peak_rate=0.1"]) == 0
    assert f"infer, train-target: 2 of {trained} to do, about 1.8 GPU hours" in capsys.readouterr().out
    run[3] = str(tmp_path / "new")
    assert main(run) == 0
    text = capsys.readouterr().out
    assert "check: 1 of 1 to do, no estimate" in text
    assert "fit-priors, infer, evaluate: known once the stages before them are done" in text
    assert "In all 1 unit, and what is not known yet. Nothing was run." in text
    assert "missing" not in text
    assert not (tmp_path / "new").exists()


def test_what_is_fitted_is_fitted_anew_and_nothing_is_trained_or_predicted(planned: Path, tmp_path: Path) -> None:
    shutil.copytree(planned / "workspace", tmp_path / "workspace")
    of_three = ["target_training.sizes=[3]", "target_training.arms.random.fit_reading=true"]
    run_marked(planned / "tiny.yaml", tmp_path / "workspace", *of_three)
    for change in ("random.fit_mask=true", "random.post_processing={right: {minimum_volume: 5}}"):
        of_three.append(f"target_training.arms.{change}")
        found = run_marked(planned / "tiny.yaml", tmp_path / "workspace", *of_three)
        assert found == {"fit-readings", *READ}, change


def test_choices_that_earlier_versions_lacked_are_in_a_recipe_only_where_they_are_made() -> None:
    plain = ArmOptions()
    assert "fit_reading" in plain.in_recipe()
    assert plain.in_recipe().keys().isdisjoint({"post_processing", "fit_mask", "image_model"})
    changed = ArmOptions.model_validate({"fit_reading": True, "fit_mask": True, "post_processing": {"a": {}}})
    assert changed.in_recipe().keys() >= {"post_processing", "fit_mask"}
    assert changed.of_training().in_recipe() == plain.of_training().in_recipe()
    assert changed.of_prediction() == plain.of_prediction()


def test_an_arm_of_more_members_keeps_those_that_are_trained(planned: Path, tmp_path: Path) -> None:
    shutil.copytree(planned / "workspace", tmp_path / "workspace")
    workspace = tmp_path / "workspace"
    before = set((workspace / "train-target").rglob(MARKER))
    assert run_marked(planned / "tiny.yaml", workspace, "target_training.arms.fine_tune.members=3") == set(TARGET)
    # Two more members at each of two sizes.
    assert len(set((workspace / "train-target").rglob(MARKER)) - before) == 4


def test_arms_that_learn_alike_share_their_trainings(planned: Path) -> None:
    alike = "target_training.arms=[fine_tune, ensemble, swa, swag, swag_calibrated, multi_swag_calibrated]"
    config = read_config(planned / "tiny.yaml", [alike, "target_training.reference_sizes=[]"], planned / "workspace")
    plan = plan_target(config, Workspace(planned / "workspace"), Resources(jobs=1, device="cpu"))
    # Three members of two ways of learning, at two sizes; two of the predictions differ in their reading alone.
    assert (len(plan.trainings), len(plan.predictions), len(plan.arms)) == (12, 10, 12)


@pytest.mark.parametrize(("name", "cells"), [("hippocampus-cpu", 9), ("oasis-cpu", 9), ("hippocampus", 21)])
def test_shipped_studies_train_what_differs(name: str, cells: int) -> None:
    config = read_config(Path(__file__).parents[2] / "configs" / f"{name}.yaml")
    arms = config.target_training.arms.values()
    assert len({(arm.of_training().model_dump_json(), m) for arm in arms for m in range(arm.members)}) == cells

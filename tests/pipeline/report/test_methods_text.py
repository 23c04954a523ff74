from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.filters import FilterGrouping
from models.objectives import Likelihood
from models.priors.standardisation import Covariance
from pipeline.arms.arm_record import ArmRecord
from pipeline.arms.choices import Trainable
from pipeline.arms.presets import PRESETS
from pipeline.config.reading import as_yaml, read_config
from pipeline.config.report_options import ReportOptions
from pipeline.evaluation.options import EvaluationSpace
from pipeline.metrics.overlap import EmptyMaskPolicy
from pipeline.prediction.post_processing import ComponentRule, Kept
from pipeline.prediction.reading import ReadingOptions
from pipeline.report.methods_section import methods_section
from pipeline.report.picture import PictureFolder
from pipeline.report.section import Material
from pipeline.report.study_files import StudyFiles
from pipeline.training.optimiser import Decay, DecayedWeights
from preprocessing.alignment import AlignmentKind
from preprocessing.intensity import Scaling
from preprocessing.skull_strip import SkullStripMethod

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))


def paragraphs(root: Path, config: dict[str, Any]) -> str:
    (root / "config.resolved.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    material = Material(StudyFiles(root), ReportOptions(), PictureFolder(root / "figures", 50))
    section = methods_section(material)
    assert not section.missing
    return " ".join(text for _, text in section.content["paragraphs"])


def resolved(path: Path) -> dict[str, Any]:
    return yaml.safe_load(as_yaml(read_config(path)))


@pytest.fixture
def demo() -> dict[str, Any]:
    return resolved(Path(__file__).parents[3] / "configs/demo.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_study_has_whole_sentences(path: Path, tmp_path: Path) -> None:
    config = resolved(path)
    text = paragraphs(tmp_path, config)
    for leftover in ("None", "null", "{", "}", "  ", "..", " .", " ,", "_posterior", "nan"):
        assert leftover not in text, leftover
    sentences = re.split(r"(?<=\.) (?=[A-Z“0-9])", text)
    assert len(sentences) > 12
    assert all(s[0].isupper() or s[0].isdigit() for s in sentences)
    assert all(s.endswith(".") for s in sentences)
    for arm in config["target_training"]["arms"]:
        assert f"Arm “{arm}” started" in text


def test_names_data_network_arms_and_effort(demo: dict[str, Any], tmp_path: Path) -> None:
    text = paragraphs(tmp_path, demo)
    for told in (
        "“ms” (synthetic MR scans of the head, FLAIR; structure: lesion)",
        "structures: tumour, where tumour joins core, rim and oedema",
        "N4 correction of the bias field", "resampling to 3 mm isotropic voxels", "affine registration",
        "residual 3D U-Net", "8, 16, 32, 64 channels", "2 patches of 40 × 40 × 40 voxels",
        "2 networks were trained, each on its own bootstrap sample", "3 cosine cycles", "“vae”",
        "n = 2 and 5 annotated target patients", "steps (80)",
        "a Gaussian (SWAG) was fitted to the iterates",
        "the temperature that divides its logits and the correlation of voxels",
        "were fitted to out-of-fold predictions of its own training patients (3 folds)",
        "connected components of its masks were removed if that raised the mean Dice of these predictions",
        "the mask of the best expected Dice replaced the most probable one by the same rule",
        "masks were made of the probabilities",
        "a factorised normal posterior over the filters was learned under the prior “vae”",
    ):  # fmt: skip
        assert told in text, told
    assert "registration of all channels" not in text  # there is one channel
    assert "gaussian_full" not in text  # no arm uses that density


def test_adapts_to_modality_network_steps_and_objective(demo: dict[str, Any], tmp_path: Path) -> None:
    changed = copy.deepcopy(demo)
    target = changed["datasets"]["tumour"]
    target |= {"modality": "ct", "synthetic": None, "path": "scans", "foreground": ["spleen"], "channels": None}
    target["preprocessing"] = {
        "canonical_orientation": {},
        "resampling": {"spacing": [1.0, 1.0, 2.5]},
        "intensity": {"scaling": "window", "window_low": -160, "window_high": 240},
    }
    changed["network"] = {"name": "segresnet"}
    changed["augmentation"] = dict.fromkeys(changed["augmentation"], 0) | {"flip_axes": [0]}
    arms = changed["target_training"]["arms"]
    arms["ensemble"] = arms["fine_tune"] | {"members": 3}
    arms["map"] = arms["random"] | {"prior": "gaussian_full", "posterior_temperature": 1.0}
    changed["evaluation"] |= {"space": "preprocessed", "empty_masks": "skip_agreement"}
    text = paragraphs(tmp_path, changed)
    for told in (
        "(CT scans; structure: spleen)", "resampling to 1 × 1 × 2.5 mm", "clipping to the window −160 to 240",
        "Preprocessing of the source scans comprised", "MONAI's SegResNet", "Patches were augmented by mirroring.",
        "the predictions of 3 such networks were averaged",
        "weights were a maximum a posteriori estimate under the prior “gaussian_full”",
        "a normal distribution with full covariance (“gaussian_full”)",
        "measured on the preprocessed grid", "is left out",
    ):  # fmt: skip
        assert told in text, told
    demo_text = paragraphs(tmp_path, demo)
    assert "original grid of each scan" in demo_text
    assert "scored one, a false one zero" in demo_text


def test_what_post_processing_keeps_is_told_as_stated_and_as_fitted(
    demo: dict[str, Any], tmp_path: Path, arm_record: Callable[..., ArmRecord]
) -> None:
    stated = copy.deepcopy(demo)
    arms = stated["target_training"]["arms"]
    arms["dwp"] |= {"fit_reading": False, "post_processing": {"tumour": {"minimum_volume": 50}}}
    text = paragraphs(tmp_path, stated)
    assert "its masks kept of “tumour” connected components of at least 50 mm³" in text
    assert "At the largest n" not in text
    largest = ReadingOptions(post_processing={"tumour": ComponentRule(keep=Kept.LARGEST)})
    for arm, n in (("random", 2), ("random", 5), ("fine_tune", 5)):
        record = arm_record(arm, n, 0, "none")
        choices = record.choices.model_copy(update={"fit_reading": True})
        folder = tmp_path / f"infer/{arm}/n{n:02d}/repeat-0"
        folder.mkdir(parents=True)
        record.model_copy(update={"choices": choices.with_reading(largest) if n == 5 else choices}).write(folder)
    text = paragraphs(tmp_path, demo)
    assert "At the largest n, “random” and “fine_tune” kept of “tumour” the largest connected component." in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("datasets.tumour.modality", ("mr_head", "mr_brain", "mr", "ct")),
        ("datasets.tumour.preprocessing.skull_strip.method", tuple(SkullStripMethod)),
        ("datasets.tumour.preprocessing.alignment.kind", tuple(AlignmentKind)),
        ("datasets.tumour.preprocessing.intensity.scaling", tuple(Scaling)),
        ("network", ("{name: unet}", "{name: residual_unet}", "{name: dynunet}", "{name: segresnet}")),
        ("source_training.likelihood", tuple(Likelihood)),
        ("source_training.optimiser.decay", tuple(Decay)),
        ("target_training.optimiser.decay", tuple(Decay)),
        ("source_training.optimiser.decayed", tuple(DecayedWeights)),
        ("filters.grouping", tuple(FilterGrouping)),
        ("priors.densities.vae", tuple(f"{{kind: gaussian, covariance: {own}}}" for own in Covariance)),
        (
            "priors.densities.vae",
            (
                "{kind: vae, beta: 1.0}",
                "{kind: vae, beta: 0.5}",
                "{kind: vae, latent_prior: boosted}",
                "{kind: vae, latent: auto}",
                "{kind: gaussian_mixture}",
                "{kind: spike_and_slab}",
                "{kind: spike_and_slab, slab: {kind: gaussian_mixture}}",
                "{kind: reuse_or_redraw}",
                "{kind: gaussian, centre: source_position}",
            ),
        ),
        ("target_training.arms.dwp.init", ("random", "prior", "source")),
        ("target_training.arms.random.network", ("null", "{name: unet}", "{factory: 'json:loads'}")),
        ("target_training.arms.dwp.trainable", tuple(Trainable)),
        ("target_training.arms.dwp.posterior", ("point", "mean_field", "mixture", "swag", "{kind: swag, scale: 0}")),
        ("target_training.arms.dwp.prior", ("auto", "vae", "gaussian_full")),
        ("evaluation.space", tuple(EvaluationSpace)),
        ("evaluation.empty_masks", tuple(EmptyMaskPolicy)),
    ],
)
def test_every_choice_has_words_of_its_own(key: str, values: Sequence[str], tmp_path: Path) -> None:
    config = Path(__file__).parents[3] / "configs/demo.yaml"
    texts = [paragraphs(tmp_path, yaml.safe_load(as_yaml(read_config(config, [f"{key}={own}"])))) for own in values]
    assert len(set(texts)) == len(values)


def test_objectives_are_those_that_the_units_recorded(
    demo: dict[str, Any], tmp_path: Path, arm_record: Callable[..., ArmRecord]
) -> None:
    names = {"dwp": "tempered posterior (T = 0.01)", "random": "dice_cross_entropy (no prior term)"}
    for arm in ("random", "fine_tune", "dwp"):
        folder = tmp_path / f"infer/{arm}/n05/repeat-0"
        folder.mkdir(parents=True)
        arm_record(arm, 5, 0, names.get(arm, names["random"])).write(folder)
    text = paragraphs(tmp_path, demo)
    assert "The objective of “random” and “fine_tune” was: dice cross entropy (no prior term)." in text
    assert "The objective of “dwp” was: tempered posterior (T = 0.01)." in text


def test_software_and_device_come_from_the_provenance(demo: dict[str, Any], tmp_path: Path) -> None:
    record = {"graft_version": "0.3", "versions": {"torch": "2.9"}, "machine": {"device": "cuda (A100)"}}
    (tmp_path / "provenance.json").write_text(json.dumps(record))
    text = paragraphs(tmp_path, demo)
    assert "Graft 0.3 on PyTorch 2.9; networks were trained on cuda (A100)" in text
    record["machine"] = {"device": "auto"}
    (tmp_path / "provenance.json").write_text(json.dumps(record))
    assert "trained on auto" not in paragraphs(tmp_path, demo)


def test_what_was_learned_on_the_source_follows_from_the_arms(demo: dict[str, Any], tmp_path: Path) -> None:
    def text(*arms: str) -> str:
        config = copy.deepcopy(demo)
        config["target_training"]["arms"] = {arm: PRESETS[arm].model_dump(mode="json") for arm in arms}
        return paragraphs(tmp_path, config)

    assert "Filter priors were learned on the source dataset “ms”" in text("random", "dwp")
    fine_tuned = text("fine_tune", "fine_tune_l2sp")
    assert "Networks were trained on the source dataset “ms”" in fine_tuned
    assert "ilter priors" not in fine_tuned
    assert "were fitted" not in fine_tuned
    assert "Networks were trained and filter priors were learned on the source" in text("fine_tune", "dwp")
    alone = text("random")
    assert "nothing was taken from the source dataset “ms”" in alone
    assert "On the source, " not in alone


def test_unlabelled_scans_and_self_training_are_told(
    demo: dict[str, Any], tmp_path: Path, arm_record: Callable[..., ArmRecord]
) -> None:
    demo["target_training"]["arms"] = {
        arm: PRESETS[arm].model_dump(mode="json") for arm in ("self_training", "fine_tune_self_training")
    }
    demo["target"]["unlabelled"] = {"withhold_labels": True}
    plan = {
        "split": {"source": {}, "pool": {"a": ["a"]}, "test": {"b": ["b"]}}, "classes": {}, "channels": {},
        "unlabelled": {"u": ["u1", "u2"], "v": ["v"]}, "withheld": ["v"],
    }  # fmt: skip
    path = tmp_path / "check/study/study.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(plan))
    text = paragraphs(tmp_path, demo)
    assert (
        "3 further scans of 2 patients of the target were used without labels; the labels of 1 of them exist and were "
        "withheld. None of these patients was in the pool or the test set." in text
    )
    assert (
        "each voxel weighted by exp(−1 I / Ī) with the mutual information I between its label and the weights" in text
    )
    assert "with equal weights of all voxels; the round with the highest mean Dice" in text
    assert "Of the rounds of self-training" not in text
    for repeat, kept in enumerate((0, 1, 1)):
        folder = tmp_path / f"infer/self_training/n05/repeat-{repeat}"
        folder.mkdir(parents=True)
        record = arm_record("self_training", 5, repeat, "none")
        record.model_copy(update={"kept_rounds": (kept,)}).write(folder)
    told = "Of the rounds of self-training, “self_training” kept round 0 in 1 and round 1 in 2 of 3 choices."
    assert told in paragraphs(tmp_path, demo)
    plan["unlabelled"]["b"] = ["b2"]
    path.write_text(json.dumps(plan))
    assert "1 patient among these was in the pool or the test set, too: learning was transductive" in paragraphs(
        tmp_path, demo
    )


def test_trunk_branches_changes_and_learned_scales_are_told(demo: dict[str, Any], tmp_path: Path) -> None:
    arms = ("fine_tune_branches", "hierarchical", "displacement")
    demo["source_training"] = {**demo["source_training"], "trunk_steps": 70, "networks": 3}
    demo["target_training"]["arms"] = {arm: PRESETS[arm].model_dump(mode="json") for arm in arms}
    text = paragraphs(tmp_path, demo)
    assert (
        "from the weights of one common network, which had been trained on another bootstrap sample for 70 steps"
        in text
    )
    assert "“fine_tune_branches” started from the mean of the source networks" in text
    assert "a normal distribution with full covariance at each position, of the source networks there (“gaus" in text
    assert "for what training adds to a filter, a normal distribution with full covariance (“displacement”)" in text
    assert "was learned for each layer, the filters of the last block had no prior" in text


def test_a_network_of_ones_own_and_one_prior_for_all_filters_are_told(demo: dict[str, Any], tmp_path: Path) -> None:
    config = copy.deepcopy(demo)
    config["network"] = {"name": "imported", "factory": "my_nets:build", "options": {}, "source": "0"}
    config["filters"] = {**config["filters"], "grouping": "all"}
    text = paragraphs(tmp_path, config)
    assert "The network was one of the study's own, built by my_nets:build." in text
    assert "taken together for the whole network, " in text
    config["target_training"]["arms"]["random"]["network"] = {"name": "unet", "channels": [4, 8]}
    own = "trained MONAI's residual 3D U-Net (4, 8 channels) in place of the study's network"
    assert f"Arm “random” started at random, {own}, weights were" in paragraphs(tmp_path, config)


@pytest.mark.slow
@pytest.mark.parametrize(("folds", "how"), [(4, "in 4 folds"), ("leave_one_out", "by leaving one out")])
def test_cross_validation_is_told_as_it_is(
    folds: object, how: str, tmp_path: Path, workspace_builder: Callable[..., Path]
) -> None:
    root = workspace_builder(tmp_path, patients=12, repeats=1)
    config = yaml.safe_load((root / "config.resolved.yaml").read_text())
    config["target"] = {"dataset": "tumour", "patients": "all", "folds": folds}
    config["target_training"]["sizes"] = []
    text = paragraphs(root, config)
    for told in (
        f"the 12 annotated patients of the target were cross-validated {how}: in each repeat",
        "4 arms were trained on all annotated target patients outside the tested fold, with 1 draw of the folds",
        "(500 resamples); a resample holds fewer patients than were tested",
        "no test was made, since the patients of a cross-validation are no independent trials.",
    ):
        assert told in text, told
    assert "test set" not in text
    assert "Wilcoxon" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repeats", "told"),
    [
        (1, "tested by a Wilcoxon signed-rank test with Holm's correction over the arms; it speaks for this one draw"),
        (2, "with patients and draws of the training patients as crossed random effects (Hillis 2007; "),
    ],
)
def test_what_a_comparison_speaks_for_is_told(
    repeats: int, told: str, tmp_path: Path, workspace_builder: Callable[..., Path]
) -> None:
    root = workspace_builder(tmp_path, patients=12, repeats=repeats)
    assert told in paragraphs(root, yaml.safe_load((root / "config.resolved.yaml").read_text()))


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (
            "denoising",
            "learned to remove smooth noise from the foreground (Kascenas et al. 2022; standard deviation 1 at",
        ),
        ("masked", "learned to fill in blocks of 8 voxels that were hidden with a probability of 60"),
        ("sparse", "learned to reconstruct scans through a sparse bottleneck without skip connections"),
        ("contractive", "that was penalised for its sensitivity to the scan (Rifai et al. 2011)"),
        ("variational", "learned as a variational autoencoder without skip connections, with 8 latent channels"),
    ],
)
def test_an_image_model_is_a_whole_sentence(objective: str, words: str, demo: dict[str, Any], tmp_path: Path) -> None:
    demo["image_models"] = {"own": {"objective": {"kind": objective}, "steps": 70, "from_source": True}}
    demo["target_training"]["arms"]["mine"] = {"init": "self_supervised", "image_model": "own"}
    text = paragraphs(tmp_path, demo)
    sentence = text[text.index("Without reading a label") :].partition("; nobody who was tested")[0]
    assert sentence.startswith(
        "Without reading a label, the image model “own”, the same network with one output for each image channel and "
        "started from a source network, learned"
    )
    assert words in sentence
    assert sentence.endswith(", for 70 steps")
    for leftover in ("None", "  ", " ,", " ."):
        assert leftover not in sentence
    assert "Arm “mine” started from the image model “own”, with its last layer at random" in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "histogram",
            "were mapped to the intensities of a random target scan by histogram matching, with 256 quantiles",
        ),
        ("fourier", "got the amplitudes of a random target scan at frequencies of at most 0.05 cycles per voxel"),
        ("random_contrast", "were replaced by images of random contrast with the same labels (Billot et al. 2023)"),
    ],
)
def test_a_translation_of_the_source_is_told(kind: str, words: str, demo: dict[str, Any], tmp_path: Path) -> None:
    assert "source patches" not in paragraphs(tmp_path, demo)
    demo["source"]["translate"] = {"kind": kind, "share": 0.7}
    text = paragraphs(tmp_path, demo)
    assert f"Of the source patches, 70\N{NO-BREAK SPACE}% {words}" in text
    assert ("nobody who was tested was among them" in text) == (kind != "random_contrast")

"""Methods: sentences on networks, source training, filter priors, and the arms on the target."""

from __future__ import annotations

from models.objectives import Likelihood
from models.posteriors.mean_field import MeanFieldOptions
from models.posteriors.swag import SWAGOptions
from models.priors.factory import PriorOptions, centred_on_network
from models.priors.gaussian import GaussianOptions
from models.priors.gaussian_mixture import GaussianMixtureOptions
from models.priors.latent_prior import LatentPriorKind
from models.priors.reuse_or_redraw import ReuseOrRedrawOptions
from models.priors.standardisation import Covariance
from models.priors.vae_options import FilterVAEOptions
from pipeline.arms.choices import NO_PRIOR, ArmOptions, Initialisation, Trainable
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.report.number_text import plain
from pipeline.report.section import listing
from pipeline.report.source_use import source_use
from pipeline.report.study_files import StudyFiles, folders
from pipeline.storage.stage_names import Stage
from pipeline.training.augmentation import AugmentationOptions
from pipeline.training.patches import PatchOptions
from pipeline.training.source_options import SourceTrainingOptions

_NETWORKS = {
    "residual_unet": "a residual 3D U-Net with additive skips and instance normalisation",
    "unet": "MONAI's residual 3D U-Net",
    "dynunet": "MONAI's DynUNet",
    "segresnet": "MONAI's SegResNet",
}
_LOSSES = {
    Likelihood.CROSS_ENTROPY: "the cross-entropy",
    Likelihood.DICE_CROSS_ENTROPY: "the sum of soft Dice loss and cross-entropy",
}
_GROUPS = {
    "layer": "each layer",
    "consecutive": "each group of consecutive layers",
    "resolution": "each resolution level",
    "all": "the whole network",
}
_COVARIANCES = {
    Covariance.ISOTROPIC: "an isotropic normal distribution",
    Covariance.DIAGONAL: "a normal distribution with diagonal covariance",
    Covariance.FULL: "a normal distribution with full covariance",
    Covariance.LOW_RANK: "probabilistic PCA",
    Covariance.FACTOR: "factor analysis",
}
_STARTS = {
    Initialisation.RANDOM: "started at random",
    Initialisation.PRIOR: "started from filters drawn from the prior",
    Initialisation.SOURCE: "started from a source network",
}
_TRAINABLE = {
    Trainable.ENDS: "only the first and the last blocks were learned",
    Trainable.DECODER: "only the decoder was learned",
}
_AUGMENTATIONS = {
    "affine": "rotation and scaling",
    "elastic": "elastic deformation",
    "noise": "noise",
    "blur": "blurring",
    "brightness": "brightness",
    "gamma": "gamma",
    "low_resolution": "simulated low resolution",
    "flip_axes": "mirroring",
}


def network_sentences(files: StudyFiles) -> list[str]:
    """Describes the network, its patches and its augmentation, the same on source and target."""
    name = files.setting("network", "name")
    if name is None:
        return []
    widths = files.setting("network", "channels")
    own = f"one of the study's own, built by {files.setting('network', 'factory')}"
    text = f"The network was {own if name == 'imported' else _NETWORKS.get(str(name), str(name))}"
    text += f" ({', '.join(str(w) for w in widths)} channels)" if widths else ""
    sentences = [text + "."]
    patches = files.options(PatchOptions, "patches")
    if patches is not None:
        size, share = " × ".join(str(n) for n in patches.size), patches.foreground_share
        text = f"It was trained on batches of {patches.batch} patches of {size} voxels, "
        text += f"{_percent(share)} of them centred on a foreground voxel" if share else "placed at random"
        sentences.append(text + ".")
    augmentation = files.options(AugmentationOptions, "augmentation")
    if augmentation is not None:
        used = [words for key, words in _AUGMENTATIONS.items() if getattr(augmentation, key)]
        sentences.append(f"Patches were augmented by {listing(used)}." if used else "Patches were not augmented.")
    return sentences


def source_sentences(files: StudyFiles) -> list[str]:
    """Describes the training of the source networks."""
    source = files.options(SourceTrainingOptions, "source_training")
    made = len(folders(files.root / Stage.TRAIN_SOURCE))
    networks = made if source is None else source.networks
    use = source_use(files)
    if not networks or not (made or use.networks or use.priors):
        return []
    each = "networks were" if networks != 1 else "network was"
    text = f"On the source, {networks} {each} trained"
    text += ", each on its own bootstrap sample of the patients" if networks != 1 else " on a bootstrap sample"
    if source is None:
        return [text + "."]
    text += "," if networks != 1 else ""
    text += f" for {source.cycles} cosine cycles of the learning rate of {source.steps_per_cycle} steps"
    text += f" (peak {plain(source.peak_rate)}), with a snapshot at the end of each cycle"
    return [f"{text}; AdamW minimised {_LOSSES[source.likelihood]}."]


def prior_sentences(files: StudyFiles) -> list[str]:
    """Describes the densities that arms of this study use."""
    used = list(dict.fromkeys(arm.prior for arm in files.arm_options().values() if arm.needs_prior))
    if not used:
        return []
    group = _GROUPS.get(str(files.setting("filters", "grouping")), "each group of layers")
    densities = files.densities()
    described = [f"{_density(densities.get(name))} (“{name}”)" for name in used]
    text = f"To the 3×3×3 filters of all snapshots, taken together for {group}, "
    fitted = f"{listing(described)} {'was' if len(used) == 1 else 'were'} fitted"
    return [text + fitted + "."]


def _density(options: PriorOptions | None) -> str:
    if isinstance(options, GaussianOptions):
        centre = " centred on the filters of a source network" if centred_on_network(options) else ""
        return _COVARIANCES[options.covariance] + centre
    if isinstance(options, GaussianMixtureOptions):
        return f"a mixture of {options.components} normal distributions"
    if isinstance(options, ReuseOrRedrawOptions):
        return "a mixture of the source network's own filter and a density of filter shapes"
    if isinstance(options, FilterVAEOptions):
        text = "a variational auto-encoder" if options.beta == 1 else f"a β-VAE (β = {plain(options.beta)})"
        boosted = " and a boosted latent prior" if options.latent_prior is LatentPriorKind.BOOSTED else ""
        return f"{text} with {options.latent} latent dimensions{boosted}"
    # `auto`, or a density that the configuration does not describe.
    return "a density"


def arm_sentences(files: StudyFiles) -> list[str]:
    """Describes every arm, the comparison, the steps and the objective."""
    study, training, arms = files.study, files.options(TargetTrainingOptions, "target_training"), files.arm_options()
    names = list(arms) or (list(study.arms) if study else [])
    if not names:
        return []
    sizes = (training.sizes or ()) if training is not None else (study.sizes if study else ())
    repeats = training.repeats if training is not None else (len(study.repeats) if study else 1)
    count = "One arm was" if len(names) == 1 else f"{len(names)} arms were"
    text = f"{count} trained on n = {listing([str(n) for n in sizes])} annotated target patients, with {repeats} "
    text += "draw of the training patients" if repeats == 1 else "independent draws of the training patients"
    sentences = [text + " and of all other randomness."]
    sentences += [_arm(name, options) for name, options in arms.items()]
    text = "Every arm saw the same patients, augmentation and number of optimiser steps"
    if training is not None:
        text += f" ({training.steps}), with AdamW (weight decay {plain(training.optimiser.weight_decay)})"
    return [*sentences, text + ".", *objective_sentences(files)]


def _arm(name: str, arm: ArmOptions) -> str:
    parts = [_STARTS[arm.init]]
    parts += [_TRAINABLE[arm.trainable]] if arm.trainable in _TRAINABLE else []
    if isinstance(arm.posterior, SWAGOptions):
        made = "a Gaussian (SWAG) was fitted to" if arm.is_bayesian else "weights were the mean of"
        parts.append(f"{made} the iterates of the second part of the training, at a constant rate")
    elif isinstance(arm.posterior, MeanFieldOptions):
        parts.append(f"a factorised normal posterior over the filters was learned under the prior “{arm.prior}”")
    elif arm.is_bayesian:
        parts.append(f"a posterior ({arm.posterior.kind}) was learned under the prior “{arm.prior}”")
    elif arm.prior != NO_PRIOR and arm.posterior_temperature > 0:
        parts.append(f"weights were a maximum a posteriori estimate under the prior “{arm.prior}”")
    else:
        parts.append("weights were point estimates" + (" without a prior term" if arm.prior != NO_PRIOR else ""))
    parts.append(f"the peak learning rate was {plain(arm.peak_rate)}")
    if arm.logit_temperature != 1:
        parts.append(f"logits were divided by {plain(arm.logit_temperature)}, a number fixed beforehand")
    if arm.mask is MaskRule.EXPECTED_DICE:
        parts.append("the mask of each structure was the one of the best expected Dice")
    if arm.voxel_correlation is not None:
        correlation = f"ρ = {plain(arm.voxel_correlation)}, fixed beforehand"
        parts.append(f"volume intervals took voxels as correlated ({correlation})")
    if arm.members > 1:
        parts.append(f"the predictions of {arm.members} such networks were averaged")
    return f"Arm “{name}” {listing(parts)}."


def objective_sentences(files: StudyFiles) -> list[str]:
    """Says what each arm minimised, grouped by what `unit.json` calls it."""
    by_objective: dict[str, list[str]] = {}
    for arm in files.arms():
        unit = next((u for u in files.units if u.arm == arm), None)
        if unit is not None:
            by_objective.setdefault(unit.record.objective.replace("_", " "), []).append(f"“{arm}”")
    sentences = [f"The objective of {listing(arms)} was: {what}." for what, arms in by_objective.items()]
    shares = sorted({arm.filter_share for arm in files.arm_options().values() if arm.prior != NO_PRIOR})
    if shares:
        text = listing([_percent(share) for share in shares])
        sentences.append(f"The prior term of a step was estimated on a random {text} of the filters.")
    return sentences


def prediction_sentences(files: StudyFiles) -> list[str]:
    """Describes how test volumes were predicted."""
    window = files.options(SlidingWindowOptions, "sliding_window")
    sentences = []
    if window is not None:
        sentences.append(
            "Test volumes were predicted by a sliding window of the patch size with "
            f"{_percent(window.overlap)} overlap and Gaussian blending."
        )
    draws = sorted({arm.draws for arm in files.arm_options().values() if arm.is_bayesian})
    if draws:
        sentences.append(
            f"Arms with a posterior averaged the probabilities of {listing([str(d) for d in draws])} draws of the "
            "weights, each used for a whole pass over the volume."
        )
    return sentences


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"

"""Methods: sentences on networks, source training, filter priors, and the arms on the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.arms.choices import UNFITTED_PRIORS
from pipeline.report.number_text import plain
from pipeline.report.section import listing
from pipeline.report.source_use import source_use
from pipeline.report.study_files import StudyFiles, folders, nested

_NETWORKS = {
    "residual_unet": "a residual 3D U-Net with additive skips and instance normalisation",
    "unet": "MONAI's residual 3D U-Net",
    "dynunet": "MONAI's DynUNet",
    "segresnet": "MONAI's SegResNet",
}
_LOSSES = {"cross_entropy": "the cross-entropy", "dice_cross_entropy": "the sum of soft Dice loss and cross-entropy"}
_GROUPS = {
    "layer": "each layer",
    "consecutive": "each group of consecutive layers",
    "resolution": "each resolution level",
}
_COVARIANCES = {
    "isotropic": "an isotropic normal distribution",
    "diagonal": "a normal distribution with diagonal covariance",
    "full": "a normal distribution with full covariance",
    "low_rank": "probabilistic PCA",
    "factor": "factor analysis",
}
_STARTS = {
    "random": "started at random",
    "prior": "started from filters drawn from the prior",
    "source": "started from a source network",
}
_TRAINABLE = {"ends": "only the first and the last blocks were learned", "decoder": "only the decoder was learned"}
_AUGMENTATIONS = {
    "affine": "rotation and scaling", "elastic": "elastic deformation", "noise": "noise", "blur": "blurring",
    "brightness": "brightness", "gamma": "gamma", "low_resolution": "simulated low resolution",
}  # fmt: skip


def network_sentences(files: StudyFiles) -> list[str]:
    """Describes the network, its patches and its augmentation, the same on source and target."""
    config = files.config
    name = nested(config, "network", "name")
    if name is None:
        return []
    widths = nested(config, "network", "channels")
    own = f"one of the study's own, built by {nested(config, 'network', 'factory')}"
    text = f"The network was {own if name == 'imported' else _NETWORKS.get(str(name), str(name))}"
    text += f" ({', '.join(str(w) for w in widths)} channels)" if widths else ""
    sentences = [text + "."]
    patches = config.get("patches") or {}
    if patches.get("size"):
        size = " × ".join(str(n) for n in patches["size"])
        text = f"It was trained on batches of {patches.get('batch', 2)} patches of {size} voxels, "
        share = float(patches.get("foreground_share", 0.0))
        text += f"{share:.0%} of them centred on a foreground voxel" if share else "placed at random"
        sentences.append(text.replace("%", "\N{NO-BREAK SPACE}%") + ".")
    augmentation = config.get("augmentation") or {}
    used = [words for key, words in _AUGMENTATIONS.items() if augmentation.get(key)]
    used += ["mirroring"] if augmentation.get("flip_axes") else []
    if augmentation:
        sentences.append(f"Patches were augmented by {listing(used)}." if used else "Patches were not augmented.")
    return sentences


def source_sentences(files: StudyFiles) -> list[str]:
    """Describes the training of the source networks."""
    source = files.config.get("source_training") or {}
    made = len(folders(files.root / "train-source"))
    networks = source.get("networks") or made
    use = source_use(files)
    if not networks or not (made or use.networks or use.priors):
        return []
    each = "networks were" if networks != 1 else "network was"
    text = f"On the source, {networks} {each} trained"
    text += ", each on its own bootstrap sample of the patients," if networks != 1 else " on a bootstrap sample,"
    steps = source.get("steps_per_cycle")
    if source.get("cycles"):
        text += f" for {source['cycles']} cosine cycles of the learning rate"
        text += f" of {steps} steps" if steps else ""
        text += f" (peak {plain(source['peak_rate'])})" if source.get("peak_rate") else ""
        text += ", with a snapshot at the end of each cycle"
    text = text.rstrip(",") + _loss(source) + "."
    return [text]


def _loss(options: Mapping[str, Any]) -> str:
    loss = _LOSSES.get(str(options.get("likelihood")))
    return f"; AdamW minimised {loss}" if loss else ""


def prior_sentences(files: StudyFiles) -> list[str]:
    """Describes the densities that arms of this study use."""
    arms = nested(files.config, "inference", "arms", default={})
    used = _used_priors(arms) if isinstance(arms, Mapping) else []
    if not used:
        return []
    group = _GROUPS.get(str(nested(files.config, "filters", "grouping")), "each group of layers")
    densities = nested(files.config, "priors", "densities", default={})
    described = [f"{_density(densities.get(name) or {})} (“{name}”)" for name in used]
    text = f"To the 3×3×3 filters of all snapshots, taken together for {group}, "
    fitted = f"{listing(described)} {'was' if len(used) == 1 else 'were'} fitted"
    return [text + fitted + "."]


def _used_priors(arms: Mapping[str, Any]) -> list[str]:
    names = [str(arm.get("prior")) for arm in arms.values() if isinstance(arm, Mapping)]
    return list(dict.fromkeys(n for n in names if n not in {*UNFITTED_PRIORS, "None"}))


def _density(options: Mapping[str, Any]) -> str:
    kind = options.get("kind")
    if kind == "gaussian":
        text = _COVARIANCES.get(str(options.get("covariance")), "a normal distribution")
        return text + (
            " centred on the filters of a source network" if options.get("centre") == "source_position" else ""
        )
    if kind == "gaussian_mixture":
        return f"a mixture of {options.get('components', 8)} normal distributions"
    if kind == "reuse_or_redraw":
        return "a mixture of the source network's own filter and a density of filter shapes"
    if kind == "vae":
        text = "a variational auto-encoder"
        text = f"a β-VAE (β = {plain(options['beta'])})" if options.get("beta", 1) != 1 else text
        latent = f" with {options['latent']} latent dimensions" if options.get("latent") else ""
        boosted = " and a boosted latent prior" if options.get("latent_prior") == "boosted" else ""
        return text + latent + boosted
    return "a density"


def arm_sentences(files: StudyFiles) -> list[str]:
    """Describes every arm, the comparison, the steps and the objective."""
    configured = nested(files.config, "inference", "arms", default={})
    study = files.study
    names = [str(a) for a in configured] or (list(study.arms) if study else [])
    if not names:
        return []
    inference = files.config.get("inference") or {}
    sizes = inference.get("sizes") or (study.sizes if study else ())
    repeats = inference.get("repeats") or (len(study.repeats) if study else 1)
    count = "One arm was" if len(names) == 1 else f"{len(names)} arms were"
    text = f"{count} trained on n = {listing([str(n) for n in sizes])} annotated target patients, with {repeats} "
    text += "draw of the training patients" if repeats == 1 else "independent draws of the training patients"
    sentences = [text + " and of all other randomness."]
    if isinstance(configured, Mapping) and all(isinstance(a, Mapping) for a in configured.values()):
        sentences += [_arm(name, options) for name, options in configured.items()]
    sentences.append(_effort(inference))
    return sentences + objective_sentences(files)


def _effort(inference: Mapping[str, Any]) -> str:
    steps = inference.get("steps")
    text = "Every arm saw the same patients, augmentation and number of optimiser steps"
    text += f" ({steps})" if steps else ""
    decay = nested(inference, "optimiser", "weight_decay")
    text += f", with AdamW (weight decay {plain(decay)})" if decay is not None else ""
    return text + "."


def _arm(name: str, options: Mapping[str, Any]) -> str:
    parts = [_STARTS.get(str(options.get("init", "random")), "started as configured")]
    if options.get("trainable") in _TRAINABLE:
        parts.append(_TRAINABLE[str(options["trainable"])])
    prior, kind = options.get("prior", "none"), _kind(options.get("posterior"))
    if kind == "swag":
        averaged = isinstance(options["posterior"], Mapping) and options["posterior"].get("scale") == 0
        made = "weights were the mean of" if averaged else "a Gaussian (SWAG) was fitted to"
        parts.append(f"{made} the iterates of the second part of the training, at a constant rate")
    elif kind == "mean_field":
        parts.append(f"a factorised normal posterior over the filters was learned under the prior “{prior}”")
    elif kind != "point":
        parts.append(f"a posterior ({kind.replace('_', ' ')}) was learned under the prior “{prior}”")
    elif prior != "none" and float(options.get("temperature", 1)) > 0:
        parts.append(f"weights were a maximum a posteriori estimate under the prior “{prior}”")
    else:
        parts.append("weights were point estimates" + (" without a prior term" if prior != "none" else ""))
    if options.get("peak_rate"):
        parts.append(f"the peak learning rate was {plain(options['peak_rate'])}")
    if float(options.get("logit_temperature", 1)) != 1:
        parts.append(f"logits were divided by {plain(options['logit_temperature'])}, a number fixed beforehand")
    if options.get("mask") == "expected_dice":
        parts.append("the mask of each structure was the one of the best expected Dice")
    if options.get("voxel_correlation") is not None:
        correlation = f"ρ = {plain(options['voxel_correlation'])}, fixed beforehand"
        parts.append(f"volume intervals took voxels as correlated ({correlation})")
    members = int(options.get("members", 1))
    if members > 1:
        parts.append(f"the predictions of {members} such networks were averaged")
    return f"Arm “{name}” {listing(parts)}."


def _kind(posterior: Any) -> str:
    kind = posterior.get("kind") if isinstance(posterior, Mapping) else posterior
    return str(kind or "point")


def objective_sentences(files: StudyFiles) -> list[str]:
    """Says what each arm minimised, grouped by what `unit.json` calls it."""
    by_objective: dict[str, list[str]] = {}
    for arm in files.arms():
        unit = next((u for u in files.units if u.arm == arm), None)
        if unit is not None:
            by_objective.setdefault(unit.record.objective.replace("_", " "), []).append(f"“{arm}”")
    sentences = [f"The objective of {listing(arms)} was: {what}." for what, arms in by_objective.items()]
    configured = nested(files.config, "inference", "arms", default={})
    options = [a for a in configured.values() if isinstance(a, Mapping)] if isinstance(configured, Mapping) else []
    with_prior = [a for a in options if a.get("prior", "none") != "none"]
    shares = sorted({float(a["filter_share"]) for a in with_prior if a.get("filter_share")})
    if shares:
        text = listing([f"{share:.0%}" for share in shares]).replace("%", "\N{NO-BREAK SPACE}%")
        sentences.append(f"The prior term of a step was estimated on a random {text} of the filters.")
    return sentences


def prediction_sentences(files: StudyFiles) -> list[str]:
    """Describes how test volumes were predicted."""
    inference = files.config.get("inference") or {}
    overlap = nested(inference, "window", "overlap")
    sentences = []
    if overlap is not None:
        text = f"Test volumes were predicted by a sliding window of the patch size with {float(overlap):.0%} overlap "
        sentences.append(text.replace("%", "\N{NO-BREAK SPACE}%") + "and Gaussian blending.")
    arms = inference.get("arms") or {}
    draws = {
        int(a["draws"])
        for a in (arms.values() if isinstance(arms, Mapping) else ())
        if isinstance(a, Mapping) and _kind(a.get("posterior")) != "point" and a.get("draws")
    }
    if draws:
        number = listing([str(d) for d in sorted(draws)])
        sentences.append(
            f"Arms with a posterior averaged the probabilities of {number} draws of the weights, each used for a whole "
            "pass over the volume."
        )
    return sentences

"""`configs/inference.json` of a bundle: from a folder of images to masks, for `python -m monai.bundle run`."""

from __future__ import annotations

from typing import Any

from models.heads import Heads
from pipeline.deployment.bundle_input import BundleInput
from pipeline.deployment.bundle_network import network_definition
from pipeline.deployment.model_description import ModelDescription


def weights_name(number: int, members: int) -> str:
    """File of a network's weights, without suffix; a single one is called `model`, as in MONAI's bundles."""
    return "model" if members == 1 else f"model-{number:02d}"


def inference_config(about: ModelDescription, takes: BundleInput) -> dict[str, Any]:
    """Returns the content of `configs/inference.json`.

    A single network runs in MONAI's `SupervisedEvaluator`; several run in its `EnsembleEvaluator`, and their
    probabilities are averaged.
    """
    members = len(about.members)
    return {
        "imports": [
            "$import glob",
            "$import numpy",
            "$import os",
            "$import torch",
            "$from safetensors.torch import load_model",
        ],
        "bundle_root": ".",
        "dataset_dir": "$os.path.join(@bundle_root, 'input')",
        "output_dir": "$os.path.join(@bundle_root, 'output')",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "data": _data(about),
        **_networks(about),
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                *takes.to_network(about),
                {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@data", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(about.patch),
            "sw_batch_size": about.window.batch,
            "overlap": about.window.overlap,
            "mode": "gaussian",
            "padding_mode": "replicate",
        },
        "postprocessing": _postprocessing(about, takes),
        "evaluator": _evaluator(members),
        # Weights are read without unpickling.
        "run": [
            *(f"$load_model(@{_network_id(number)}, @weights_{number})" for number in range(members)),
            "$@evaluator.run()",
        ],
    }


def _postprocessing(about: ModelDescription, takes: BundleInput) -> dict[str, Any]:
    saving = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "mask",
        "output_dtype": "$numpy.uint8" if takes.largest_value(about) < 256 else "$numpy.int16",
        "separate_folder": False,
        # The mask lies on the grid of the input, so nothing is resampled. Without it, MONAI 1.6 takes volumes whose
        # first axis runs superior for 2D and refuses them.
        "resample": True,
    }
    probabilities = _probabilities(len(about.members), about.arm.reading.logit_temperature, about.heads)
    return {"_target_": "Compose", "transforms": [*probabilities, *takes.to_mask(about), saving]}


def _data(about: ModelDescription) -> str:
    """Expression that lists the cases: one file each, or one file for each channel, named as in nnU-Net."""
    if len(about.channels) == 1:
        return "$[{'image': p} for p in sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))]"
    files = f"[p.replace('_0000.nii', '_%04d.nii' % c) for c in range({len(about.channels)})]"
    return f"$[{{'image': {files}}} for p in sorted(glob.glob(os.path.join(@dataset_dir, '*_0000.nii*')))]"


def _network_id(number: int) -> str:
    """Key of a network; MONAI's checks expect that of the first."""
    return "network_def" if number == 0 else f"network_def_{number}"


def _networks(about: ModelDescription) -> dict[str, Any]:
    members = len(about.members)
    made: dict[str, Any] = {}
    for number in range(members):
        made[_network_id(number)] = network_definition(about.network, len(about.channels), about.target_network.outputs)
        file = f"{weights_name(number, members)}.safetensors"
        made[f"weights_{number}"] = f"$os.path.join(@bundle_root, 'models', '{file}')"
    return made


def _probabilities(members: int, temperature: float, heads: Heads) -> list[dict[str, Any]]:
    keys = ["pred"] if members == 1 else _prediction_keys(members)
    exclusive = heads is Heads.EXCLUSIVE
    activation = {"_target_": "Activationsd", "keys": keys, "softmax" if exclusive else "sigmoid": True}
    average = {"_target_": "MeanEnsembled", "keys": keys, "output_key": "pred"}
    # `read_probability`, in words that need no copy of Graft's code.
    stored = "p.clamp_min(torch.finfo(torch.float32).tiny).log().half().float()"
    other = "(-torch.expm1(s)).clamp_min(torch.finfo(torch.float32).tiny).log()"
    read = (
        f"$lambda p: ({stored} / {temperature!r}).softmax(dim=0)"
        if exclusive
        else f"$lambda p: (lambda s: ((s - {other}) / {temperature!r}).sigmoid())({stored})"
    )
    reading = {"_target_": "Lambdad", "keys": "pred", "func": read}
    return [activation, *([average] if members > 1 else []), reading]


def _prediction_keys(members: int) -> list[str]:
    return [f"pred_{number}" for number in range(members)]


def _evaluator(members: int) -> dict[str, Any]:
    same: dict[str, Any] = {
        "device": "@device",
        "val_data_loader": "@dataloader",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
    }
    if members == 1:
        return {"_target_": "SupervisedEvaluator", **same, "network": "$@network_def.to(@device)"}
    networks = [f"$@{_network_id(number)}.to(@device)" for number in range(members)]
    return {"_target_": "EnsembleEvaluator", **same, "networks": networks, "pred_keys": _prediction_keys(members)}

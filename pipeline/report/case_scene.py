"""Reads a test case and its prediction by one arm for display."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr

from data.errors import WorkspaceError
from pipeline.evaluation.metrics import count_voxels, dice
from pipeline.inference.most_probable import predicted_classes
from pipeline.report.overlay_figure import Scene
from pipeline.storage.tensors import load_about, load_arrays


@dataclass(frozen=True)
class ShownCase:
    """A case as the report shows it, and what follows from the prediction alone.

    Attributes:
        scene: the maps in RAS+.
        inside: `[X, Y, Z]` bool in RAS+, where the preprocessing mask (of the brain) is; all of it without one.
        channel: name of the channel shown.
        classes: names of the classes 1…K.
        draws: number of posterior draws behind the prediction; 1 is a single network.
        overlap: mean Dice over classes, recomputed from these maps.
    """

    scene: Scene
    inside: NDArray[np.bool_]
    channel: str
    classes: tuple[str, ...]
    draws: int
    overlap: float


def read_case(arrays_path: Path, prediction_path: Path, class_values: Mapping[str, Sequence[int]]) -> ShownCase:
    """Reads a case and its prediction.

    Args:
        arrays_path: `arrays.safetensors` of the preprocessed case.
        prediction_path: `probability` `[K, X, Y, Z]` of the foreground classes.
        class_values: class name → its values in the label map; the prediction names its K classes. 1…K where unknown.

    Returns:
        The case. Its entropy is that of the averaged probabilities, so arms with and without draws can be compared.

    Raises:
        WorkspaceError: the files lack an array or are on different grids.
    """
    arrays, prediction = load_arrays(arrays_path), load_arrays(prediction_path)
    about, about_prediction = load_about(arrays_path), load_about(prediction_path)
    try:
        image, label = arrays["image"], arrays["label"]
        probability, affine = prediction["probability"].astype(np.float32), np.array(about["affine"], dtype=np.float64)
    except KeyError as error:
        raise WorkspaceError(
            f"{prediction_path}: it or {arrays_path} lacks {error}",
            expected="image, label and affine there, probability here",
            fix="run the preprocess and infer stages again",
        ) from error
    if probability.shape[1:] != label.shape:
        raise WorkspaceError(
            f"{prediction_path}: the prediction has the grid {probability.shape[1:]}, the case {label.shape}",
            expected="one grid",
            fix="run the infer stage again",
        )
    mask = predicted_classes(torch.from_numpy(probability), about_prediction.get("thresholds")).numpy().astype(np.int16)
    numbers = range(1, len(probability) + 1)
    named = about_prediction.get("classes") or list(class_values)
    known = len(named) == len(numbers) and set(named) <= set(class_values)
    values = [class_values[name] for name in named] if known else [[k] for k in numbers]
    reference = sum((np.isin(label, v) * k for k, v in zip(numbers, values, strict=True)), np.zeros_like(mask))
    inside = np.asarray(arrays.get("mask", np.ones(mask.shape)) > 0)
    shown = np.where(inside, image[0], np.nan)
    # Outside the mask the network saw no anatomy; how sure it is there says nothing.
    entropy = np.where(inside, relative_entropy(probability), np.float32(0))
    scene = Scene.oriented(shown, reference, mask, entropy, affine)
    return ShownCase(
        scene,
        scene.turned(inside, affine),
        _first(about.get("channels") or about.get("channel_names")),
        tuple(str(name) for name in named) if known else tuple(f"class {k}" for k in numbers),
        int(about_prediction.get("draws", 1)),
        float(np.mean([dice(count_voxels(mask == k, reference == k)) for k in numbers])),
    )


def _first(names: Any) -> str:
    return str(next(iter(names or ()), ""))


def relative_entropy(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """Predictive entropy of `[K, X, Y, Z]` foreground probabilities as a share of its largest value, log(K + 1)."""
    background = np.clip(1 - probability.sum(axis=0), 0, 1)
    nats = entr(background) + entr(np.clip(probability, 0, 1)).sum(axis=0)
    return (nats / math.log(len(probability) + 1)).astype(np.float32)

"""Reads a test case and its prediction by one arm for display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import WorkspaceError
from models.heads import Heads
from pipeline.metrics.structure_dice import structure_dice
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import load_prediction
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
        heads: what the codes in reference and prediction stand for.
        draws: number of posterior draws behind the prediction; 1 is a single network.
        overlap: mean Dice over classes, recomputed from these maps.
    """

    scene: Scene
    inside: NDArray[np.bool_]
    channel: str
    classes: tuple[str, ...]
    heads: Heads
    draws: int
    overlap: float


def read_case(
    arrays_path: Path,
    prediction_path: Path,
    class_values: Mapping[str, Sequence[int]],
    reading: ReadingOptions,
    ignored: Sequence[int] = (),
) -> ShownCase:
    """Reads a case and its prediction.

    Args:
        arrays_path: `arrays.safetensors` of the preprocessed case.
        prediction_path: its stored prediction.
        class_values: class name → its values in the label map; the prediction names its K classes. 1…K where unknown.
        reading: how the arm reads its predictions.
        ignored: values of voxels without annotation in the label map.

    Returns:
        The case. Its entropy is that of the averaged probabilities, so arms with and without draws can be compared.

    Raises:
        WorkspaceError: the files lack an array or are on different grids.
    """
    stored = load_prediction(prediction_path)
    arrays, about = load_arrays(arrays_path), load_about(arrays_path)
    try:
        image, label = arrays["image"], arrays["label"]
        affine = np.array(about["affine"], dtype=np.float64)
    except KeyError as error:
        raise WorkspaceError(
            f"{arrays_path}: lacks {error}",
            expected="image, label and affine",
            fix="run the preprocess stage again",
        ) from error
    read = stored.read(reading)
    probability = read.foreground.numpy()
    if probability.shape[1:] != label.shape:
        raise WorkspaceError(
            f"{prediction_path}: the prediction has the grid {probability.shape[1:]}, the case {label.shape}",
            expected="one grid",
            fix="run the infer stage again",
        )
    mask = read.mask.astype(np.int32)
    numbers = range(1, len(probability) + 1)
    named = stored.classes
    known = len(named) == len(numbers) and set(named) <= set(class_values)
    names = tuple(str(name) for name in named) if known else tuple(f"class {k}" for k in numbers)
    values = {name: class_values[name] if known else [k] for k, name in enumerate(names, start=1)}
    heads = stored.heads
    reference = heads.codes(label, values, ignored).astype(np.int32)
    inside = np.asarray(arrays.get("mask", np.ones(mask.shape)) > 0)
    shown = np.where(inside, image[0], np.nan)
    # Outside the mask the network saw no anatomy; how sure it is there says nothing.
    entropy = np.where(inside, read.entropy.numpy() / heads.largest_entropy(len(probability)), np.float32(0))
    scene = Scene.oriented(shown, reference, mask, entropy, affine)
    return ShownCase(
        scene,
        scene.turned(inside, affine),
        str(next(iter(about.get("channels", ())), "")),
        names,
        heads,
        stored.draws,
        float(np.mean(structure_dice(mask, reference, heads, len(numbers)))),
    )

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
    stored, case = load_prediction(prediction_path), _read_arrays(arrays_path)
    read, heads = stored.read(reading), stored.heads
    count = len(read.foreground)
    if read.foreground.shape[1:] != case.label.shape:
        raise WorkspaceError(
            f"{prediction_path}: the prediction has the grid {tuple(read.foreground.shape[1:])}, the case "
            f"{case.label.shape}",
            expected="one grid",
            fix="run the infer stage again",
        )
    values = _class_values(stored.classes, count, class_values)
    mask = read.mask.astype(np.int32)
    reference = heads.codes(case.label, values, ignored).astype(np.int32)
    # Outside the mask the network saw no anatomy; how sure it is there says nothing.
    entropy = np.where(case.inside, read.entropy.numpy() / heads.largest_entropy(count), np.float32(0))
    scene = Scene.oriented(np.where(case.inside, case.image, np.nan), reference, mask, entropy, case.affine)
    return ShownCase(
        scene,
        scene.turned(case.inside, case.affine),
        case.channel,
        tuple(values),
        heads,
        stored.draws,
        float(np.mean(structure_dice(mask, reference, heads, count))),
    )


@dataclass(frozen=True)
class _Arrays:
    """A preprocessed case: its first channel, label and brain or content mask `[X, Y, Z]`."""

    image: NDArray[np.floating]
    label: NDArray[np.integer]
    inside: NDArray[np.bool_]
    affine: NDArray[np.float64]
    channel: str


def _read_arrays(path: Path) -> _Arrays:
    arrays, about = load_arrays(path), load_about(path)
    try:
        image, label = arrays["image"][0], arrays["label"]
        affine = np.array(about["affine"], dtype=np.float64)
    except KeyError as error:
        raise WorkspaceError(
            f"{path}: lacks {error}",
            expected="image, label and affine",
            fix="run the preprocess stage again",
        ) from error
    inside = np.asarray(arrays.get("mask", np.ones(label.shape)) > 0)
    return _Arrays(image, label, inside, affine, str(next(iter(about.get("channels", ())), "")))


def _class_values(
    named: Sequence[str], count: int, class_values: Mapping[str, Sequence[int]]
) -> dict[str, Sequence[int]]:
    """Class name → its values in the label map; 1…K where the names are not known."""
    if len(named) == count and set(named) <= set(class_values):
        return {str(name): class_values[name] for name in named}
    return {f"class {number}": [number] for number in range(1, count + 1)}

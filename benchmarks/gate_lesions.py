"""Do image models of healthy heads find lesions? The classical test of unsupervised anomaly detection.

`python benchmarks/gate_lesions.py` makes synthetic FLAIR heads, trains image models on healthy ones, and scores other
healthy ones and ones with lesions of multiple sclerosis. Printed are the area under the ROC curve of the scores of
whole heads, and the average precision of the map over the brain voxels of the heads with lesions, beside the share of
lesion voxels, which is what chance gives, and beside the intensity itself, which needs no model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from data.modality import Modality
from data.random_streams import random_stream
from data.synthetic.anatomy import Head
from data.synthetic.brain import Pathology, make_brain
from data.synthetic.contrast import Contrast, ContrastOptions
from data.synthetic.deformation import WarpOptions
from data.synthetic.ms_lesions import MSLesionOptions, draw_lesions
from data.synthetic.scanner import ScannerOptions
from models.image_models.image_model import ImageModel
from models.networks.residual_unet import ResidualUNetOptions
from pipeline.execution.progress import ProgressFile
from pipeline.storage.cached_case import ARRAYS
from pipeline.storage.cached_image import CachedImage
from pipeline.storage.tensors import load_arrays, save_arrays
from pipeline.training.augmentation import AugmentationOptions
from pipeline.training.computing import ComputingOptions
from pipeline.training.image_model_files import ABOUT, read_image_model
from pipeline.training.image_model_options import ImageModelOptions
from pipeline.training.image_model_training import ImageModelTask, train_image_model
from pipeline.training.patches import PatchOptions
from preprocessing.chain import Chain, default_options
from preprocessing.subject import Subject

CHANNEL = "FLAIR"
NETWORK = ResidualUNetOptions(channels=(16, 32, 64), encoder_blocks=(1, 1, 1))


def head(folder: Path, number: int, lesions: bool, spacing: float, seed: int) -> CachedImage:
    """Makes a preprocessed head, or finds it: image, brain mask, and lesions as its label."""
    if not (folder / ARRAYS).is_file():

        def streams(purpose: str) -> np.random.Generator:
            return random_stream(seed, "gate-lesions", number, purpose)

        def pathology(own: Head, rng: np.random.Generator) -> Pathology:
            if not lesions:
                return Pathology([], np.zeros(own.brain.shape, np.uint8), (1,))
            overlay = draw_lesions(own, MSLesionOptions(), rng)
            return Pathology([overlay], (overlay.fraction >= 0.5).astype(np.uint8), (1,))

        scanner = ScannerOptions(in_plane_spacing=(spacing, spacing), through_plane_spacing=(spacing, spacing))
        scan = make_brain([Contrast.FLAIR], pathology, WarpOptions(), ContrastOptions(), scanner, streams)
        options = default_options(Modality.MR).model_copy(update={"resampling": None})
        given = Subject(folder.name, {CHANNEL: scan.images[0]}, scan.label, scan.brain_mask)
        processed, _ = Chain(options).apply(given)
        content, label = processed.content(), processed.label
        # Skull and scalp are as bright as lesions, and no image model of brains is asked about them.
        image = processed.image() * content
        arrays = {"image": image.astype(np.float32), "mask": content.astype(np.uint8)}
        arrays["label"] = np.zeros(content.shape, np.uint8) if label is None else (label.array > 0).astype(np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays(folder / ARRAYS, arrays, {"affine": processed.reference.affine.tolist()})
    return CachedImage(folder.name, folder.name, folder, {})


def trained(
    folder: Path, heads: Mapping[str, list[CachedImage]], arguments: argparse.Namespace, kind: str
) -> ImageModel:
    """Trains an image model on healthy heads, or finds it."""
    if not (folder / ABOUT).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        task = ImageModelTask(
            kind, arguments.seed, {"source": heads}, NETWORK,
            ImageModelOptions.model_validate({"objective": kind, "steps": arguments.steps}),
            PatchOptions(size=tuple(arguments.patch), batch=2), AugmentationOptions(), ComputingOptions(),
        )  # fmt: skip
        train_image_model(folder, ProgressFile(folder / "progress"), task=task, device="cpu")
    return read_image_model(folder)[0]


def brain_of(own: CachedImage) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Image `[C, X, Y, Z]`, brain and lesions of a head."""
    arrays = load_arrays(own.path)
    brain = arrays["mask"] > 0
    return arrays["image"], brain, (arrays["label"] > 0) & brain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=30, help="healthy heads to learn from")
    parser.add_argument("--test", type=int, default=15, help="heads of each kind to score")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--spacing", type=float, default=4.0)
    parser.add_argument("--patch", type=int, nargs=3, default=[32, 32, 32])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("gate-lesions"))
    arguments = parser.parse_args()

    def heads(kind: str, count: int, start: int, lesions: bool) -> list[CachedImage]:
        folder = arguments.output / "heads"
        return [
            head(folder / f"{kind}-{n}", start + n, lesions, arguments.spacing, arguments.seed) for n in range(count)
        ]

    learned = {own.name: [own] for own in heads("learned", arguments.train, 0, False)}
    healthy = heads("healthy", arguments.test, 1000, False)
    ill = heads("lesions", arguments.test, 2000, True)
    shares = {own.name: brain_of(own)[2].sum() / brain_of(own)[1].sum() for own in ill}
    print(f"{arguments.train} healthy heads to learn from, {arguments.steps} steps, {arguments.spacing:g} mm")
    print(f"{arguments.test} heads of each kind; lesions are {np.mean(list(shares.values())):.4f} of the brain\n")
    print("| score | AUROC of heads | average precision of voxels |\n|---|---|---|")
    found = {}
    for kind in ("denoising", "variational"):
        model = trained(arguments.output / kind, learned, arguments, kind)
        values, precisions = [], []
        for own in (*healthy, *ill):
            image, brain, lesions = brain_of(own)
            generator = torch.Generator().manual_seed(arguments.seed)
            value, where = model.score(torch.from_numpy(image), torch.from_numpy(brain), generator, arguments.patch)
            values.append(value)
            if lesions.any():
                precisions.append(average_precision_score(lesions[brain], where.numpy()[brain]))
        area = roc_auc_score([0] * len(healthy) + [1] * len(ill), values)
        found[kind] = {"auroc": float(area), "average_precision": float(np.mean(precisions))}
        print(f"| {kind} | {area:.3f} | {np.mean(precisions):.3f} |")
    bright = [average_precision_score(lesions[brain], image[0][brain]) for image, brain, lesions in map(brain_of, ill)]
    print(f"| the intensity | – | {np.mean(bright):.3f} |")
    (arguments.output / "lesions.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

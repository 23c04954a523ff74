"""Training one source network: cosine cycles on a bootstrap sample, a snapshot at the end of each cycle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.random_streams import stream_seed
from data.splits import BootstrapSample
from models.networks.factory import NetworkOptions, build_network
from models.objectives import SegmentationLoss, SegmentationLossOptions
from pipeline.inference.sliding_window import SlidingWindowOptions
from pipeline.inference.validation import mean_dice
from pipeline.progress import ProgressFile
from pipeline.storage.atomic import write_json
from pipeline.storage.tensors import save_tensors
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.cached_case import CachedCase
from pipeline.training.loop import StepLoss, train
from pipeline.training.patches import PatchOptions, PatchSampler
from pipeline.training.schedule import cosine_cycles
from pipeline.training.source_options import SourceTrainingOptions

INITIAL = "initial.safetensors"


def snapshot_name(cycle: int) -> str:
    """File name of the weights at the end of a cycle (from 0)."""
    return f"snapshot-{cycle:02d}.safetensors"


def train_source_network(
    folder: Path,
    progress: ProgressFile,
    *,
    number: int,
    seed: int,
    sample: BootstrapSample,
    drawn: Sequence[Sequence[CachedCase]],
    out_of_bag: Sequence[CachedCase],
    network: NetworkOptions,
    options: SourceTrainingOptions,
    patches: PatchOptions,
    augmentation: AugmentationOptions,
    device: str,
) -> None:
    """Trains a network and writes its snapshots, history and bootstrap sample.

    Args:
        folder: where the files go.
        progress: is told the share of the steps done.
        number: which of the B networks.
        seed: the study's seed.
        sample: names of the drawn and the out-of-bag patients.
        drawn: cases of each drawn patient, with repetition.
        out_of_bag: cases to validate on.
        network: which network.
        options: of the training.
        patches: of the sampler.
        augmentation: of the patches.
        device: where to train.

    Raises:
        TrainingError: the loss is not finite.
    """
    first = drawn[0][0]
    classes = len(first.classes) + 1
    model = build_network(network, first.channels, classes, stream_seed(seed, "source-network", number)).to(device)
    initial = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    save_tensors(folder / INITIAL, initial, {"network": number})
    sampler = PatchSampler(drawn, patches, Augmentation(augmentation), stream_seed(seed, "source-patches", number))
    data_loss = SegmentationLoss(SegmentationLossOptions(likelihood=options.likelihood))
    validation = list(out_of_bag)[: options.validation_cases]
    steps = options.cycles * options.steps_per_cycle

    def step_loss(step: int) -> StepLoss:
        model.train()
        images, labels, names = sampler.batch(step)
        loss = data_loss(model(images.to(device)), labels.to(device))
        return StepLoss(loss, cases=names)

    def after_step(step: int, row: dict[str, float]) -> None:
        progress((step + 1) / steps)
        if (step + 1) % options.steps_per_cycle == 0:
            cycle = step // options.steps_per_cycle
            save_tensors(folder / snapshot_name(cycle), model.state_dict(), {"network": number, "cycle": cycle})
            if validation:
                model.eval()
                row["out_of_bag_dice"] = mean_dice(model, validation, patches.size, SlidingWindowOptions(), device)

    history = train(
        [{"params": list(model.parameters())}],
        step_loss,
        steps=steps,
        rate=lambda step: cosine_cycles(
            step,
            cycle=options.steps_per_cycle,
            peak=options.peak_rate,
            floor=options.floor_rate,
            warm_up=options.warm_up,
        ),
        options=options.optimiser,
        after_step=after_step,
        keep=lambda step: (step + 1) % options.steps_per_cycle == 0,
    )
    history.write(folder / "history.csv")
    names = [case.name for case in validation]
    write_json(
        folder / "sample.json",
        {"drawn": list(sample.drawn), "out_of_bag": list(sample.out_of_bag), "validated_on": names},
    )

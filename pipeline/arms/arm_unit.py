"""One arm on one training subset: train its members, predict the test cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data.random_streams import stream_seed
from models.filters import FilterLayer
from models.networks.factory import NetworkOptions
from models.priors.factory import PriorOptions, load_prior
from models.priors.prior import FilterPrior
from pipeline.arms.choices import ArmOptions
from pipeline.arms.inference_options import InferenceOptions
from pipeline.arms.learning import SourceKnowledge, learn_member
from pipeline.arms.objective_name import objective_name
from pipeline.arms.prediction import predict_case, save_prediction, weight_draws
from pipeline.progress import ProgressFile
from pipeline.storage.atomic import write_json
from pipeline.storage.tensors import load_tensors, save_tensors
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.cached_case import CachedCase
from pipeline.training.patches import PatchOptions, PatchSampler

PREDICTIONS = "predictions"
_TRAINING_SHARE = 0.9


@dataclass(frozen=True)
class ArmTask:
    """What one unit of the study does.

    Attributes:
        name: of the arm.
        arm: its choices.
        n: number of target patients.
        repeat: which repeat.
        patients: the target patients' cases.
        test: cases to predict.
        snapshots: last snapshot of every source network.
        priors: group → file of the fitted density.
        density: options of that density, if the arm has one.
        groups: group → layers of the source network.
    """

    name: str
    arm: ArmOptions
    n: int
    repeat: int
    patients: Mapping[str, Sequence[CachedCase]]
    test: Sequence[CachedCase]
    snapshots: Sequence[Path]
    priors: Mapping[str, Path]
    density: PriorOptions | None
    groups: Mapping[str, Sequence[FilterLayer]]


def _load_priors(task: ArmTask) -> dict[str, FilterPrior]:
    if task.density is None:
        return {}
    return {group: load_prior(task.density, load_tensors(path)) for group, path in task.priors.items()}


def learn_and_predict(
    folder: Path,
    progress: ProgressFile,
    *,
    task: ArmTask,
    options: InferenceOptions,
    network: NetworkOptions,
    patches: PatchOptions,
    augmentation: AugmentationOptions,
    seed: int,
    device: str,
) -> None:
    """Trains every member of the arm and predicts every test case.

    All randomness is a function of the seed, the size, the repeat and the member, and never of the arm: arms see the
    same patches and, where they start at random, the same weights.

    Raises:
        TrainingError: the loss is not finite.
    """
    first = task.test[0]
    members = []
    anew: list[str] = []
    for number in range(task.arm.members):
        own = stream_seed(seed, "target", task.repeat, number)
        sampler = PatchSampler(
            list(task.patients.values()), patches, Augmentation(augmentation), stream_seed(own, "patches", task.n)
        )
        state = load_tensors(task.snapshots[number % len(task.snapshots)]) if task.arm.needs_source else None
        # Priors hold parameters that are learned on the target, so every member gets its own.
        knowledge = SourceKnowledge(state, _load_priors(task), task.groups)

        def share(fraction: float, number: int = number) -> None:
            progress(_TRAINING_SHARE * (number + fraction) / task.arm.members)

        model, history, anew = learn_member(
            task.arm,
            options,
            network,
            first.channels,
            len(first.classes) + 1,
            knowledge,
            sampler,
            own,
            device,
            share,
        )
        history.write(folder / ("history.csv" if number == 0 else f"history-{number:02d}.csv"))
        save_tensors(folder / f"member-{number:02d}.safetensors", model.state_dict(), {"arm": task.name})
        with torch.no_grad():
            members.append((model, weight_draws(model, task.arm.draws, own, device)))
    for position, case in enumerate(task.test):
        average = predict_case(members, case, patches.size, options.window, device)
        save_prediction(average, case, folder / PREDICTIONS / f"{case.name}.safetensors")
        progress(_TRAINING_SHARE + (1 - _TRAINING_SHARE) * (position + 1) / len(task.test))
    about = {
        "arm": task.name,
        "n": task.n,
        "repeat": task.repeat,
        "patients": list(task.patients),
        "steps": options.steps,
        "choices": task.arm.model_dump(mode="json"),
        "objective": objective_name(task.arm, options, patches),
        "started_anew": anew,
    }
    write_json(folder / "unit.json", about)

"""Which network and recipe learns most from the same processor time?

`python benchmarks/recipes.py --dataset DIR --foreground NAME --output DIR --minutes 10` times a few steps of each
recipe, gives it as many steps as fit into the minutes of one core, trains it once (same patients, bootstrap sample and
seed, one cycle of the rate), and prints what one step takes, how many filters the network has, and the Dice on
out-of-bag patients. Steps are timed without augmentation, which other processes compute.

Every step is a command as a user types it, and a run that was stopped goes on. Without a dataset there is nothing to
do.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter
from source_studies import out_of_bag_dice, parser_of_sources, source_study
from study_runs import arguments_of, prepare, run_stages

from models.filters import filter_layers
from models.networks.factory import NetworkOptions, NetworkRecord, layers_of_network
from pipeline.planning.speed import measure_speed
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.storage.stage_names import Stage
from pipeline.training.patches import PatchOptions

RESIDUAL: dict[str, Any] = {"name": "residual_unet", "encoder_blocks": [0, 2, 2, 5]}
SMALL = RESIDUAL | {"channels": [8, 16, 32, 64]}
SHORT = {"name": "residual_unet", "channels": [16, 32, 64, 128], "encoder_blocks": [0, 1, 1, 1]}
DYNUNET = {"name": "dynunet", "channels": [16, 32, 64, 128]}
RECIPES: dict[str, dict[str, Any]] = {
    "residual U-Net 16–128": {"network": RESIDUAL | {"channels": [16, 32, 64, 128]}},
    "residual U-Net 8–64": {"network": SMALL},
    "residual U-Net 8, 32–128": {"network": RESIDUAL | {"channels": [8, 32, 64, 128]}},
    "residual U-Net 16–128, one block a level": {"network": SHORT},
    "DynUNet 8–64": {"network": DYNUNET | {"channels": [8, 16, 32, 64]}},
    "DynUNet 16–128": {"network": DYNUNET},
    "DynUNet 16–128, two heads more": {"network": DYNUNET | {"deep_supervision": 2}},
    "residual U-Net 8–64, elastic": {"network": SMALL, "augmentation": {"flip_axes": [], "elastic": 0.3}},
    "residual U-Net 8–64, batch of 2": {"network": SMALL, "batch": 2},
}
HEAD = ("recipe", "filters", "s a step", "steps", "minutes", "Dice")


def main() -> None:
    options = parser_of_sources(__doc__, "recipes")
    options.set_defaults(spacing=1.0, patch=[40, 56, 40])
    options.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="NAME")
    options.add_argument("--minutes", type=float, default=10.0, help="of one core for each training")
    arguments = arguments_of(options)
    prepared = prepare(source_study(arguments, "prepared"))
    table = [HEAD, ("---",) * len(HEAD)]
    for number, name in enumerate(RECIPES):
        if name not in arguments.recipes:
            continue
        recipe = RECIPES[name]
        network = TypeAdapter(NetworkOptions).validate_python(recipe["network"])
        sizes = {"size": arguments.patch, "batch": recipe.get("batch", arguments.batch), "foreground_share": 0.0}
        patches = PatchOptions.model_validate(sizes)
        # A run that goes on has the steps that were counted once.
        timed = arguments.output / f"recipe-{number}.json"
        if not timed.is_file():
            speed = measure_speed(network, 1, 2, patches, arguments.patch, SlidingWindowOptions(), "cpu", 1)
            timed.write_text(json.dumps(speed.step))
        seconds = json.loads(timed.read_text())
        steps = max(round(60 * arguments.minutes / seconds), 2)
        path = source_study(
            arguments,
            f"recipe-{number}",
            steps=steps,
            network=recipe["network"],
            patches=sizes,
            augmentation=recipe.get("augmentation", {"flip_axes": []}),
            execution={"threads": 1},
        )
        workspace = run_stages(path, prepared, (Stage.TRAIN_SOURCE,))
        filters = sum(layer.count for layer in filter_layers(layers_of_network(NetworkRecord(network, 1, 2))))
        done = json.loads((workspace / Stage.TRAIN_SOURCE / "network-00" / "done.json").read_text())
        numbers = (f"{filters:,}", f"{seconds:.2f}", str(steps), f"{done['seconds'] / 60:.1f}")
        table.append((name, *numbers, f"{out_of_bag_dice(workspace):.3f}"))
        print("\n".join(f"| {' | '.join(row)} |" for row in table), flush=True)


if __name__ == "__main__":
    main()

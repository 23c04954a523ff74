"""How the trainings of a study compute: the options of `computing`, with `auto` decided once for the whole study.

Arms are compared with each other, so all of them train in the same precision, even if a study continues on another
machine.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache

from pipeline.arms.arm_record import TRAININGS
from pipeline.config.study import StudyConfig
from pipeline.execution.unit import MARKER, read_marker
from pipeline.storage.file_names import IMAGE_MODELS, TRUNKS
from pipeline.storage.workspace import Workspace
from pipeline.training.computing import ComputingOptions, Precision, fastest_precision, has_bfloat16

logger = logging.getLogger(__name__)

_TRAININGS = (
    f"{TRUNKS}/*/{MARKER}",
    f"train-source/*/{MARKER}",
    f"{IMAGE_MODELS}/*/{MARKER}",
    f"{TRAININGS}/*/*/*/{MARKER}",
)


def settled_computing(config: StudyConfig, workspace: Workspace, device: str) -> ComputingOptions:
    """Returns the options of the study's trainings with a definite precision.

    `auto` becomes the precision of the trainings in the workspace or, in a new study, the fastest one of the device.
    """
    options = config.computing
    automatic = options.precision is Precision.AUTO
    begun = next(_trained_in(workspace), None) if automatic else None
    precision = begun or (fastest_precision(device) if automatic else options.precision)
    if precision is Precision.BFLOAT16 and not has_bfloat16(device):
        _warn_of_slow_steps(device, begun is not None)
    return options.model_copy(update={"precision": precision})


def _trained_in(workspace: Workspace) -> Iterator[Precision]:
    """Yields the precision of every finished training."""
    for pattern in _TRAININGS:
        for path in sorted(workspace.root.glob(pattern)):
            marker = read_marker(path.parent)
            if marker is not None:
                recipe = marker.get("recipe", {})
                # A network that was taken from a source pack was not trained here.
                if "taken" not in recipe:
                    # Older markers have no recipe; their default was float32.
                    yield Precision(recipe.get("computing", {}).get("precision", Precision.FLOAT32))


@cache
def _warn_of_slow_steps(device: str, begun: bool) -> None:
    """Warns once for each command that its trainings will be slow, and why."""
    logger.warning(
        "%s has no instructions for bfloat16, so a training step takes longer than in float32: about ten times as "
        "long where it was measured (15 s against 1.7 s at 1 mm). %s",
        "this processor" if device == "cpu" else "this GPU",
        "The study started in bfloat16 and continues in it; `--set computing.precision=float32` trains all of it again"
        if begun
        else "`computing.precision: auto`, the default, uses what the machine supports",
    )

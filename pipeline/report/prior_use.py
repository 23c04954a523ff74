"""What the prior did in the trainings of each arm: how large its KL was, and how hard it pulled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.stored_record import record_if_there
from pipeline.arms.gradient_sizes import GRADIENT_DATA, GRADIENT_KL
from pipeline.arms.kl_trend import KLTrend
from pipeline.arms.training_unit import TRAINING, TrainingRecord
from pipeline.report.number_text import NOTHING, counted, number, percent, signed
from pipeline.report.study_files import History, InferredUnit, read_history
from pipeline.storage.file_names import HISTORY

_LEFT = "left_prior_"


def gradient_share(history: History) -> NDArray[np.float64]:
    """The gradient of the KL on the means as a share of both gradients, for each row; empty where it was not logged."""
    if not {GRADIENT_DATA, GRADIENT_KL} <= history.keys():
        return np.empty(0)
    of_kl = history[GRADIENT_KL]
    both = of_kl + history[GRADIENT_DATA]
    return np.divide(of_kl, both, out=np.full_like(both, math.nan), where=both > 0)


def prior_lines(units: Sequence[InferredUnit]) -> list[dict[str, Any]]:
    """One line for each arm and size with a KL, over all trainings of its models.

    Args:
        units: the trained arms, with all repeats.
    """
    cells: dict[tuple[str, int], list[InferredUnit]] = {}
    for unit in units:
        cells.setdefault((unit.arm, unit.n), []).append(unit)
    found = []
    for (arm, n), own in cells.items():
        folders = [folder for unit in own for folder in unit.training_folders()]
        histories = [history for folder in folders if "kl" in (history := read_history(folder / HISTORY))]
        if histories:
            records = [record_if_there(folder / TRAINING, TrainingRecord) for folder in folders]
            trends = [trend for record in records if record is not None for trend in record.kl]
            found.append(_line(arm, n, histories, trends))
    return found


def _line(arm: str, n: int, histories: Sequence[History], trends: Sequence[KLTrend]) -> dict[str, Any]:
    moving = [trend for trend in trends if not trend.settled]
    of_all = f"{len(moving)} of {len(trends)}" if len(trends) > 1 else "no"
    shares = np.concatenate([gradient_share(history) for history in histories])
    shares = shares[np.isfinite(shares)]
    last = [column[-1] for history in histories for name, column in history.items() if name.startswith(_LEFT)]
    drift = float(np.mean([trend.relative_drift for trend in moving])) if moving else math.nan
    change = f"{signed(100 * drift, 1)}\N{NO-BREAK SPACE}%"
    return {
        "arm": arm,
        "n": n,
        "kl": number(float(np.mean([trend.level for trend in trends])) if trends else math.nan),
        "settled": NOTHING if not trends else f"{of_all}: {change}" if moving else "yes",
        "share": percent(float(np.median(shares)), 1) if len(shares) else NOTHING,
        "left": percent(float(np.nanmean(last)), 1) if np.isfinite(last).any() else NOTHING,
        "note": _note(arm, n, len(moving), len(trends)),
    }


def _note(arm: str, n: int, moving: int, trends: int) -> str:
    """What a reader has to know about the KL of an arm; nothing where it had settled, or too little was logged."""
    if not moving:
        return ""
    part = f" in {moving} of {counted(trends, 'training')}" if trends > 1 else ""
    return (
        f"The KL of {arm} at n = {n} was still moving when the training ended{part}: its posterior is not the one that "
        "the objective asks for, and more steps would change it."
    )

"""The one number that says how sure an arm is of its mask of a case: the estimated Dice, with its error."""

from __future__ import annotations

from pipeline.evaluation.arm_dice_fit import dice_pairs, fit_dice
from pipeline.report.number_text import number
from pipeline.report.study_files import StudyFiles


def case_confidence(files: StudyFiles, arm: str, n: int, repeat: int) -> dict[str, str]:
    """Prints the estimated Dice of every test case as `predict` with this arm's model would.

    Args:
        files: of the study.
        arm: which.
        n: number of target patients.
        repeat: which repeat's network.

    Returns:
        Case → e.g. `0.66 ± 0.10`, over the mean of its labels; empty where the error is not known, since an expected
        Dice without it may be far too high on unseen patients.
    """
    pairs = {} if files.calibration is None else dice_pairs(files.calibration, arm, n, repeat)
    fit = fit_dice(pairs)
    if fit is None:
        return {}
    return {
        case: f"{number(fit.estimate(expected).dice, 2)} ± {number(fit.error, 2)}"
        for (_, _, case), (expected, _) in pairs.items()
    }

"""The kinds of units of a study: their folders in the workspace, in the order in which they are made."""

from __future__ import annotations

from pipeline.arms.arm_record import PREDICTIONS, PSEUDO_LABELS, RATES, READINGS, ROUNDS, TRAININGS
from pipeline.storage.file_names import IMAGE_GATES, IMAGE_MODELS, STARTS, STRUCTURES, TRANSLATIONS, TRUNKS
from pipeline.storage.prior_files import COMPARISON, FITS, SCORING
from pipeline.storage.stage_names import Stage

KINDS_OF: dict[Stage, tuple[str, ...]] = {
    Stage.CHECK: (Stage.CHECK.value,),
    Stage.PREPROCESS: (Stage.PREPROCESS.value,),
    Stage.TRAIN_SOURCE: (TRANSLATIONS, TRUNKS, Stage.TRAIN_SOURCE.value),
    Stage.COLLECT_FILTERS: (Stage.COLLECT_FILTERS.value, STRUCTURES, STARTS),
    Stage.FIT_PRIORS: (FITS, SCORING, COMPARISON),
    Stage.INFER: (
        IMAGE_MODELS,
        IMAGE_GATES,
        TRAININGS,
        PSEUDO_LABELS,
        PREDICTIONS,
        RATES,
        ROUNDS,
        READINGS,
        Stage.INFER.value,
    ),
    Stage.EVALUATE: (Stage.EVALUATE.value,),
}
"""Stage → the kinds of its units."""
KINDS = tuple(kind for kinds in KINDS_OF.values() for kind in kinds)

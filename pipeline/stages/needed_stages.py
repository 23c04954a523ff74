"""Stages that a study does not have, and those that it does not need: `graft run` skips both and says why.

The command of a stage that is not needed still runs it; one that the study does not have has nothing to run.
"""

from __future__ import annotations

from pipeline.config.study import StudyConfig
from pipeline.priors.filter_options import PriorFitOptions
from pipeline.storage.stage_names import Stage

_OF_PACK = "the source is a pack, which holds the densities that were fitted to its filters"
_NO_SOURCE = "the study has no source"
_UNTESTED = "the study tests nobody"


def absent_stages(config: StudyConfig) -> dict[Stage, str]:
    """Stage → why a study does not have it."""
    untested = {} if config.target.tested else {Stage.EVALUATE: _UNTESTED}
    if config.source is None:
        return dict.fromkeys((Stage.TRAIN_SOURCE, Stage.COLLECT_FILTERS, Stage.FIT_PRIORS), _NO_SOURCE) | untested
    return untested if config.source.pack is None else {Stage.COLLECT_FILTERS: _OF_PACK, **untested}


def needless_stages(config: StudyConfig) -> dict[Stage, str]:
    """Stage → why a study does not need it, or does not have it.

    Densities that the study defines are fitted even if no arm uses them: they are compared with each other.
    """
    absent = absent_stages(config)
    if config.source_dataset is None:
        return absent
    arms = config.target_training.arms.values()
    chosen = config.priors.densities != PriorFitOptions().densities or config.priors.update_from is not None
    if chosen or any(arm.needs_prior for arm in arms):
        return absent
    reason = "no arm of the study uses a filter prior, and `priors` defines no density"
    needless = absent | dict.fromkeys((Stage.COLLECT_FILTERS, Stage.FIT_PRIORS), reason)
    go_on = any(model.from_source for model in config.image_models.values())
    if not go_on and not any(arm.uses_source for arm in arms):
        needless[Stage.TRAIN_SOURCE] = "no arm of the study uses anything that was learned on the source"
    return needless

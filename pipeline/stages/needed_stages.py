"""Stages that a study does not need: `graft run` skips them and says why; their own commands still run them."""

from __future__ import annotations

from pipeline.config.study import StudyConfig
from pipeline.priors.filter_options import PriorFitOptions
from pipeline.storage.stage_names import Stage

OF_PACK = "the source is a pack, which holds the densities that were fitted to its filters"
"""Why no filters are collected then."""


def needless_stages(config: StudyConfig) -> dict[Stage, str]:
    """Stage → why a study does not need it.

    Densities that the study defines are fitted even if no arm uses them: they are compared with each other.
    """
    if config.source.pack is not None:
        return {Stage.COLLECT_FILTERS: OF_PACK}
    arms = config.target_training.arms.values()
    chosen = config.priors.densities != PriorFitOptions().densities or config.priors.update_from is not None
    if chosen or any(arm.needs_prior for arm in arms):
        return {}
    reason = "no arm of the study uses a filter prior, and `priors` defines no density"
    needless = dict.fromkeys((Stage.COLLECT_FILTERS, Stage.FIT_PRIORS), reason)
    if not any(arm.needs_source or arm.needs_references for arm in arms):
        needless[Stage.TRAIN_SOURCE] = "no arm of the study uses anything that was learned on the source"
    return needless

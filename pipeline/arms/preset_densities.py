"""Densities over filters that the presets name.

Three are fitted in every study. The others are fitted where an arm names them, even if `priors.densities` does not
list them; a study that lists one changes single settings of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from models.priors.displacement import DisplacementOptions
from models.priors.factory import PriorOptions
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.reuse_or_redraw import ReuseOrRedrawOptions
from models.priors.standardisation import Covariance
from models.priors.vae_options import Condition, FilterVAEOptions

ISOTROPIC = "isotropic"
GAUSSIAN_FULL = "gaussian_full"
VAE = "vae"
VAE_CONDITIONAL = "vae_conditional"
GAUSSIAN_SOURCE = "gaussian_source"
REUSE_OR_REDRAW = "reuse_or_redraw"
GAUSSIAN_BRANCHES = "gaussian_branches"
DISPLACEMENT = "displacement"

# Positions correspond only within one network; member 0 of an arm starts from source network 0.
_AT_POSITIONS = GaussianOptions(centre=Centre.SOURCE_POSITION, covariance=Covariance.ISOTROPIC, network=0)

ON_DEMAND: dict[str, PriorOptions] = {
    VAE_CONDITIONAL: FilterVAEOptions(condition=Condition.LAYER),
    GAUSSIAN_SOURCE: _AT_POSITIONS,
    REUSE_OR_REDRAW: ReuseOrRedrawOptions(position=_AT_POSITIONS),
    GAUSSIAN_BRANCHES: GaussianOptions(centre=Centre.BRANCHES, shrinkage=None),
    DISPLACEMENT: DisplacementOptions(),
}


def with_densities_of_arms(densities: Mapping[str, Any], priors: Iterable[str]) -> dict[str, Any]:
    """Adds the densities that arms name and the study does not define.

    Args:
        densities: `priors.densities` of the study; `null` keeps a density out.
        priors: the arms' priors.
    """
    added = dict(densities)
    for name in dict.fromkeys(priors):
        if name not in ON_DEMAND:
            continue
        given = added.get(name, {})
        if isinstance(given, Mapping) and given.get("kind", ON_DEMAND[name].kind) == ON_DEMAND[name].kind:
            added[name] = {**ON_DEMAND[name].model_dump(mode="json"), **given}
    return added

"""Finds the densities of an earlier study that are updated with a new source set, without that study's filters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from data.errors import ConfigError, ModelError, WorkspaceError
from data.stored_record import NewerFormatError, read_record
from models.filters import FilterLayer
from models.priors.factory import PriorOptions
from models.priors.latent_prior import LatentPriorKind
from models.priors.vae_options import FilterVAEOptions
from pipeline.config.study import StudyConfig
from pipeline.execution.unit import read_marker
from pipeline.priors.earlier_density import EarlierDensity
from pipeline.priors.filter_summary import FilterSummary
from pipeline.stages import collect_filters
from pipeline.storage.digest import file_digest
from pipeline.storage.file_names import CONFIG, SUMMARY_JSON
from pipeline.storage.prior_files import density_file
from pipeline.storage.workspace import Workspace
from pipeline.storage.yaml_file import read_yaml

_STRUCTURE = (
    "latent", "architecture", "hidden", "condition", "embedding", "scaling", "standardise", "norm_input",
    "latent_prior",
)  # fmt: skip
"""Settings that determine the state dict; the others concern training and may differ."""


def earlier_densities(config: StudyConfig, group: str, layers: Sequence[FilterLayer]) -> dict[str, EarlierDensity]:
    """Finds the densities that a study updates, for one group of layers; none without `priors.update_from`.

    Raises:
        ConfigError: the study has no density that can be updated, or its settings differ from those of the earlier one.
        WorkspaceError: the earlier study's result is missing or damaged.
        ModelError: the earlier study's layers or kernels differ.
    """
    root = config.priors.update_from
    if root is None:
        return {}
    ours = {
        name: options
        for name, options in config.priors.densities.items()
        if isinstance(options, FilterVAEOptions) and options.latent_prior is LatentPriorKind.BOOSTED
    }
    if not ours:
        raise ConfigError(
            f"`priors.update_from` is {root}, but no density of `priors.densities` can be updated",
            expected="a density with `kind: vae` and `latent_prior: boosted`",
            fix="add one that the earlier study also has, or remove `priors.update_from`",
        )
    earlier = _resolved(root)
    _require_same_layers(root, earlier, config, group, layers)
    return {name: _density(root, earlier, group, name, options) for name, options in ours.items()}


def _resolved(root: Path) -> dict[str, Any]:
    path = Workspace(root).resolved_config if root.is_dir() else root / CONFIG
    try:
        return read_yaml(path)
    except ConfigError as error:
        raise WorkspaceError(
            f"{path}: cannot be read, so priors cannot be updated from {root}",
            expected="the workspace of a study whose `fit-priors` is done",
            fix="correct `priors.update_from`, or run the earlier study first",
        ) from error


def _require_same_layers(
    root: Path, earlier: dict[str, Any], config: StudyConfig, group: str, layers: Sequence[FilterLayer]
) -> None:
    grouping = (earlier.get("filters") or {}).get("grouping")
    if grouping != config.filters.grouping.value:
        raise ConfigError(
            f"{root}: its filters are grouped by {grouping!r}",
            expected=f"`filters.grouping: {config.filters.grouping.value}`, as in this study",
            fix="use the same grouping in both studies",
        )
    path = root / collect_filters.STAGE / group / SUMMARY_JSON
    try:
        found = list(read_record(path, FilterSummary).layers)
    except NewerFormatError:
        raise
    except WorkspaceError as error:
        raise WorkspaceError(
            f"{path}: this summary of the earlier study is missing or damaged",
            expected=f"its filters of the group {group!r}",
            fix="run its `collect-filters` stage, or use the same network and grouping in both studies",
        ) from error
    wanted = [layer.parameter for layer in layers]
    if found != wanted:
        raise ModelError(
            f"{path}: the group {group!r} of the earlier study has the layers {', '.join(found)}",
            expected=f"{', '.join(wanted)}: layers with kernels of 3×3×3 of the same network",
            fix="use the same `network` section in both studies",
        )


def _density(root: Path, earlier: dict[str, Any], group: str, name: str, options: FilterVAEOptions) -> EarlierDensity:
    raw = ((earlier.get("priors") or {}).get("densities") or {}).get(name)
    if raw is None:
        raise ConfigError(
            f"{root}: the earlier study has no density {name!r}",
            expected=f"one of the same name with `latent_prior: boosted`, to update this study's {name!r} from",
            fix="use the earlier density's name, or fit it there too",
        )
    adapter: TypeAdapter[PriorOptions] = TypeAdapter(PriorOptions)
    try:
        theirs = adapter.validate_python(raw)
    except ValidationError as error:
        raise WorkspaceError(
            f"{root}: its configuration of the density {name!r} cannot be read",
            expected="a study of this version of Graft",
            fix="run the earlier study again with this version",
        ) from error
    if not isinstance(theirs, FilterVAEOptions) or theirs.latent_prior is not LatentPriorKind.BOOSTED:
        raise ConfigError(
            f"{root}: the density {name!r} of the earlier study cannot be updated ({_kind(theirs)})",
            expected="`kind: vae` with `latent_prior: boosted`",
            fix="fit a BooVAE there, or fit to the filters of both source sets",
        )
    differing = [key for key in _STRUCTURE if getattr(theirs, key) != getattr(options, key)]
    if differing:
        raise ConfigError(
            f"{root}: the density {name!r} of the earlier study differs in {', '.join(differing)}",
            expected="the same structure in both studies; training settings may differ",
            fix="copy these settings from its config.resolved.yaml",
        )
    path = density_file(root, group, name)
    if read_marker(path.parent) is None or not path.is_file():
        raise WorkspaceError(
            f"{path}: this density of the earlier study is missing or damaged",
            expected="a finished `fit-priors` stage",
            fix="run `graft fit-priors` of the earlier study",
        )
    return EarlierDensity(path, options, file_digest(path))


def _kind(options: PriorOptions) -> str:
    return f"latent_prior: {options.latent_prior}" if isinstance(options, FilterVAEOptions) else f"kind: {options.kind}"

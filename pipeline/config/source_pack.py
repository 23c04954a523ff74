"""A study whose source is a pack: the pack decides the sections that its networks and densities were made with."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from data.errors import ConfigError
from data.input_file import is_there
from models.networks.factory import NetworkOptions
from models.networks.imported_network import ImportedNetworkOptions
from pipeline.config.merging import merged
from pipeline.config.study import StudyConfig
from pipeline.packs.pack_archive import open_pack
from pipeline.packs.pack_record import PackRecord
from pipeline.priors.filter_options import AUTO, FilterOptions, PriorFitOptions
from pipeline.storage.network_source import source_digest
from pipeline.training.source_options import SourceTrainingOptions

logger = logging.getLogger(__name__)

_SECTIONS: dict[str, TypeAdapter[Any]] = {
    "network": TypeAdapter(NetworkOptions),
    "source_training": TypeAdapter(SourceTrainingOptions),
    "filters": TypeAdapter(FilterOptions),
    "priors": TypeAdapter(PriorFitOptions),
}


def pack_of(raw: Mapping[str, Any]) -> PackRecord | None:
    """Reads the pack that a raw configuration names.

    Returns:
        what it holds; None where the configuration names none, or says all that the pack would: a resolved one can be
        read where the pack is not at hand.

    Raises:
        PackError: it is missing, damaged, or of a newer format.
    """
    source = raw.get("source")
    named = source.get("pack") if isinstance(source, Mapping) else None
    if not isinstance(named, str | Path) or (not is_there(Path(named)) and set(_SECTIONS) <= set(raw)):
        return None
    return open_pack(Path(named)).record


def filled_from(raw: Mapping[str, Any], pack: PackRecord, path: Path) -> dict[str, Any]:
    """Writes the sections that a pack decides into a raw configuration.

    Args:
        raw: the configuration; what it says of these sections must be what the pack says.
        pack: the source of the study.
        path: of the configuration, for errors.

    Raises:
        ConfigError: the configuration says something else, or leaves it to a stranger whose code is run.
    """
    filled = dict(raw)
    for section in _SECTIONS:
        given = raw.get(section)
        if given is not None and not isinstance(given, Mapping):
            continue
        theirs = getattr(pack, section)
        if isinstance(theirs, ImportedNetworkOptions):
            filled[section] = _own_code(given, theirs, path)
        else:
            filled[section] = _agreed(section, given or {}, theirs.model_dump(mode="json"), path)
    return filled


def _agreed(section: str, given: Mapping[str, Any], theirs: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The section of the pack, after all that is given of it was found to agree."""
    kind = given.get("name", theirs.get("name"))
    both = dict(given) if kind != theirs.get("name") else merged(dict(theirs), dict(given))
    try:
        read = _SECTIONS[section].validate_python(both).model_dump(mode="json")
    except ValidationError:
        # The study's own validation says it, with the key.
        return both
    if difference := _difference(theirs, read, section):
        key, wanted, found = difference
        raise ConfigError(
            f"{path}: `{key}` is {_shown(found)}, but the source pack was made with {_shown(wanted)}",
            expected=f"the `{section}` of the pack, or none",
            fix=f"remove `{section}` from the configuration, or set `{key}: {_shown(wanted)}`",
        )
    return both


def _own_code(given: Mapping[str, Any] | None, theirs: ImportedNetworkOptions, path: Path) -> dict[str, Any]:
    """An imported network of the user's own words: whoever made the pack does not say whose code runs here."""
    wanted = theirs.model_dump(mode="json", exclude={"source", "name"})
    if given is None or {"options": {}, **given}.get("factory") != theirs.factory:
        raise ConfigError(
            f"{path}: the networks of the source pack are built by code outside Graft, `{theirs.factory}`, which runs "
            "only if the configuration says so",
            expected="the same network in the configuration, if you trust its code",
            fix=f"set `network: {_shown(wanted)}`",
        )
    if dict(given.get("options") or {}) != theirs.options:
        raise ConfigError(
            f"{path}: `network.options` is {_shown(given.get('options'))}, but the source pack was made with "
            f"{_shown(theirs.options)}",
            expected="the network of the pack",
            fix=f"set `network: {_shown(wanted)}`",
        )
    if theirs.source and source_digest(theirs.factory) != theirs.source:
        logger.warning(
            "the code of `%s` is not what the networks of the source pack were trained with: results may differ",
            theirs.factory,
        )
    return dict(given)


def _difference(wanted: Any, found: Any, key: str) -> tuple[str, Any, Any] | None:
    """The first key in which a section differs; densities that the pack lacks are told of with the arms."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        # `null` stands for a default density that the pack was made without.
        names = [name for name, own in wanted.items() if key != "priors.densities" or own is not None]
        pairs = (_difference(wanted[name], found.get(name), f"{key}.{name}") for name in names)
        return next((pair for pair in pairs if pair), None)
    return None if wanted == found else (key, wanted, found)


def require_densities(config: StudyConfig, pack: PackRecord, path: Path) -> None:
    """Refuses densities that a study names and its pack does not hold.

    Raises:
        ConfigError: names the density, the arm that needs it, and those that there are.
    """
    there = pack.densities
    named = {arm.prior: f"arm {name!r} needs" for name, arm in config.target_training.arms.items() if arm.needs_prior}
    asked = {name: "`priors.densities` names" for name in config.priors.densities if name not in pack.priors.densities}
    for density, who in {**asked, **named}.items():
        if density in there or (density == AUTO and _chooses(pack)):
            continue
        expected = f"one of {', '.join(there)}" if there else "an arm without a filter prior: the pack has no densities"
        raise ConfigError(
            f"{path}: {who} the density {density!r}, which the source pack does not have",
            expected=expected,
            fix="set `prior` of the arm to one of these, or use another pack" if there else "use another pack or arm",
        )


def _chooses(pack: PackRecord) -> bool:
    return all(group.scores is not None and group.scores.auto is not None for group in pack.groups.values())


def _shown(value: Any) -> str:
    """A value as one line of YAML."""
    if isinstance(value, Mapping | list | tuple):
        text = yaml.safe_dump(json.loads(json.dumps(value)), default_flow_style=True, width=10**6, sort_keys=False)
        return text.strip()
    return "null" if value is None else str(value)

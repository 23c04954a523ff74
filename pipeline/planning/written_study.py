"""A planned study on the disk: read again and validated before it is written, and never over another file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from data.errors import ConfigError
from data.names import printable
from pipeline.config.reading import parse_config
from pipeline.planning.planner import draft_study
from pipeline.planning.request import PlanRequest
from pipeline.planning.study_writer import study_text
from pipeline.stages.resources import Resources
from pipeline.stages.target_checks import compare_sides
from pipeline.storage.atomic import write_text
from pipeline.storage.yaml_file import parse_yaml

logger = logging.getLogger(__name__)

_SUFFIXES = (".yaml", ".yml")


def require_free(output: Path, force: bool) -> None:
    """Refuses a file that is there, or that would not be taken for a study.

    Raises:
        ConfigError: it is there and may not be replaced, or its name ends otherwise.
    """
    if output.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--output {output}: is no name of a study", expected="a name in .yaml", fix="correct it")
    if output.is_dir() or (output.exists() and not force):
        fix = "name another" if output.is_dir() else "name another, or replace it with `--force`"
        raise ConfigError(f"--output {output}: exists already", expected="a new file", fix=fix)


@dataclass(frozen=True)
class WrittenStudy:
    """A planned study.

    Attributes:
        text: its YAML.
        told: lines for people.
    """

    text: str
    told: tuple[str, ...]


def planned_study(
    request: PlanRequest,
    output: Path,
    resources: Resources,
    workspace: Path | None = None,
    overrides: Sequence[str] = (),
) -> WrittenStudy:
    """Plans a study, and reads what was planned as it will be read.

    Args:
        request: what is asked for.
        output: name of the study, for errors.
        resources: of this machine.
        workspace: folder of the results, where it is not that of the study's name.
        overrides: keys that will have another value when it is read.

    Raises:
        GraftError: a dataset or a pack is not usable, the budget is too small, or (`strict`) the source differs.
    """
    draft = draft_study(request, resources)
    if workspace is not None:
        draft.add("workspace", str(workspace))
    text = study_text(draft.values, draft.reasons, draft.heading)
    config = parse_config(parse_yaml(text), output, overrides)
    for warning in draft.warnings:
        logger.warning("%s", warning)
    channels = {name: dataset.channels or () for name, dataset in config.datasets.items()}
    compare_sides(config, channels, draft.pack, request.strict)
    return WrittenStudy(text, tuple(map(printable, draft.told)))


def plan_study(request: PlanRequest, output: Path, jobs: int | None, device: str) -> None:
    """Plans a study, tells the plan and writes it.

    Raises:
        GraftError: a dataset or a pack is not usable, or the budget is too small; nothing is written then.
    """
    plan = planned_study(request, output, Resources(jobs, device))
    write_text(output, plan.text)
    for line in plan.told:
        typer.echo(line)
    typer.echo(f"The study is {output}; look at it, change it, and run it with `graft run {output}`.")

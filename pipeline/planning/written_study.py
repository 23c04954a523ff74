"""A planned study on the disk: read again and validated before it is written, and never over another file."""

from __future__ import annotations

import logging
from pathlib import Path

import typer

from data.errors import ConfigError
from data.names import printable
from pipeline.config.reading import parse_config
from pipeline.planning.planner import draft_study
from pipeline.planning.request import PlanRequest
from pipeline.planning.study_writer import study_text
from pipeline.stages.resources import Resources
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


def plan_study(request: PlanRequest, output: Path, jobs: int | None, device: str) -> None:
    """Plans a study, tells the plan and writes it.

    Raises:
        GraftError: a dataset is not usable, or the budget is too small; nothing is written then.
    """
    draft = draft_study(request, Resources(jobs, device))
    text = study_text(draft.values, draft.reasons, draft.heading)
    parse_config(parse_yaml(text), output)
    write_text(output, text)
    for warning in draft.warnings:
        logger.warning("%s", warning)
    for line in draft.told:
        typer.echo(printable(line))
    typer.echo(f"The study is {output}; look at it, change it, and run it with `graft run {output}`.")

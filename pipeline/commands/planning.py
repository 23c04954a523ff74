"""`graft init`: plans a study from its scans, and writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.output import stoppable
from pipeline.commands.planning_options import PlanningOptions, with_planning_options
from pipeline.commands.shared_options import SharedOptions, with_shared_options

Target = Annotated[Path, typer.Argument(metavar="TARGET", help="Your annotated scans: a folder or a manifest.")]


@with_shared_options("jobs", "device", "debug")
@with_planning_options()
def init(
    plan: PlanningOptions,
    options: SharedOptions,
    target: Target,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The study to write.")] = Path("study.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
) -> None:
    """Plan a study from its scans. Writes a YAML file that says why each value was chosen."""
    request = plan.request(target)
    from pipeline.planning.written_study import plan_study, require_free

    require_free(output, force)
    with stoppable(output):
        plan_study(request, output, options.jobs, options.device.value)

"""`graft init` plans a study from its scans and writes it; `graft adapt` carries it out, too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.output import stoppable
from pipeline.commands.planning_options import PlanningOptions, with_planning_options
from pipeline.commands.shared_options import SharedOptions, with_shared_options
from pipeline.storage.file_names import PLANNED_STUDY

Target = Annotated[Path, typer.Argument(metavar="TARGET", help="Your annotated scans: a folder or a manifest.")]


@with_shared_options("jobs", "device", "debug")
@with_planning_options()
def init(
    plan: PlanningOptions,
    options: SharedOptions,
    target: Target,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The study to write.")] = Path(PLANNED_STUDY),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
) -> None:
    """Plan a study from its scans. Writes a YAML file that says why each value was chosen."""
    request = plan.request(target)
    from pipeline.planning.written_study import plan_study, require_free

    require_free(output, force)
    with stoppable(output):
        plan_study(request, output, options.jobs, options.device.value)


@with_shared_options(
    "overrides",
    "jobs",
    "device",
    "debug",
    overrides=Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key of the planned study, as in a.b=c; repeatable."
        ),
    ],
)
@with_planning_options()
def adapt(
    plan: PlanningOptions,
    options: SharedOptions,
    target: Target,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder of the model; its study lies beside.")
    ],
) -> None:
    """From annotated scans to a model. Plans a study, cross-validates, and says how good the model is."""
    request = plan.request(target)
    from data.names import printable
    from pipeline.adaptation.adapt_command import adapt as carry_out
    from pipeline.adaptation.adapt_command import study_folder
    from pipeline.stages.resources import Resources

    resources = Resources(options.jobs, options.device.value, plan.strict)
    with stoppable(study_folder(output)):
        carry_out(request, output, options.overrides, resources, lambda line: typer.echo(printable(line)))

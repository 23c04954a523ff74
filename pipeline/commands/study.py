"""Commands on a study: single stages, and all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.output import stoppable
from pipeline.commands.shared_options import SharedOptions, as_words, with_shared_options
from pipeline.storage.file_names import INDEX
from pipeline.storage.stage_names import Stage

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The study, a YAML file such as configs/demo.yaml.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse a source whose modality, channels or spacing differ from the target's.")
]

STAGE_HELP = {
    Stage.TRAIN_SOURCE: "Train networks on samples of the source. Each learns from a bootstrap sample of its patients.",
    Stage.COLLECT_FILTERS: "Collect all 3x3x3 filters of the snapshots. They are stored by group of layers.",
    Stage.FIT_PRIORS: "Fit densities to the filters of every group.",
    Stage.INFER: "Train every arm and predict the test cases. Each arm learns from every subset of the target.",
    Stage.EVALUATE: "Measure every prediction and compare the arms. Overlap, distances, volumes, lesions, calibration.",
    Stage.REPORT: "Build the report from the files of the workspace.",
}
"""Stages whose command takes only a study, in their order."""


def run_study(stages: list[Stage], path: Path, options: SharedOptions, strict: bool = False) -> None:
    """Runs stages of a study."""
    from pipeline.config.reading import read_config

    # Before the stages, and torch with them, are imported: an error in the file is reported at once.
    config = read_config(path, options.overrides, options.workspace)

    from pipeline.stages.resources import Resources
    from pipeline.stages.sequence import run_stages

    resources = Resources(options.jobs, options.device.value, strict)
    with stoppable(config.workspace_folder):
        workspace = run_stages(stages, config, resources)
    if Stage.REPORT in stages:
        typer.echo(f"The report is {workspace.root / Stage.REPORT / INDEX}")


def stage_command(stage: Stage) -> Callable[..., None]:
    """Makes the command of a stage that takes only a study."""

    @with_shared_options()
    def command(options: SharedOptions, config: Config, strict: Strict = False) -> None:
        run_study([stage], config, options, strict)

    return command


@with_shared_options()
def run(
    options: SharedOptions,
    config: Config,
    strict: Strict = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is to do, for how long and why, and run nothing.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="With --dry-run: time steps of trainings of which none was ever done.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; `graft status` shows it.")] = False,
) -> None:
    """Run all stages; finished work is not repeated."""
    if dry_run:
        from pipeline.commands.dry_run import show_forecast
        from pipeline.config.reading import read_config

        study = read_config(config, options.overrides, options.workspace)

        from pipeline.stages.resources import Resources

        show_forecast(list(Stage), study, Resources(options.jobs, options.device.value, strict), probe)
    elif probe:
        from data.errors import ConfigError

        raise ConfigError("--probe without --dry-run", expected="both, or neither", fix="add --dry-run")
    elif detach:
        from pipeline.commands.detached import start_detached
        from pipeline.config.reading import read_config

        study = read_config(config, options.overrides, options.workspace)
        own = ["--strict"] if strict else []
        start_detached(["run", str(config), *own, *as_words(options)], study.workspace_folder)
    else:
        run_study(list(Stage), config, options, strict)


@with_shared_options()
def check(
    options: SharedOptions,
    path: Annotated[Path, typer.Argument(metavar="DATASET|CONFIG", help="A dataset folder or manifest, or a study.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings of a dataset as JSON.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when there are warnings.")] = False,
) -> None:
    """Check a dataset, or the datasets and split of a study."""
    if path.suffix.lower() in {".yaml", ".yml"}:
        run_study([Stage.CHECK], path, options, strict)
        typer.echo("The datasets of the study are usable.")
        return
    from pipeline.commands.dataset_check import check_folder

    with stoppable(path):
        code = check_folder(path, as_json=as_json, strict=strict, jobs=options.jobs)
    if code:
        raise typer.Exit(code)

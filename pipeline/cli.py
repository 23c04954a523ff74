"""The `graft` command. Everything heavy is imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from data.synthetic.cohort_kind import CohortKind

app = typer.Typer(
    name="graft",
    help="Few-shot 3D segmentation by transfer: learn filter priors on a source, infer on a few target scans.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130


class Device(StrEnum):
    """Where to train."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class GlobalOptions:
    """Options that every command takes, before its name or after it."""

    overrides: tuple[str, ...] = ()
    workspace: Path | None = None
    jobs: int | None = None
    device: Device = Device.AUTO
    debug: bool = False


_state = GlobalOptions()

Override = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the configuration, as in a.b=c; repeatable."),
]
WorkspaceFolder = Annotated[Path | None, typer.Option("--workspace", metavar="DIR", help="Folder of the results.")]
Jobs = Annotated[int | None, typer.Option("--jobs", min=1, help="Units of work at a time [default: one per core].")]
OnDevice = Annotated[Device | None, typer.Option("--device", help="Where to train [default: auto].")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and details.")]
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The study, a YAML file such as configs/demo.yaml.")]


def _take(
    overrides: list[str] | None, workspace: Path | None, jobs: int | None, device: Device | None, debug: bool
) -> GlobalOptions:
    """Merges options given here with those given before; the later ones win."""
    global _state
    _state = GlobalOptions(
        (*_state.overrides, *(overrides or ())),
        workspace or _state.workspace,
        jobs or _state.jobs,
        device or _state.device,
        debug or _state.debug,
    )
    logging.getLogger().setLevel(logging.DEBUG if _state.debug else logging.INFO)
    return _state


@app.callback()
def _options(
    overrides: Override = None,
    workspace: WorkspaceFolder = None,
    jobs: Jobs = None,
    device: OnDevice = None,
    debug: Debug = False,
) -> None:
    _take(overrides, workspace, jobs, device, debug)


@contextmanager
def _stoppable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        # The command line library would turn it into "Aborted!" and exit code 1.
        typer.echo("graft: stopped; run the same command again to go on where it was.", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _run(stage_names: list[str], path: Path, options: GlobalOptions) -> None:
    from pipeline.config.reading import read_config
    from pipeline.stages.resources import Resources
    from pipeline.stages.sequence import Stage, run_stages

    config = read_config(path, options.overrides, options.workspace)
    resources = Resources(options.jobs, options.device.value)
    with _stoppable():
        workspace = run_stages([Stage(name) for name in stage_names], config, resources)
    if "report" in stage_names:
        typer.echo(f"The report is {workspace.root / 'report' / 'index.html'}")


def _add_stage_command(name: str, text: str) -> None:
    def command(
        config: Config,
        overrides: Override = None,
        workspace: WorkspaceFolder = None,
        jobs: Jobs = None,
        device: OnDevice = None,
        debug: Debug = False,
    ) -> None:
        _run([name], config, _take(overrides, workspace, jobs, device, debug))

    app.command(name, help=text)(command)


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    cohort: Annotated[CohortKind, typer.Option(help="Anatomy and disease.")],
    cases: Annotated[int, typer.Option(min=1, help="Number of cases.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    channels: Annotated[
        list[str] | None, typer.Option("--channel", help="Contrast, repeatable: T1, T2, FLAIR [default: FLAIR].")
    ] = None,
    overrides: Override = None,
    workspace: WorkspaceFolder = None,
    jobs: Jobs = None,
    device: OnDevice = None,
    debug: Debug = False,
) -> None:
    """Make a synthetic cohort of raw scans with real anatomy, in MSD layout."""
    from pipeline.synthesis import synthesize_cohort

    options = _take(overrides, workspace, jobs, device, debug)
    with _stoppable():
        synthesize_cohort(out, cohort, cases, seed, channels, options.overrides, options.jobs)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(metavar="DATASET|CONFIG", help="A dataset folder or manifest, or a study.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings of a dataset as JSON.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when there are warnings.")] = False,
    overrides: Override = None,
    workspace: WorkspaceFolder = None,
    jobs: Jobs = None,
    device: OnDevice = None,
    debug: Debug = False,
) -> None:
    """Check a dataset, or the datasets and the split of a study."""
    options = _take(overrides, workspace, jobs, device, debug)
    if path.suffix.lower() in {".yaml", ".yml"}:
        _run(["check"], path, options)
        typer.echo("The datasets of the study are usable.")
        return
    from pipeline.dataset_check import check_folder

    code = check_folder(path, as_json=as_json, strict=strict, jobs=options.jobs)
    if code:
        raise typer.Exit(code)


for _name, _text in {
    "preprocess": "Take every case from raw scan to network input.",
    "train-source": "Train networks on bootstrap samples of the source patients.",
    "collect-filters": "Collect all 3x3x3 filters of the snapshots by group of layers.",
    "fit-priors": "Fit densities over the filters of every group.",
    "infer": "Let every arm learn the target on every subset and predict the test cases.",
    "evaluate": "Measure Dice and IoU of every prediction.",
    "report": "Build the report from the files of the workspace.",
}.items():
    _add_stage_command(_name, _text)


@app.command()
def run(
    config: Config,
    overrides: Override = None,
    workspace: WorkspaceFolder = None,
    jobs: Jobs = None,
    device: OnDevice = None,
    debug: Debug = False,
) -> None:
    """Run all stages; what is finished is not done again."""
    from pipeline.stages.sequence import Stage

    _run([stage.value for stage in Stage], config, _take(overrides, workspace, jobs, device, debug))


@app.command()
def version() -> None:
    """Print the version."""
    from pipeline.storage.provenance import graft_version

    typer.echo(graft_version())


def _set_up_logging() -> None:
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", datefmt="%H:%M:%S", handlers=[handler])
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for chatty in ("matplotlib", "nibabel", "torch", "nilearn", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0; 2 for an error that the user can mend, 130 after Ctrl-C, 1 for a bug.
    """
    from data.errors import GraftError

    global _state
    _state = replace(GlobalOptions(), debug=bool(os.environ.get("GRAFT_DEBUG")))
    _set_up_logging()
    try:
        app(arguments)
    except GraftError as error:
        if _state.debug:
            logging.getLogger(__name__).exception("stopped")
        typer.echo(f"graft: {error}", err=True)
        return error.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())

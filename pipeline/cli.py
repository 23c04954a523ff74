"""The `graft` command. Everything heavy is imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from data.errors import GraftError
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
    place: Path | None = None
    """Where the results of the command go."""


_state = GlobalOptions()

Override = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the configuration, as in a.b=c; repeatable."),
]
WorkspaceFolder = Annotated[Path | None, typer.Option("--workspace", metavar="DIR", help="Folder of the results.")]
Jobs = Annotated[int | None, typer.Option("--jobs", min=1, help="Units of work at a time [default: one per core].")]
OnDevice = Annotated[Device | None, typer.Option("--device", help="Where to train [default: auto].")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and details.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse a source whose modality or spacing differs from the target's.")
]
NetworkCode = Annotated[
    bool,
    typer.Option("--allow-network-code", help="Run the model's network if it is code outside Graft, which you trust."),
]
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
def _working(place: Path) -> Iterator[None]:
    """Carries out a command that can be stopped, whose results go to `place`."""
    global _state
    _state = replace(_state, place=place)
    from pipeline.stopping import REQUEUE, StopSignal, ends_on_signal

    try:
        with ends_on_signal():
            yield
    except KeyboardInterrupt as stop:
        # The command line library would turn it into "Aborted!" and exit code 1.
        typer.echo("graft: stopped; run the same command again to go on where it was.", err=True)
        raise typer.Exit(REQUEUE if isinstance(stop, StopSignal) else _INTERRUPTED) from None


def _run(stage_names: list[str], path: Path, options: GlobalOptions, strict: bool = False) -> None:
    from pipeline.config.reading import read_config

    # Before the stages are imported, and torch with them: a slip in the file is told at once.
    config = read_config(path, options.overrides, options.workspace)

    from pipeline.stages.resources import Resources
    from pipeline.stages.sequence import Stage, run_stages

    resources = Resources(options.jobs, options.device.value, strict)
    with _working(config.workspace_folder):
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
        strict: Strict = False,
    ) -> None:
        _run([name], config, _take(overrides, workspace, jobs, device, debug), strict)

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
    """Make a synthetic cohort of raw scans. Real anatomy, in MSD layout."""
    from pipeline.synthesis import synthesize_cohort

    options = _take(overrides, workspace, jobs, device, debug)
    with _working(out):
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
    """Check a dataset, or the datasets and split of a study."""
    options = _take(overrides, workspace, jobs, device, debug)
    if path.suffix.lower() in {".yaml", ".yml"}:
        _run(["check"], path, options, strict)
        typer.echo("The datasets of the study are usable.")
        return
    from pipeline.dataset_check import check_folder

    with _working(path):
        code = check_folder(path, as_json=as_json, strict=strict, jobs=options.jobs)
    if code:
        raise typer.Exit(code)


@app.command()
def preprocess(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="CONFIG|INPUT...", help="The study; with --model: scans, folders, datasets.")
    ],
    model: Annotated[
        Path | None, typer.Option("--model", metavar="MODEL", help="Prepare new scans as this model takes them.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="With --model: folder of the results.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="DIR",
            help="With --model: masks of its bundle, to be carried back to the scans; INPUT is the folder of the "
            "prepared scans.",
        ),
    ] = None,
    overrides: Override = None,
    workspace: WorkspaceFolder = None,
    jobs: Jobs = None,
    device: OnDevice = None,
    debug: Debug = False,
    strict: Strict = False,
) -> None:
    """Take scans from raw to network input. Those of a study, or with --model new ones as that model takes them."""
    options = _take(overrides, workspace, jobs, device, debug)
    from data.errors import ConfigError

    if model is None:
        if len(inputs) != 1 or output is not None or masks is not None:
            raise ConfigError(
                f"graft preprocess: {len(inputs)} inputs and no --model",
                expected="one configuration, or --model MODEL INPUT... --output DIR",
                fix="name the model, or the configuration alone",
            )
        _run(["preprocess"], inputs[0], options, strict)
        return
    if output is None or (masks is not None and len(inputs) != 1):
        raise ConfigError(
            "graft preprocess --model: " + ("no --output" if output is None else f"{len(inputs)} inputs with --masks"),
            expected="--model MODEL INPUT... --output DIR, with --masks one INPUT, the folder of the prepared scans",
            fix="add --output DIR" if output is None else "name that folder alone",
        )
    from pipeline.deployment.prepare_command import PrepareRequest, carry_back, prepare

    with _working(output):
        if masks is not None:
            count = carry_back(model, inputs[0], masks, output)
            typer.echo(f"{count} mask{'s' * (count != 1)} carried back to the grids of the scans: {output}")
        else:
            count = prepare(PrepareRequest(model, tuple(inputs), output, options.jobs))
            typer.echo(f"{count} scan{'s' * (count != 1)} prepared for the model's bundle: {output}")


for _name, _text in {
    "train-source": "Train networks on samples of the source. Bootstrap samples of its patients.",
    "collect-filters": "Collect all 3x3x3 filters of the snapshots. They are kept by group of layers.",
    "fit-priors": "Fit densities over the filters of every group.",
    "infer": "Train every arm on the target, predict the test cases. Each arm learns on every subset.",
    "evaluate": "Measure every prediction and compare the arms. Overlap, distances, volumes, lesions, calibration.",
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
    strict: Strict = False,
) -> None:
    """Run all stages; what is finished is not done again."""
    from pipeline.stages.sequence import Stage

    _run([stage.value for stage in Stage], config, _take(overrides, workspace, jobs, device, debug), strict)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, as infer/ARM/nNN/repeat-R/model.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Image files, folders of them, datasets.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder of the results.")],
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Draws from each posterior [default: as in the study].")
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average over the mirrorings that the training made.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities/--no-probabilities", help="Write the probability of each class.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Keep what is finished.")] = True,
    allow_network_code: NetworkCode = False,
    overrides: Override = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Scans at a time [default: 1].")] = None,
    device: Annotated[Device | None, typer.Option("--device", help="Where to predict [default: auto].")] = None,
    debug: Debug = False,
) -> None:
    """Segment new scans with a trained model. Masks and uncertainty lie on their own grids."""
    options = _take(overrides, None, jobs, device, debug)
    from pipeline.deployment.predict_command import PredictRequest, predict_options
    from pipeline.deployment.predict_command import predict as predict_scans

    given = {"samples": samples, "tta": tta, "probabilities": probabilities}
    chosen = predict_options(options.overrides, {key: value for key, value in given.items() if value})
    with _working(output):
        predict_scans(
            PredictRequest(
                model,
                tuple(inputs),
                output,
                chosen,
                options.jobs,
                options.device.value,
                resume,
                allow_network_code,
            )
        )
    typer.echo(f"The results are in {output}, with a line for each structure in {output / 'predictions.csv'}")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, as infer/ARM/nNN/repeat-R/model.")],
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Folder of the bundle.")],
    study: Annotated[
        Path | None,
        typer.Option("--study", metavar="DIR", help="Workspace of the study [default: the one that holds the model]."),
    ] = None,
    example: Annotated[
        list[Path] | None,
        typer.Option("--example", metavar="SCAN", help="Put a scan and its mask into the bundle; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier export wrote there.")] = False,
    allow_network_code: NetworkCode = False,
    overrides: Override = None,
    debug: Debug = False,
) -> None:
    """Write a trained model as a MONAI bundle. It runs where Graft is not installed."""
    options = _take(overrides, None, None, None, debug)
    from pipeline.deployment.export_command import ExportRequest, export_options
    from pipeline.deployment.export_command import export as export_bundle

    chosen = export_options(options.overrides)
    request = ExportRequest(model, output, chosen, study, tuple(example or ()), force, allow_network_code)
    with _working(output):
        for line in export_bundle(request).lines():
            typer.echo(line)


@app.command()
def version() -> None:
    """Print the version."""
    from pipeline.storage.provenance import graft_version

    typer.echo(graft_version())


class _Printable(logging.Filter):
    """Shows control characters of paths and names in messages as escapes, so that no terminal obeys them."""

    def filter(self, record: logging.LogRecord) -> bool:
        from data.names import printable

        record.msg, record.args = "\n".join(map(printable, record.getMessage().split("\n"))), ()
        return True


_PRINTABLE = _Printable()


def _set_up_output() -> None:
    # Told by us, where workers are asked for.
    warnings.filterwarnings("ignore", message=".*joblib will operate in serial mode")
    # A name in letters that the font of a picture lacks; its file carries the name itself.
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that is no UTF-8, or that the terminal cannot show, must not stop a command.
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", datefmt="%H:%M:%S", handlers=[handler])
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for set_up in logging.getLogger().handlers:
        set_up.addFilter(_PRINTABLE)
    for chatty in ("matplotlib", "nibabel", "torch", "nilearn", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0; 2 for an error that the user can fix, 130 after Ctrl-C, 1 for a bug.
    """
    global _state
    _state = replace(GlobalOptions(), debug=bool(os.environ.get("GRAFT_DEBUG")))
    _set_up_output()
    try:
        app(arguments)
    except GraftError as error:
        return _refused(error)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        from pipeline.storage.machine_faults import machine_fault

        if fault := machine_fault(error, _state.place):
            return _refused(fault)
        raise
    return 0


def _refused(error: GraftError) -> int:
    from data.names import printable

    if _state.debug:
        logging.getLogger(__name__).exception("stopped")
    typer.echo(f"graft: {printable(str(error))}", err=True)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

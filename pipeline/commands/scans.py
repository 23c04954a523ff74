"""Commands on scans: synthesize, preprocess and predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from data.synthetic.cohort_kind import CohortKind
from pipeline.commands.output import stoppable
from pipeline.commands.shared_options import Device, NetworkCode, SharedOptions, with_shared_options
from pipeline.commands.study import Strict, run_study
from pipeline.storage.file_names import PREDICTION_TABLE
from pipeline.storage.stage_names import Stage


@with_shared_options()
def synthesize(
    options: SharedOptions,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    cohort: Annotated[CohortKind, typer.Option(help="Anatomy and disease.")],
    cases: Annotated[int, typer.Option(min=1, help="Number of cases.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    channels: Annotated[
        list[str] | None, typer.Option("--channel", help="Contrast, repeatable: T1, T2, FLAIR [default: FLAIR].")
    ] = None,
) -> None:
    """Make a synthetic cohort of raw scans. Real anatomy, in MSD layout."""
    from pipeline.commands.synthesis import synthesize_cohort

    with stoppable(out):
        synthesize_cohort(out, cohort, cases, seed, channels, options.overrides, options.jobs)


@with_shared_options()
def preprocess(
    options: SharedOptions,
    inputs: Annotated[
        list[Path], typer.Argument(metavar="CONFIG|INPUT...", help="The study; with --model: scans, folders, datasets.")
    ],
    model: Annotated[
        Path | None, typer.Option("--model", metavar="MODEL", help="Prepare new scans for this model.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="With --model: folder of the results.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="DIR",
            help="With --model: carry masks of its bundle back to the scans; INPUT: the folder of the prepared scans.",
        ),
    ] = None,
    strict: Strict = False,
) -> None:
    """Preprocess the scans of a study. With --model: new scans, for that model."""
    from data.errors import ConfigError

    if model is None:
        if len(inputs) != 1 or output is not None or masks is not None:
            raise ConfigError(
                f"graft preprocess: {len(inputs)} inputs and no --model",
                expected="one configuration, or --model MODEL INPUT... --output DIR",
                fix="name the model, or the configuration alone",
            )
        run_study([Stage.PREPROCESS], inputs[0], options, strict)
        return
    if output is None or (masks is not None and len(inputs) != 1):
        raise ConfigError(
            "graft preprocess --model: " + ("no --output" if output is None else f"{len(inputs)} inputs with --masks"),
            expected="--model MODEL INPUT... --output DIR; with --masks, one INPUT: the folder of the prepared scans",
            fix="add --output DIR" if output is None else "name that folder alone",
        )
    from pipeline.deployment.prepare_command import carry_back, prepare

    with stoppable(output):
        if masks is not None:
            count = carry_back(model, inputs[0], masks, output)
            typer.echo(f"{count} mask{'s' * (count != 1)} carried back to the grids of the scans: {output}")
        else:
            count = prepare(model, inputs, output, options.jobs)
            typer.echo(f"{count} scan{'s' * (count != 1)} prepared for the model's bundle: {output}")


@with_shared_options(
    "overrides",
    "jobs",
    "device",
    "debug",
    jobs=Annotated[int | None, typer.Option("--jobs", min=1, help="Scans at a time [default: 1].")],
    device=Annotated[Device | None, typer.Option("--device", help="Where to predict [default: auto].")],
)
def predict(
    options: SharedOptions,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, such as infer/ARM/nNN/repeat-R/model.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Image files, folders of them, datasets.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder of the results.")],
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Draws from each posterior [default: as in the study].")
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average over the mirrorings used in training.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities/--no-probabilities", help="Write the probability of each class.")
    ] = False,
    unannotated: Annotated[
        bool,
        typer.Option(
            "--unannotated",
            help="Leave out the cases of datasets that have a label; annotate_next.csv says which of the others to "
            "annotate next.",
        ),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Keep finished scans.")] = True,
    allow_network_code: NetworkCode = False,
) -> None:
    """Segment new scans with a trained model. Masks and uncertainty maps lie on the grids of the scans."""
    from pipeline.config.reading import read_command_options
    from pipeline.deployment.predict_command import predict as predict_scans
    from pipeline.deployment.predict_options import PredictOptions

    given = {"samples": samples, "tta": tta, "probabilities": probabilities}
    own = {key: value for key, value in given.items() if value}
    chosen = read_command_options("predict", PredictOptions, options.overrides, own)
    with stoppable(output):
        predict_scans(
            model,
            inputs,
            output,
            chosen,
            jobs=options.jobs,
            device=options.device.value,
            resume=resume,
            allow_network_code=allow_network_code,
            unannotated=unannotated,
        )
    typer.echo(f"The results are in {output}, with a row for each structure in {output / PREDICTION_TABLE}")

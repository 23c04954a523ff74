"""Options of the commands that plan a study from its scans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.modality import Modality
from pipeline.commands.shared_options import Command, with_options
from pipeline.commands.study import Strict

if TYPE_CHECKING:
    from pipeline.planning.request import PlanRequest

OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "source": (
        Annotated[
            Path | None,
            typer.Option("--source", metavar="PACK|DATASET", help="A source pack or a labelled dataset to start from."),
        ],
        None,
    ),
    "scratch": (
        Annotated[bool, typer.Option("--scratch", help="Learn from the target alone, without a source.")],
        False,
    ),
    "modality": (
        Annotated[
            Modality | None,
            typer.Option("--modality", help="What the scans show, where they do not tell it themselves."),
        ],
        None,
    ),
    "source_modality": (
        Annotated[Modality | None, typer.Option("--source-modality", help="Of the source, where it is another one.")],
        None,
    ),
    "budget": (Annotated[str, typer.Option("--budget", help="Time for the whole study, such as 90min.")], "2h"),
    "name": (Annotated[str | None, typer.Option("--name", help="Of the study [default: that of the folder].")], None),
    "channels": (
        Annotated[
            str | None, typer.Option("--channels", help="Channels to use, as in T1,FLAIR [default: those of both].")
        ],
        None,
    ),
    "foreground": (
        Annotated[
            str | None,
            typer.Option("--foreground", help="Structures, as in left,right or tumour=core+rim [default: all labels]."),
        ],
        None,
    ),
    "source_foreground": (
        Annotated[
            str | None, typer.Option("--source-foreground", help="Structures of the source [default: all its labels].")
        ],
        None,
    ),
    "ignore": (
        Annotated[
            str | None,
            typer.Option(
                "--ignore",
                metavar="LABELS",
                help="Labels of voxels without annotation, as in 255 [default: by name].",
            ),
        ],
        None,
    ),
    "source_ignore": (
        Annotated[
            str | None,
            typer.Option("--source-ignore", metavar="LABELS", help="Of the source [in one folder: those of --ignore]."),
        ],
        None,
    ),
    "patients": (
        Annotated[
            int | None,
            typer.Option("--patients", min=1, help="Annotated patients of the target to use [default: all]."),
        ],
        None,
    ),
    "arms": (
        Annotated[
            str | None,
            typer.Option(
                "--arms", help="Ways of learning to compare, as in random,fine_tune [default: those and the best one]."
            ),
        ],
        None,
    ),
    "tune": (
        Annotated[bool, typer.Option("--tune", help="Tune the peak learning rate of each arm on inner folds.")],
        False,
    ),
    "strict": (Strict, False),
    "steps_per_second": (
        Annotated[
            float | None,
            typer.Option("--steps-per-second", min=0.000001, help="Speed of a training [default: it is measured]."),
        ],
        None,
    ),
}
"""Name → type with its help, and default."""


@dataclass(frozen=True)
class PlanningOptions:
    """What the command line says of a study that is to be planned, in the words of `OPTIONS`."""

    source: Path | None
    scratch: bool
    modality: Modality | None
    source_modality: Modality | None
    budget: str
    name: str | None
    channels: str | None
    foreground: str | None
    source_foreground: str | None
    ignore: str | None
    source_ignore: str | None
    patients: int | None
    arms: str | None
    tune: bool
    strict: bool
    steps_per_second: float | None

    def request(self, target: Path) -> PlanRequest:
        """What is asked for.

        Raises:
            ConfigError: neither a source nor that there is none is named, or both are.
        """
        from data.errors import ConfigError
        from pipeline.planning.request import PlanRequest

        if (self.source is None) is not self.scratch:
            named = "both --source and --scratch are given" if self.scratch else "no source is named"
            raise ConfigError(
                f"{target}: {named}",
                expected="--source with a source pack or a labelled dataset (which may be the target's folder with "
                "other structures), or --scratch to learn from the target alone",
                fix="remove one of them" if self.scratch else "add one of them",
            )
        return PlanRequest(
            target,
            self.source,
            budget=self.budget,
            name=self.name,
            modality=self.modality,
            source_modality=self.source_modality,
            channels=_listed(self.channels),
            foreground=self.foreground,
            source_foreground=self.source_foreground,
            ignore=_listed(self.ignore),
            source_ignore=_listed(self.source_ignore),
            patients=self.patients,
            arms=_listed(self.arms),
            tune=self.tune,
            steps_per_second=self.steps_per_second,
            strict=self.strict,
        )


def _listed(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(","))


def with_planning_options() -> Callable[[Command], Command]:
    """Adds the options of a plan to a command, which gets them together as its first argument."""
    return with_options(OPTIONS, PlanningOptions)

"""What somebody asks of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import ConfigError
from data.modality import Modality
from pipeline.arms.choices import ArmOptions
from pipeline.arms.presets import resolve_arm


@dataclass(frozen=True)
class PlanRequest:
    """The options of `graft init`.

    Attributes:
        target: folder or manifest of the target.
        source: folder or manifest of the source, or a source pack; `None` for a study without a source.
        budget: time for the whole study, such as `2h`.
        name: of the study; that of the target's folder by default.
        modality: of the target, where the scans do not tell; and of the source unless it has one of its own.
        source_modality: of the source.
        channels: used ones; those that both have by default.
        foreground: structures of the target; all by default.
        source_foreground: structures of the source; all by default.
        ignore: labels of the target that mark voxels without annotation, beside those that the dataset calls so.
        source_ignore: those of the source; in one folder with the target those of the target by default.
        patients: annotated patients of the target that are used; all by default.
        arms: presets; by default training from scratch, fine-tuning and the default arm.
        tune: whether the peak rate of each arm is tuned on inner folds of its training patients.
        steps_per_second: of a training with the planned patch at the finest planned grid; measured by default.
        strict: whether a source that differs from the target in modality, channels or spacing is refused.
    """

    target: Path
    source: Path | None = None
    budget: str = "2h"
    name: str | None = None
    modality: Modality | None = None
    source_modality: Modality | None = None
    channels: tuple[str, ...] | None = None
    foreground: str | None = None
    source_foreground: str | None = None
    ignore: tuple[str, ...] | None = None
    source_ignore: tuple[str, ...] | None = None
    patients: int | None = None
    arms: tuple[str, ...] | None = None
    tune: bool = False
    steps_per_second: float | None = None
    strict: bool = False

    def require_source_dataset(self, instead: str) -> None:
        """Refuses what can be said of a source dataset alone.

        Args:
            instead: what there is in its place.

        Raises:
            ConfigError: names the option.
        """
        of_dataset = {
            "--source-modality": self.source_modality,
            "--source-foreground": self.source_foreground,
            "--source-ignore": None if self.source_ignore is None else ",".join(self.source_ignore),
        }
        for option, value in of_dataset.items():
            if value is not None:
                raise ConfigError(
                    f"{option} {value}: {instead}",
                    expected=f"{option} with a labelled dataset as the source",
                    fix="leave it out",
                )

    def arm_options(self) -> dict[str, ArmOptions]:
        """The arms that are asked for.

        Raises:
            ConfigError: there is no such preset, or an arm needs a source and there is none.
        """
        found = {}
        for name in self.arms or ():
            try:
                found[name] = ArmOptions.model_validate(resolve_arm(name, None))
            except ValueError as error:
                raise ConfigError(f"--arms: {error}", fix="correct `--arms`") from error
            if self.source is None and found[name].uses_source:
                raise ConfigError(
                    f"--arms: {name} needs a source, and there is none",
                    expected="arms that learn from the target alone, such as random",
                    fix="leave the arm out, or name a source with `--source`",
                )
        return found

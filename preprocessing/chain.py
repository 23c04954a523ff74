"""The preprocessing chain: which steps run on which modality, in which order, and the way back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import Field, model_validator

from data.errors import PreprocessingError
from data.modality import Modality
from data.options import Options
from data.volume import Volume
from preprocessing.alignment import Alignment, AlignmentKind, AlignmentOptions
from preprocessing.bias_field import BiasField, BiasFieldOptions
from preprocessing.coregistration import Coregistration, CoregistrationOptions, onto_reference
from preprocessing.cropping import Cropping, CroppingOptions
from preprocessing.intensity import Intensity, IntensityOptions, Scaling
from preprocessing.interruption import asking
from preprocessing.itk_image import use_itk_threads
from preprocessing.orientation import Orientation, OrientationOptions
from preprocessing.padding import Padding, PaddingOptions
from preprocessing.padding_removal import PaddingRemoval, PaddingRemovalOptions
from preprocessing.resampling import Resampling, ResamplingOptions
from preprocessing.skull_strip import SkullStrip, SkullStripMethod, SkullStripOptions
from preprocessing.step import Interpolation, Record, Step
from preprocessing.subject import Subject

logger = logging.getLogger(__name__)


class PreprocessingOptions(Options):
    """The steps in the order in which they run; `null` switches a step off."""

    padding_removal: PaddingRemovalOptions | None = Field(
        default=None, description="Cut off borders of one value, or of the noise of air alone."
    )
    canonical_orientation: OrientationOptions | None = Field(
        default=None, description="Turn the array axes to right, anterior, superior."
    )
    coregistration: CoregistrationOptions | None = Field(
        default=None, description="Register all channels rigidly to the first."
    )
    bias_field: BiasFieldOptions | None = Field(default=None, description="Correct the bias field with N4.")
    skull_strip: SkullStripOptions | None = Field(default=None, description="Make the brain mask.")
    alignment: AlignmentOptions | None = Field(default=None, description="Align the brain to the ICBM-152 template.")
    resampling: ResamplingOptions | None = Field(default=None, description="Resample all volumes to one spacing.")
    intensity: IntensityOptions | None = Field(default=None, description="Scale the intensities.")
    cropping: CroppingOptions | None = Field(default=None, description="Crop to the content.")
    padding: PaddingOptions | None = Field(default=None, description="Pad to a multiple of voxels.")
    threads: int = Field(
        default=1, ge=1, description="ITK threads per case; the results depend on it in the last digits."
    )

    @model_validator(mode="after")
    def _resampled_if_aligned(self) -> PreprocessingOptions:
        if self.aligns and self.resampling is None:
            raise ValueError(
                "alignment leaves an oblique grid, so it needs resampling: set resampling or drop alignment"
            )
        return self

    @property
    def aligns(self) -> bool:
        """Whether the chain ends in the template's world."""
        return self.alignment is not None and self.alignment.kind is not AlignmentKind.NONE


def default_options(modality: Modality) -> PreprocessingOptions:
    """Returns the default chain of a modality."""
    modality = Modality(modality)
    always = PreprocessingOptions(
        padding_removal=PaddingRemovalOptions(),
        canonical_orientation=OrientationOptions(),
        resampling=ResamplingOptions(),
        intensity=IntensityOptions(scaling=Scaling.WINDOW if modality is Modality.CT else Scaling.ZSCORE),
    )
    if modality in (Modality.CT, Modality.MR):
        return always
    stripped = modality is Modality.MR_BRAIN
    return always.model_copy(
        update={
            "coregistration": CoregistrationOptions(skip_same_grid=stripped),
            "bias_field": None if stripped else BiasFieldOptions(),
            "skull_strip": SkullStripOptions(
                method=SkullStripMethod.CONTENT if stripped else SkullStripMethod.COMBINED
            ),
            "alignment": AlignmentOptions(),
            "cropping": CroppingOptions(),
        }
    )


class Chain:
    """Applies the steps that the options switch on, and carries volumes back to native space."""

    def __init__(self, options: PreprocessingOptions) -> None:
        self.options = options
        self.steps = _steps(options)

    def apply(
        self, subject: Subject, progress: Callable[[float], None] = lambda share: None
    ) -> tuple[Subject, list[Record]]:
        """Runs the chain.

        Args:
            subject: the raw scan.
            progress: called before each step, and often during long ones, with the share of steps that are done; may
                raise to stop there.

        Returns:
            The subject with all volumes on one grid, and one JSON-able record per step: `step`, `suspect` (reasons why
            the outcome is implausible, mostly none) and what the step did.

        Raises:
            PreprocessingError: a step cannot be run on this case.
        """
        use_itk_threads(self.options.threads)
        records: list[Record] = []
        for number, step in enumerate(self.steps):
            progress(number / len(self.steps))
            if isinstance(step, _ON_ONE_GRID) and not subject.one_grid():
                subject = onto_reference(subject)
            with asking(partial(progress, number / len(self.steps))):
                subject, record = step.apply(subject)
            records.append(record)
            for reason in record["suspect"]:
                logger.warning("%s: %s: %s", subject.name, step.name, reason)
        return (subject if subject.one_grid() else onto_reference(subject)), records

    def invert(
        self, volume: Volume, records: Sequence[Record], interpolation: Interpolation = Interpolation.NEAREST
    ) -> Volume:
        """Carries a volume from the preprocessed grid to the raw grid of the first channel.

        Args:
            volume: a label map or mask (`NEAREST`), or a probability map (`LINEAR`), on the preprocessed grid.
            records: what `apply` returned for this case, also after a trip through JSON.
            interpolation: how values between voxels are found.

        Raises:
            PreprocessingError: the records are of another chain, or the volume does not lie on the preprocessed grid.
        """
        names = [step.name for step in self.steps]
        found = [record["step"] for record in records]
        if names != found:
            raise PreprocessingError(
                f"the records are of the steps {', '.join(found)}",
                expected=", ".join(names),
                fix="invert with the options that the case was preprocessed with",
            )
        for step, record in zip(reversed(self.steps), reversed(records), strict=True):
            volume = step.invert(volume, record, interpolation)
        return volume


_STEPS: tuple[type[Step[Any]], ...] = (
    *(PaddingRemoval, Orientation, Coregistration, BiasField, SkullStrip, Alignment, Resampling),
    *(Intensity, Cropping, Padding),
)
"""All steps in their order; each has its name as its key in the options."""

_ON_ONE_GRID = (Intensity, Cropping, Padding)
"""Steps that index channels, label and mask alike."""


def _steps(options: PreprocessingOptions) -> list[Step[Any]]:
    own: dict[str, dict[str, bool]] = {
        Coregistration.name: {"resample_to_reference": options.resampling is None},
        Resampling.name: {"template_box": options.aligns},
    }
    chosen = [(step, getattr(options, step.name)) for step in _STEPS]
    return [step(settings, **own.get(step.name, {})) for step, settings in chosen if settings is not None]

"""Options of target training: arms, numbers of patients, repeats and steps."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from data.name_fields import Apart, Name
from data.options import Options
from models.objectives import Likelihood
from models.posteriors.swag import SWAGOptions, first_collected
from pipeline.arms.choices import ArmOptions
from pipeline.arms.presets import DEFAULT_ARM, REFERENCE_ARM, resolve_arm
from pipeline.arms.without_annotation import why_annotation_is_needed
from pipeline.training.optimiser import OptimiserOptions


class Tuning(StrEnum):
    """How the peak rates of the arms are found."""

    OFF = "off"
    """Each arm has the `peak_rate` that it is given."""
    INNER_FOLDS = "inner_folds"
    """The best of `tuned_rates` on the inner folds of an arm's own training patients."""


DEFAULT_SIZES = (5, 10)
"""Where there are test patients."""


class TargetTrainingOptions(Options):
    """Arms × target sizes × repeats."""

    arms: Annotated[dict[Name, ArmOptions], Apart] = Field(
        default_factory=lambda: {
            name: ArmOptions.model_validate(resolve_arm(name, None))
            for name in (REFERENCE_ARM, "fine_tune", "dwp", DEFAULT_ARM)
        },
        min_length=1,
    )
    """Preset names, or name → options; `preset` starts from another preset."""
    sizes: tuple[int, ...] | None = None
    """Numbers of target patients; the subsets of one repeat are nested. By default 5 and 10; in cross-validation, which
    always includes all patients except those of a fold, by default no others. With 0, arms that need no annotated
    patient of the target have a model: those that start from source networks are these networks as they are."""
    reference_sizes: tuple[int, ...] = ()
    """Further numbers of target patients for the arm `random` only: a longer learning curve measures larger label
    efficiencies."""
    inner_folds: int = Field(default=3, ge=0)
    """Folds of the training patients for arms with `fit_reading`: each of their members is trained once more for each
    fold, on the patients of the other folds. With 0, or fewer than three patients, nothing is fitted."""
    tune: Tuning = Tuning.OFF
    """How the peak rates are found: `off`, each arm has its `peak_rate`; or `inner_folds`, the one of `tuned_rates`
    whose models predict the inner folds with the highest mean Dice. The first member of each arm is trained at every
    rate on every inner fold. Where there are no inner folds, arms have their `peak_rate`."""
    tuned_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1e-3, 2e-3, 4e-3, 8e-3), min_length=2)
    """Peak learning rates that are tried with `tune: inner_folds`, the same for every arm."""
    repeats: int = Field(default=3, ge=1)
    """Independent draws of the subsets and of all other randomness."""
    steps: int = Field(default=500, ge=1)
    """Optimiser steps, the same for every arm and size."""
    floor_rate: float = Field(default=1e-5, ge=0)
    """Learning rate at the end."""
    likelihood: Likelihood = Likelihood.DICE_CROSS_ENTROPY
    """Data term. Only cross-entropy, unbiased patches and `posterior_temperature: 1` make the objective an ELBO."""
    log_every: int = Field(default=10, ge=1)
    """Number of steps between rows of `history.csv`, which holds the terms of the objective."""
    optimiser: OptimiserOptions = Field(default_factory=OptimiserOptions)

    @field_validator("arms", mode="before")
    @classmethod
    def _resolve(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            value = dict.fromkeys(value)
        if not isinstance(value, dict):
            return value
        return {name: arm if isinstance(arm, ArmOptions) else resolve_arm(name, arm) for name, arm in value.items()}

    def sizes_of(self, arm: str) -> tuple[int, ...]:
        """Numbers of target patients that an arm learns from; 0 only where it needs none."""
        sizes = {*(self.sizes or ()), *(self.reference_sizes if arm == REFERENCE_ARM else ())}
        return tuple(sorted(sizes - {0} if arm in self.without_model_at_zero() else sizes))

    def without_model_at_zero(self) -> dict[str, str]:
        """Arm → why it has no model of n = 0; none where 0 is not among the sizes."""
        if 0 not in (self.sizes or ()):
            return {}
        reasons = {name: why_annotation_is_needed(arm) for name, arm in self.arms.items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    @property
    def arm_units(self) -> int:
        """Arms × their sizes × repeats; fewer trainings where arms share them."""
        return sum(max(len(self.sizes_of(arm)), 1) for arm in self.arms) * self.repeats

    @property
    def largest_size(self) -> int:
        """Largest number of target patients of any arm that is given; 0 where none is."""
        return max((n for arm in self.arms for n in self.sizes_of(arm)), default=0)

    @field_validator("inner_folds")
    @classmethod
    def _no_single_fold(cls, value: int) -> int:
        if value == 1:
            raise ValueError("a single fold leaves no patients to learn from: give 2 or more, or 0 for none")
        return value

    @field_validator("tuned_rates")
    @classmethod
    def _each_rate_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(value)))

    @field_validator("sizes", "reference_sizes")
    @classmethod
    def _ascending(cls, value: tuple[int, ...] | None, field: ValidationInfo) -> tuple[int, ...] | None:
        if value is None:
            return None
        least = 0 if field.field_name == "sizes" else 1
        if any(n < least for n in value):
            raise ValueError(f"a target size is a number of patients and at least {least}")
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _some_arm_needs_no_annotation(self) -> TargetTrainingOptions:
        reasons = self.without_model_at_zero()
        if len(reasons) == len(self.arms):
            told = "; ".join(f"{name!r}: {reason}" for name, reason in reasons.items())
            raise ValueError(
                f"`sizes` holds 0, and no arm has a model without annotated target patients ({told}): remove 0, or add "
                "an arm such as `fine_tune`, whose source networks are then used as they are"
            )
        return self

    @model_validator(mode="after")
    def _reference_is_there(self) -> TargetTrainingOptions:
        if self.reference_sizes and REFERENCE_ARM not in self.arms:
            raise ValueError(f"`reference_sizes` are for the arm {REFERENCE_ARM!r}, which is not among `arms`: add it")
        return self

    @model_validator(mode="after")
    def _iterates_enough(self) -> TargetTrainingOptions:
        for name, arm in self.arms.items():
            if isinstance(arm.posterior, SWAGOptions) and self.steps - first_collected(arm.posterior, self.steps) < 2:
                raise ValueError(f"arm {name!r} collects fewer than 2 iterates in {self.steps} steps: raise `steps`")
        return self

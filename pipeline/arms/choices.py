"""The choices that make an arm."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from models.networks.factory import NetworkOptions
from models.posteriors.factory import PosteriorOptions
from models.posteriors.mean_field import Estimator, MeanFieldOptions
from models.posteriors.mixture import MixtureOptions
from models.posteriors.point import PointOptions
from models.posteriors.swag import SWAGOptions
from pipeline.arms.unlabelled_use import NoUnlabelledOptions, SelfTrainingOptions, UnlabelledUse
from pipeline.prediction.reading import ReadingOptions

NO_PRIOR = "none"
L2 = "l2"
L2_SP = "l2_sp"
UNFITTED_PRIORS = (NO_PRIOR, L2, L2_SP)
"""Values of an arm's `prior` that do not name a fitted density."""
_OF_FITS = ("fit_reading", "fit_mask")
"""Which parts of a reading are fitted."""
_LATER = ("post_processing", "fit_mask", "spared", "layer_scale", "layer_scale_weight", "image_model", "unlabelled")
"""Options that the first versions of Graft lacked."""
_SWAG_SCALE = 1.0
"""The scale of the draws does not affect which iterates a training collects."""


class Initialisation(StrEnum):
    """Where the weights, or the means of the posterior, start."""

    RANDOM = "random"
    """The network's own random initialisation."""
    PRIOR = "prior"
    """Filters drawn from the fitted prior; all other weights at random."""
    SOURCE = "source"
    """The last snapshot of a source network."""
    BRANCHES = "branches"
    """The mean of the last snapshots of all source networks, which branch from one trunk."""
    SELF_SUPERVISED = "self_supervised"
    """The trunk of an image model, which learned from scans without labels; the head at random."""


class Trainable(StrEnum):
    """Which parameters are learned on the target."""

    ALL = "all"
    """Every parameter."""
    ENDS = "ends"
    """The first and the last blocks (UNet-PRf of the published comparison)."""
    DECODER = "decoder"
    """The decoder and the head."""


class BayesianScope(StrEnum):
    """Which weights have a posterior."""

    FILTERS = "filters"
    """The 3×3×3 filters, as published; all other weights are point estimates."""
    ALL = "all"
    """Also 1×1×1 convolutions, norms, biases and the head: a mean-field normal (SWAG: iterates) over each number."""


class Spared(StrEnum):
    """Which filters have no prior, whatever prior the others have."""

    NONE = "none"
    """None: all that are learned have the prior."""
    LAST_BLOCK = "last_block"
    """Those of the last block: the features that a new task needs most."""


class LayerScale(StrEnum):
    """How far filters may be from the centre of a Gaussian prior."""

    FIXED = "fixed"
    """As far as those of the source are."""
    LEARNED = "learned"
    """Learned for each layer: the source says in which directions filters differ, the target how much."""


class OtherPrior(StrEnum):
    """Prior of the weights that are not filters, where they have a posterior."""

    SOURCE = "source"
    """For each parameter, a normal with the mean and variance of its values in the source networks."""
    NORMAL = "normal"
    """N(0, `other_std`²)."""


class ArmOptions(ReadingOptions):
    """One way of learning the target, and of reading the predictions."""

    init: Initialisation = Initialisation.RANDOM
    """Start of the weights or of the posterior means."""
    image_model: str | None = None
    """With `init: self_supervised`: name of the image model, one of `image_models`."""
    trainable: Trainable = Trainable.ALL
    """What is learned."""
    prior: str = NO_PRIOR
    """`none`; `l2` or `l2_sp` (normal densities around zero, or, where they fit, around the weights of the source or of
    the image model that the arm starts from); or the name of a density in `priors.densities`."""
    spared: Spared = Spared.NONE
    """Which filters have no fitted prior all the same."""
    layer_scale: LayerScale = LayerScale.FIXED
    """Whether a fitted Gaussian prior (of filters, or of changes) has a learned scale for each layer."""
    layer_scale_weight: float = Field(default=0.1, gt=0)
    """Weight of the source's own scale in the learned one, as a share of the filters of a layer."""
    posterior: PosteriorOptions = Field(default_factory=PointOptions)
    """Distribution over the filters: `point`, `mean_field`, `mixture` or `swag`, or a mapping with `kind` and its
    settings."""
    bayesian_scope: BayesianScope = BayesianScope.FILTERS
    """Which weights have a posterior."""
    other_prior: OtherPrior = OtherPrior.SOURCE
    """Prior of the weights that are not filters, with `bayesian_scope: all`."""
    other_std: float = Field(default=1.0, gt=0)
    """Standard deviation with `other_prior: normal`, and of parameters that the source networks lack."""
    l2_std: float = Field(default=0.03, gt=0)
    """Standard deviation of `l2`, and of `l2_sp` for parameters that do not fit the source."""
    l2_sp_std: float = Field(default=0.01, gt=0)
    """Standard deviation of `l2_sp` around the source's weights."""
    members: int = Field(default=1, ge=1)
    """Independent trainings whose predictions are averaged; member m starts from source network m."""
    peak_rate: float = Field(default=2e-3, gt=0)
    """Learning rate after the warm-up."""
    warm_up: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the rate rises to the peak."""
    posterior_temperature: float = Field(default=1e-2, ge=0)
    """T: weight of the prior terms; 1 gives the negative ELBO, less a tempered (cold) posterior."""
    kl_warm_up: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps over which the weight of the prior terms rises linearly to T; 0 for no warm-up."""
    prior_samples: int = Field(default=1, ge=1)
    """K: samples of the bound on log p(w), for priors that have no exact density."""
    filter_share: float = Field(default=0.02, gt=0, le=1)
    """Share of the filters whose prior term is computed at each step, as an unbiased random subset."""
    train_samples: int = Field(default=1, ge=1)
    """Draws from the posterior in each step, on the same batch; with `antithetic`, pairs mean ± deviation."""
    log_variance_rate: float = Field(default=10.0, gt=0)
    """Learning rate of the posterior's log-variances, as a multiple of `peak_rate`."""
    encoder_rate: float = Field(default=0.3, gt=0)
    """Learning rate of the prior's variational parameters (the encoder of a VAE), as a multiple of `peak_rate`."""
    draws: int = Field(default=8, ge=1)
    """Draws from the posterior, each one pass over a test volume; without `voxel_correlation`, a 90 % volume interval
    needs at least 39."""
    fit_reading: bool = False
    """Fit `logit_temperature`, the `post_processing` of classes that it does not name and, if one is given,
    `voxel_correlation` on out-of-fold predictions of the arm's own training patients (`target_training.inner_folds`).
    With fewer than three patients, the given values are used."""
    fit_mask: bool = False
    """With `fit_reading`: take the `mask` that is better in these predictions; the given one is used where nothing can
    be fitted."""
    network: NetworkOptions | None = None
    """A network of this arm only, to compare architectures; by default the study's. Nothing learned on the source fits
    it, so the arm starts at random and has the prior `none` or `l2`."""
    unlabelled: UnlabelledUse = Field(default_factory=NoUnlabelledOptions)
    """Use of the scans of `target.unlabelled`: `none` or `self_training`, or a mapping with `kind` and its settings."""
    update_from: Path | None = None
    """Folder of an arm trained with the same network: its posterior q(w|D) and the one learned here on D_new are
    combined to (1 − α) q(w|D) + α q(w|D_new) (MPVI, incremental use)."""
    update_share: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = 0.5
    """α, the share of the new data in `update_from`; auto: components count alike, so that data set T of a chain of
    updates gets 1/T."""

    @model_validator(mode="before")
    @classmethod
    def _former_name(cls, value: Any) -> Any:
        """Records of earlier workspaces say `temperature`, which was ambiguous beside two other temperatures."""
        if isinstance(value, dict) and "temperature" in value and "posterior_temperature" not in value:
            value = {("posterior_temperature" if key == "temperature" else key): v for key, v in value.items()}
        return value

    @field_validator("posterior", "unlabelled", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _coherent(self) -> ArmOptions:
        if (self.init is Initialisation.SELF_SUPERVISED) != (self.image_model is not None):
            raise ValueError("`init: self_supervised` and `image_model` need each other: set both, or neither")
        if self.init is Initialisation.PRIOR and not self.needs_prior:
            raise ValueError("`init: prior` needs a fitted prior: set `prior`")
        if self.is_bayesian and self.prior == NO_PRIOR and not isinstance(self.posterior, SWAGOptions):
            raise ValueError("a posterior other than `point` and `swag` needs a prior: set `prior`")
        if self.bayesian_scope is BayesianScope.ALL and not self.is_bayesian:
            raise ValueError("`bayesian_scope: all` needs a posterior other than `point`")
        if self.layer_scale is LayerScale.LEARNED and isinstance(self.posterior, MixtureOptions):
            raise ValueError("components of a mixture share one prior: `layer_scale: learned` needs another posterior")
        if not self.needs_prior and (self.layer_scale, self.spared) != (LayerScale.FIXED, Spared.NONE):
            raise ValueError("`layer_scale` and `spared` are of a fitted prior: set `prior`")
        if self.fit_mask and not self.fit_reading:
            raise ValueError("`fit_mask: true` needs `fit_reading: true`")
        if self.network is not None and (self.init is not Initialisation.RANDOM or self.prior not in {NO_PRIOR, L2}):
            raise ValueError("an arm with its own `network` needs `init: random` and `prior: none` or `l2`")
        if self.update_from is not None and self.is_self_trained:
            raise ValueError("an arm with `update_from` would be updated in every round: set `unlabelled: none`")
        if self.update_from is not None and not self.is_variational:
            raise ValueError("`update_from` needs `posterior: mean_field` or `mixture`")
        if self.train_samples > 1 and not self.is_variational:
            raise ValueError("several `train_samples` need `posterior: mean_field` or `mixture`")
        return self

    @property
    def reading(self) -> ReadingOptions:
        """The options that are applied to stored predictions."""
        return ReadingOptions(**{name: getattr(self, name) for name in ReadingOptions.model_fields})

    def with_reading(self, reading: ReadingOptions) -> ArmOptions:
        """The same arm with another reading."""
        return self.model_copy(update={name: getattr(reading, name) for name in ReadingOptions.model_fields})

    def in_recipe(self, *without: str) -> dict[str, Any]:
        """The choices as a recipe holds them.

        Options that earlier versions lacked are left out at their default: what was made before stays valid.
        """
        fields = type(self).model_fields
        left_out = {
            name for name in _LATER if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return self.model_dump(mode="json", exclude={*without, *left_out})

    def of_training(self) -> ArmOptions:
        """What a training depends on: all options that do not affect it have their default."""
        idle = {*ReadingOptions.model_fields, *_OF_FITS, "members", "draws"}
        if not self.is_variational:
            idle |= {"train_samples", "log_variance_rate"}
        if not self.needs_prior:
            idle |= {"encoder_rate", "prior_samples", "filter_share"}
        if self.prior == NO_PRIOR:
            idle |= {"posterior_temperature", "kl_warm_up"}
        if self.layer_scale is LayerScale.FIXED:
            idle |= {"layer_scale_weight"}
        if self.prior not in {L2, L2_SP}:
            idle |= {"l2_std", "l2_sp_std"}
        if self.bayesian_scope is BayesianScope.FILTERS or self.prior in {L2, L2_SP}:
            idle |= {"other_prior", "other_std"}
        if self.update_from is None:
            idle |= {"update_share"}
        if not self.rounds:
            idle |= {"unlabelled"}
        return self._without(idle, scale=_SWAG_SCALE)

    def of_prediction(self) -> ArmOptions:
        """What a prediction depends on beside its trainings: all options that do not affect it have their default."""
        idle = {*ReadingOptions.model_fields, *_OF_FITS, "unlabelled"} | (set() if self.is_bayesian else {"draws"})
        return self._without(idle)

    def _without(self, idle: Collection[str], **of_swag: float) -> ArmOptions:
        fields = type(self).model_fields
        untouched: dict[str, Any] = {name: fields[name].get_default(call_default_factory=True) for name in idle}
        if isinstance(self.posterior, SWAGOptions):
            untouched["posterior"] = self.posterior.model_copy(update=of_swag)
        return self.model_copy(update=untouched)

    @property
    def is_self_trained(self) -> bool:
        """Whether students learn from unlabelled scans, in however many rounds."""
        return isinstance(self.unlabelled, SelfTrainingOptions)

    @property
    def needs_unlabelled(self) -> bool:
        """Whether it cannot be trained without unlabelled scans."""
        return self.rounds > 0

    @property
    def rounds(self) -> int:
        """Rounds of self-training, 0 without it; of a training, the number of its round."""
        return self.unlabelled.rounds if isinstance(self.unlabelled, SelfTrainingOptions) else 0

    def at_round(self, number: int) -> ArmOptions:
        """The same arm after so many rounds of self-training."""
        return self.model_copy(update={"unlabelled": self.unlabelled.model_copy(update={"rounds": number})})

    @property
    def is_bayesian(self) -> bool:
        """Whether predictions average over draws from a learned distribution."""
        averaged = isinstance(self.posterior, SWAGOptions) and self.posterior.scale == 0
        return not (averaged or isinstance(self.posterior, PointOptions))

    @property
    def is_rival(self) -> bool:
        """Whether Bayesian arms are compared with it: it is a point estimate without a fitted prior."""
        return not (self.is_bayesian or self.needs_prior)

    @property
    def is_variational(self) -> bool:
        """Whether the posterior is learned by drawing from it."""
        return isinstance(self.posterior, MeanFieldOptions | MixtureOptions)

    @property
    def components(self) -> int:
        """Starting networks of each member: one for each component of a mixture, otherwise one."""
        return self.posterior.components if isinstance(self.posterior, MixtureOptions) else 1

    @property
    def local_reparameterisation(self) -> bool:
        """Whether training steps draw activations instead of filters."""
        options = self.posterior.component if isinstance(self.posterior, MixtureOptions) else self.posterior
        return isinstance(options, MeanFieldOptions) and options.estimator is Estimator.LOCAL_REPARAMETERISATION

    @property
    def starts_trained(self) -> bool:
        """Whether it starts from trained weights: a source network, the mean of all of them, or an image model."""
        return self.init not in {Initialisation.RANDOM, Initialisation.PRIOR}

    @property
    def needs_source(self) -> bool:
        """Whether it starts from, or is penalised towards, a source network."""
        if self.init is Initialisation.SELF_SUPERVISED:
            return False
        return self.starts_trained or self.prior == L2_SP

    @property
    def needs_references(self) -> bool:
        """Whether the prior of the other weights is fitted to the source networks."""
        fitted = self.bayesian_scope is BayesianScope.ALL and self.other_prior is OtherPrior.SOURCE
        return fitted and self.prior not in {L2, L2_SP} and self.is_variational

    @property
    def needs_prior(self) -> bool:
        """Whether it uses a fitted density."""
        return self.prior not in UNFITTED_PRIORS

    @property
    def uses_source(self) -> bool:
        """Whether it uses anything that was learned on the source of its own study."""
        return self.needs_source or self.needs_references or self.needs_prior

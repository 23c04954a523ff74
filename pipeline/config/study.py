"""The configuration of a study: the options of all stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from data.modality import Modality
from data.name_fields import Apart, Name
from data.options import Options
from models.image_models.objectives import OBJECTIVE_NAMES, needs_bottleneck
from models.networks.factory import NetworkOptions
from models.networks.imported_network import ImportedNetworkOptions
from models.networks.residual_unet import ResidualUNetOptions
from models.priors.factory import can_scale_layers, centred_on_network, network_of, of_branches, of_changes
from pipeline.arms.choices import UNFITTED_PRIORS, ArmOptions, Initialisation, LayerScale
from pipeline.arms.preset_densities import with_densities_of_arms
from pipeline.arms.presets import named_image_models, named_priors
from pipeline.arms.target_training_options import DEFAULT_SIZES, TargetTrainingOptions
from pipeline.config.datasets import DatasetOptions, SourceOptions, TargetOptions
from pipeline.config.merging import merged
from pipeline.config.report_options import ReportOptions
from pipeline.config.unit_kinds import KINDS
from pipeline.evaluation.options import EvaluationOptions
from pipeline.execution.backend_options import FORMER_BACKENDS, BackendName, DaskOptions, SubmititOptions
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.priors.filter_options import AUTO, FilterOptions, PriorFitOptions
from pipeline.priors.held_out_scores import network_folds
from pipeline.storage.network_source import with_source
from pipeline.training.augmentation import AugmentationOptions
from pipeline.training.computing import ComputingOptions
from pipeline.training.image_model_options import ImageModelOptions
from pipeline.training.patches import PatchOptions
from pipeline.training.source_options import SourceTrainingOptions
from pipeline.training.tracking import TrackingOptions
from pipeline.training.translation_options import NoTranslation
from preprocessing.chain import default_options

_FEWEST_BRANCHES = 2
"""Fewer do not differ."""


class ExecutionOptions(Options):
    """How units of work are run."""

    threads: int = Field(default=1, ge=1)
    """Threads of each unit. Results depend on it in the last bits; they never depend on the number of jobs."""
    backend: BackendName = BackendName.LOCAL
    """Where the units run."""
    submitit: SubmititOptions = Field(default_factory=SubmititOptions)
    """Of `backend: submitit`."""
    dask: DaskOptions = Field(default_factory=DaskOptions)
    """Of `backend: dask`."""
    units_per_gpu: int = Field(default=1, ge=1)
    """Units that share a GPU. A unit sees one GPU, whatever the machine or the job has."""
    workers: int | None = Field(default=None, ge=0)
    """Background processes that draw the batches of each training ahead; by default one per unused core, at most 4."""
    checkpoint_steps: int = Field(default=0, ge=0)
    """Steps between checkpoints of a training, in addition to those by time; 0 for none by steps."""
    checkpoint_minutes: float = Field(default=5.0, ge=0)
    """Minutes between checkpoints of a training; 0 for none by time."""

    @field_validator("backend", mode="before")
    @classmethod
    def _new_word(cls, backend: Any) -> Any:
        if isinstance(backend, str) and (now := FORMER_BACKENDS.get(backend)):
            raise ValueError(f"it is now called `{now.value}`")
        return backend

    @model_validator(mode="after")
    def _known_kinds(self) -> ExecutionOptions:
        if unknown := [kind for kind in self.submitit.stages if kind not in KINDS]:
            raise ValueError(f"`submitit.stages` names {unknown[0]!r}, which is not one of {', '.join(KINDS)}")
        if self.backend is BackendName.DASK and not (self.dask.scheduler or self.dask.scheduler_file):
            raise ValueError("`backend: dask` needs `dask.scheduler` or `dask.scheduler_file`")
        return self


class StudyConfig(Options):
    """A study: arms × target sizes × repeats, with its source networks and priors."""

    name: Name
    """Names the study and, by default, its workspace."""
    title: str = ""
    """Title of the report."""
    seed: int = Field(default=0, ge=0)
    """Seed of all randomness of the study."""
    workspace: Path | None = None
    """Folder of the results; `workspaces/NAME` by default."""
    datasets: Annotated[dict[Name, DatasetOptions], Apart] = Field(min_length=1)
    """The datasets by name."""
    source: SourceOptions | None = None
    """What is transferred; a study without it learns from the target alone."""
    target: TargetOptions
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    """Keys that change the default preprocessing of every dataset."""
    network: NetworkOptions = Field(default_factory=ResidualUNetOptions)
    patches: PatchOptions = Field(default_factory=PatchOptions)
    augmentation: AugmentationOptions = Field(default_factory=AugmentationOptions)
    source_training: SourceTrainingOptions = Field(default_factory=SourceTrainingOptions)
    computing: ComputingOptions = Field(default_factory=ComputingOptions)
    tracking: TrackingOptions = Field(default_factory=TrackingOptions)
    filters: FilterOptions = Field(default_factory=FilterOptions)
    priors: PriorFitOptions = Field(default_factory=PriorFitOptions)
    image_models: Annotated[dict[Name, ImageModelOptions], Apart] = Field(default_factory=dict)
    """Name → a network that learns what scans look like, which arms with `init: self_supervised` start from."""
    target_training: TargetTrainingOptions = Field(default_factory=TargetTrainingOptions)
    sliding_window: SlidingWindowOptions = Field(default_factory=SlidingWindowOptions)
    """How the network is moved over a volume."""
    evaluation: EvaluationOptions = Field(default_factory=EvaluationOptions)
    report: ReportOptions = Field(default_factory=ReportOptions)
    execution: ExecutionOptions = Field(default_factory=ExecutionOptions)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preprocessing(cls, raw: Any) -> Any:
        """Writes out each dataset's chain: defaults of the modality, changes of the study, changes of the dataset."""
        if not isinstance(raw, dict) or not isinstance(raw.get("datasets"), dict):
            return raw
        shared = raw.get("preprocessing") or {}
        datasets = {}
        for name, entry in raw["datasets"].items():
            if isinstance(entry, dict) and isinstance(shared, dict) and entry.get("modality") in set(Modality):
                chain = default_options(Modality(entry["modality"])).model_dump(mode="json")
                own = entry.get("preprocessing") or {}
                entry = {**entry, "preprocessing": merged(merged(chain, shared), own)}
            datasets[name] = entry
        return {**raw, "datasets": datasets}

    @model_validator(mode="before")
    @classmethod
    def _add_densities_of_arms(cls, raw: Any) -> Any:
        """Adds the densities that the arms name and the study does not define, so that a preset works by its name."""
        if not isinstance(raw, dict) or not _is_mapping(raw, "target_training") or not _is_mapping(raw, "priors"):
            return raw
        arms = (raw.get("target_training") or {}).get("arms")
        priors = dict(raw.get("priors") or {})
        densities = priors.get("densities")
        if densities is None or isinstance(densities, dict):
            priors["densities"] = with_densities_of_arms(densities or {}, named_priors(arms))
        return {**raw, "priors": priors}

    @model_validator(mode="before")
    @classmethod
    def _add_image_models_of_arms(cls, raw: Any) -> Any:
        """Adds the image models that are named like an objective, so that a preset works by its name."""
        if not isinstance(raw, dict) or not _is_mapping(raw, "target_training") or not _is_mapping(raw, "image_models"):
            return raw
        named = named_image_models((raw.get("target_training") or {}).get("arms"))
        added = {name: {"objective": name} for name in named if name in OBJECTIVE_NAMES}
        return {**raw, "image_models": {**added, **(raw.get("image_models") or {})}}

    @field_validator("network")
    @classmethod
    def _with_its_code(cls, network: NetworkOptions) -> NetworkOptions:
        """The author of a configuration chooses the code to run, and results depend on that code."""
        return with_source(network) if isinstance(network, ImportedNetworkOptions) else network

    @field_validator("target_training")
    @classmethod
    def _with_sizes(cls, training: TargetTrainingOptions, known: ValidationInfo) -> TargetTrainingOptions:
        """Fills in the default sizes; cross-validation always includes all annotated patients, so it has none."""
        target = known.data.get("target")
        if training.sizes is None:
            sizes = () if target is not None and target.cross_validated else DEFAULT_SIZES
            return training.model_copy(update={"sizes": sizes})
        if not training.sizes and target is not None and not target.cross_validated:
            raise ValueError("`target_training.sizes` is empty: give numbers of target patients, such as [5, 10]")
        return training

    @field_validator("target_training")
    @classmethod
    def _with_code_of_arms(cls, training: TargetTrainingOptions) -> TargetTrainingOptions:
        arms = {
            name: arm.model_copy(update={"network": with_source(arm.network)})
            for name, arm in training.arms.items()
            if isinstance(arm.network, ImportedNetworkOptions)
        }
        return training.model_copy(update={"arms": {**training.arms, **arms}})

    @model_validator(mode="after")
    def _known_references(self) -> StudyConfig:
        for role, dataset in (("source", self.source_dataset), ("target", self.target.dataset)):
            if dataset is not None and dataset not in self.datasets:
                raise ValueError(f"`{role}.dataset` is {dataset!r}, which is not one of {', '.join(self.datasets)}")
        return self

    @model_validator(mode="after")
    def _named_arms_are_there(self) -> StudyConfig:
        arms, evaluation = self.target_training.arms, self.evaluation
        named = {"rivals": evaluation.rivals}
        if evaluation.calibration is not None:
            named["calibration.temperature_scaled"] = evaluation.calibration.temperature_scaled
        for key, names in named.items():
            if unknown := [name for name in names or () if name not in arms]:
                known = ", ".join(arms)
                raise ValueError(f"`evaluation.{key}` names {unknown[0]!r}, which is not one of the arms {known}")
        return self

    @model_validator(mode="after")
    def _post_processed_classes_are_there(self) -> StudyConfig:
        classes = self.datasets[self.target.dataset].classes
        for arm, options in self.target_training.arms.items():
            if unknown := options.unknown_classes(classes):
                known = ", ".join(classes)
                raise ValueError(
                    f"arm {arm!r}: `post_processing` names {unknown[0]!r}, which is not one of the classes {known}"
                )
        return self

    @model_validator(mode="after")
    def _arms_have_what_they_need(self) -> StudyConfig:
        for arm, options in self.target_training.arms.items():
            if self.source is None and options.uses_source:
                raise ValueError(
                    f"arm {arm!r} needs a source, and the study has none: add the key `source`, or leave the arm out"
                )
            if self.target.unlabelled is None and options.needs_unlabelled:
                raise ValueError(
                    f"arm {arm!r} learns from unlabelled scans, and the study names none: set `target.unlabelled`, as "
                    "in `unlabelled: all`, or leave the arm out"
                )
            known = [*UNFITTED_PRIORS, AUTO, *self.priors.densities]
            if options.prior not in known:
                names = ", ".join(known)
                raise ValueError(f"arm {arm!r} has the prior {options.prior!r}, which is not one of {names}")
            density = self.priors.densities.get(options.prior)
            if options.layer_scale is LayerScale.LEARNED and (density is None or not can_scale_layers(density)):
                raise ValueError(
                    f"arm {arm!r} has `layer_scale: learned` and the prior {options.prior!r}, which is not a Gaussian"
                )
            if density is not None and of_changes(density):
                self._start_for_changes(arm, options)
            if density is None or not centred_on_network(density):
                continue
            for number, what in ((options.members, "members"), (options.components, "components")):
                if number > 1:
                    raise ValueError(f"arm {arm!r} has {number} {what} and a prior centred on one source network")
            centre = network_of(density) or 0
            if options.init is Initialisation.SOURCE and centre != 0:
                # Channels of two networks are permuted: the prior would pull every filter towards an unrelated one.
                raise ValueError(f"arm {arm!r} starts from source network 0 and its prior is centred on {centre}")
        largest, pool = self.target_training.largest_size, self.target.pool
        if pool is not None and largest > pool:
            key = "sizes" if largest in (self.target_training.sizes or ()) else "reference_sizes"
            raise ValueError(f"`target_training.{key}` asks for {largest} patients but `target.pool` has {pool}")
        return self

    @model_validator(mode="after")
    def _image_models_are_there(self) -> StudyConfig:
        for arm, options in self.target_training.arms.items():
            if options.image_model is not None and options.image_model not in self.image_models:
                known = ", ".join([*self.image_models, *(n for n in OBJECTIVE_NAMES if n not in self.image_models)])
                raise ValueError(
                    f"arm {arm!r} starts from the image model {options.image_model!r}, which is not one of {known}: "
                    "correct `image_model`, or define it in `image_models`"
                )
        for name, model in self.image_models.items():
            if model.from_source and self.source is None:
                raise ValueError(f"`image_models.{name}.from_source` needs a source, and the study has none")
            if needs_bottleneck(model.objective) and isinstance(self.network, ImportedNetworkOptions):
                raise ValueError(
                    f"`image_models.{name}.objective` is {model.objective.kind}, which needs the bottleneck of the "
                    "network, and that of an imported network is not known: choose denoising or masked"
                )
        return self

    @staticmethod
    def _start_for_changes(arm: str, options: ArmOptions) -> None:
        """Refuses arms without a start that a density of changes could be centred on."""
        if options.init is Initialisation.PRIOR:
            raise ValueError(
                f"arm {arm!r} has `init: prior` and a density of changes, which needs filters to start from: set "
                "`init` to source, branches or random"
            )
        if options.components > 1:
            raise ValueError(
                f"arm {arm!r} has {options.components} components and a density of changes, which has one start"
            )

    @model_validator(mode="after")
    def _branches_share_a_trunk(self) -> StudyConfig:
        """What knows positions across source networks needs networks whose channels correspond, and enough of them."""
        options = self.source_training
        named = [f"the density {name!r}" for name, density in self.priors.densities.items() if of_branches(density)]
        starting = [
            f"arm {name!r}" for name, arm in self.target_training.arms.items() if arm.init is Initialisation.BRANCHES
        ]
        if not options.has_trunk and (who := [*named, *starting]):
            fix = "set `source_training.trunk_steps`" if self.source_pack is None else "use a pack of such networks"
            raise ValueError(
                f"{who[0]} takes the filters of several source networks together, position by position, and their "
                f"channels correspond only where they branch from a trunk: {fix}"
            )
        if named and (fewest := self._fewest_fitted()) < _FEWEST_BRANCHES:
            raise ValueError(
                f"{named[0]} needs {_FEWEST_BRANCHES} networks or more to be fitted to, and scoring leaves {fewest} of "
                f"{options.networks}: raise `source_training.networks` or lower `priors.held_out_networks`"
            )
        return self

    def _fewest_fitted(self) -> int:
        """The fewest networks that a density is fitted to, for the arms or for a score."""
        networks = range(self.source_training.networks)
        folds = network_folds(networks, self.priors) if len(networks) > 1 else []
        return min((len(fold.fitted) for fold in folds), default=len(networks))

    @property
    def source_dataset(self) -> str | None:
        """Name of the source's dataset; none where the source is a pack, or where there is no source."""
        return None if self.source is None else self.source.dataset

    @property
    def source_pack(self) -> Path | None:
        """The source pack; none where the source is a dataset, or where there is no source."""
        return None if self.source is None else self.source.pack

    @property
    def translates_source(self) -> bool:
        """Whether source images get another appearance before networks learn from them."""
        return self.source is not None and not isinstance(self.source.translate, NoTranslation)

    def network_of(self, arm: str) -> NetworkOptions:
        """The network that an arm trains."""
        return self.target_training.arms[arm].network or self.network

    @property
    def workspace_folder(self) -> Path:
        """The folder of the results."""
        return self.workspace or Path("workspaces") / self.name


def _is_mapping(raw: dict[str, Any], key: str) -> bool:
    """Whether a key of a raw configuration is missing or holds keys."""
    return isinstance(raw.get(key) or {}, dict)

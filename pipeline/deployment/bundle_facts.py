"""The facts that the metadata and the model card of a bundle state."""

from __future__ import annotations

from dataclasses import dataclass

from data.modality import Modality
from pipeline.deployment.bundle_input import BundleInput
from pipeline.deployment.export_options import ExportOptions
from pipeline.deployment.gate import GateRecord
from pipeline.deployment.model_description import ModelDescription
from pipeline.deployment.study_evidence import StudyEvidence

_NEEDED = ("nibabel", "pytorch-ignite", "fire", "safetensors")
_NEEDED_BY_COPIES = ("scipy", "pydantic")
_KINDS = {Modality.CT: "CT", Modality.MR: "MR", Modality.MR_BRAIN: "skull-stripped MR of the brain"}


@dataclass(frozen=True)
class OnnxFacts:
    """The ONNX files: their names, and whether they take windows of any size or only those of the sliding window."""

    files: tuple[str, ...]
    any_size: bool


@dataclass(frozen=True)
class BundleFacts:
    """The facts of a bundle.

    Attributes:
        model: the model that it was made from.
        digest: SHA-256 of the model folder's checksums.
        takes: raw scans, or volumes that are ready for the network.
        copies: whether it holds copies of Graft's modules.
        onnx: of the ONNX files; `None` where there are none.
        options: statements of the owner.
        evidence: results of the study; `None` where they are not available.
        examples: number of scans that it holds.
        gate: of the features of its network in the training scans, where the model has one.
    """

    model: ModelDescription
    digest: str
    takes: BundleInput
    copies: bool
    onnx: OnnxFacts | None
    options: ExportOptions
    evidence: StudyEvidence | None
    examples: int
    gate: GateRecord | None = None

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages besides MONAI that running the bundle needs."""
        return (*_NEEDED, *_NEEDED_BY_COPIES) if self.copies else _NEEDED

    @property
    def kind(self) -> str:
        """What it segments, e.g. `MR of the head (FLAIR)`."""
        about = self.model
        channels = "" if about.modality is Modality.CT else f" ({', '.join(about.channels)})"
        return _KINDS.get(about.modality, "MR of the head") + channels

    @property
    def patients(self) -> str:
        """The number of target patients that the model learned from, in words."""
        number = self.model.training_patients
        return f"{number or 'no annotated'} target patient{'s' * (number != 1)}"

    @property
    def kept(self) -> dict[str, str]:
        """Class → what is kept of the components of its mask, in words; only classes of which something is removed."""
        rules = zip(self.model.classes, self.model.arm.reading.rules(tuple(self.model.classes)), strict=True)
        return {name: rule.words for name, rule in rules if not rule.keeps_everything}

    @property
    def evaluated(self) -> bool:
        """Whether the card holds numbers."""
        return self.evidence is not None and bool(self.evidence.scores)

    @property
    def uses_source(self) -> bool:
        """Whether the model uses what was learned on the source, or an image model, which may have seen its scans."""
        arm = self.model.arm
        return arm.uses_source or arm.update_from is not None or arm.image_model is not None

    @property
    def caveats(self) -> tuple[str, ...]:
        """How the numbers of the study differ from those of the bundle."""
        notes = []
        if self.evidence is not None and self.evidence.repeats > 1:
            trainings = f"{self.evidence.repeats} trainings on different patients"
            notes.append(f"They average over {trainings}, of which this model is one.")
        if self.model.arm.is_bayesian:
            notes.append(
                f"They are those of the average over {self.model.draws} draws from the posterior, not of the mean "
                "network in this bundle."
            )
        return tuple(notes)

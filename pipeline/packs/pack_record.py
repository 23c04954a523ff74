"""`pack.json` of a source pack: what was learned on a source, and nothing of a patient.

    pack.json                                   this record
    README.md                                   the card, for people
    LICENSE                                     the text of the licence, if the giver added one
    networks/network-NN/snapshot-NN.safetensors weights at the end of a cycle; the last one, or all
    priors/GROUP/DENSITY.safetensors            a fitted density

What a prior of the other weights needs is read from the last snapshots, so it is no file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from data.modality import Modality
from data.name_fields import Apart, LabelName, Name
from data.stored_record import StoredRecord
from models.heads import Heads
from models.networks.factory import NetworkOptions
from pipeline.priors.filter_options import FilterOptions, PriorFitOptions
from pipeline.priors.scores_record import FitRecord, ScoresRecord
from pipeline.priors.structure_record import FilterStructure
from pipeline.training.augmentation import AugmentationOptions
from pipeline.training.patches import PatchOptions
from pipeline.training.source_network import network_key, snapshot_name
from pipeline.training.source_options import SourceTrainingOptions
from preprocessing.chain import PreprocessingOptions

PACK, CARD, LICENCE = "pack.json", "README.md", "LICENSE"
LEAST_PATIENTS = 5
"""Of fewer patients no pack tells how their scans spread: a quartile of three numbers is one of them."""

Words = Annotated[str, Field(max_length=4000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PackedFile(StoredRecord):
    """A file of a pack."""

    size: int = Field(ge=0)
    """Bytes."""
    sha256: Sha256
    """SHA-256 of its content."""


class PackedGroup(StoredRecord):
    """What was fitted to the filters of one group of layers."""

    layers: tuple[str, ...] = Field(min_length=1)
    """Parameters of its layers."""
    fits: dict[Name, FitRecord] = Field(default_factory=dict)
    """Density → how its fit went; empty where the study fitted none."""
    scores: ScoresRecord | None = None
    """Held-out scores of all densities, and which one `auto` takes."""
    structure: FilterStructure | None = None
    """What the filters were when it was fitted: is there anything to learn from them?"""


class Quartiles(StoredRecord):
    """How a number spreads over patients, rounded to three digits."""

    low: float
    """A quarter of the patients lie below."""
    median: float
    """Half of them do."""
    high: float
    """A quarter lie above."""


class SpreadOverPatients(StoredRecord):
    """What the scans of a source look like, over its patients."""

    scan_shape: tuple[Quartiles, Quartiles, Quartiles]
    """Voxels of the raw scans along right, anterior, superior."""
    scan_spacing: tuple[Quartiles, Quartiles, Quartiles]
    """Spacing of the raw scans along the same axes, mm."""
    intensity: dict[str, dict[str, Quartiles]]
    """Channel → mean, standard deviation and percentiles inside the mask, after preprocessing."""
    mask_ml: Quartiles
    """Volume of the mask, ml."""
    structure_ml: dict[str, Quartiles]
    """Class → volume, ml; patients without the structure do not count."""


class SourceFacts(StoredRecord):
    """The source in numbers that are no patient's."""

    patients: int = Field(ge=1)
    """Patients that the networks were trained on."""
    cases: int = Field(ge=1)
    """Their scans."""
    synthetic: bool
    """Whether the scans are synthetic."""
    spacing: tuple[float, float, float]
    """Spacing of what the networks see, mm; the median over scans."""
    spread: SpreadOverPatients | None = None
    """Left out for fewer than five patients."""
    out_of_bag_dice: float | None = None
    """Dice on patients that a network was not trained on, mean over networks; left out for fewer than two patients."""
    translation: str = ""
    """Kind of the translation of the source images to the target of the giver's study; left out without one."""


class PackRecord(StoredRecord):
    """The content of `pack.json`.

    Densities of format 1 were fitted to the kernels of transposed convolutions as a network stores them, those of
    format 2 to kernels as a convolution applies them.
    """

    FORMAT: ClassVar[int] = 2

    graft_version: str
    """Version of the program that wrote it."""
    title: Words = ""
    """What the giver calls it."""
    licence: Words = ""
    """Under which terms it may be used, in a sentence."""
    citation: Words = ""
    """What to cite."""
    modality: Modality
    """What kind of scan the source holds."""
    channels: Annotated[tuple[Name, ...], Apart] = Field(min_length=1)
    """Channel names in the order of the networks' input."""
    classes: Annotated[tuple[LabelName, ...], Apart] = Field(min_length=1)
    """Class names in the order of the networks' output, background left out."""
    heads: Heads = Heads.EXCLUSIVE
    """Whether these classes exclude each other or overlap."""
    preprocessing: PreprocessingOptions
    """The chain of the source, without paths."""
    network: NetworkOptions
    """The networks."""
    source_training: SourceTrainingOptions
    """How many networks, and how each was trained."""
    patches: PatchOptions
    """The patches that they were trained on."""
    augmentation: AugmentationOptions
    """How these were augmented."""
    filters: FilterOptions
    """How layers are grouped, and which filters were left out of the fits."""
    priors: PriorFitOptions
    """The densities by name, and how they were fitted and scored."""
    seed: int = Field(ge=0)
    """Of the study that it comes from."""
    snapshots: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Cycles whose weights are in it; the last one always."""
    groups: dict[Name, PackedGroup]
    """Group of layers → what was fitted to it."""
    source: SourceFacts
    """The source in numbers."""
    files: dict[str, PackedFile]
    """Name of each other file → its size and digest."""

    def as_json(self) -> dict[str, Any]:
        """What is written: all of it, because another version may have other defaults."""
        return {"format": self.FORMAT, **self.model_dump(mode="json")}

    @property
    def networks(self) -> range:
        """Numbers of the networks."""
        return range(self.source_training.networks)

    @property
    def densities(self) -> tuple[str, ...]:
        """Names of the densities that every group has."""
        return tuple(name for name in self.priors.densities if all(name in own.fits for own in self.groups.values()))

    @model_validator(mode="after")
    def _files_of_its_content(self) -> PackRecord:
        expected = {CARD, *_expected(self)}
        if wrong := sorted(expected ^ (set(self.files) - {LICENCE})):
            listed = "is listed, and nothing of the pack" if wrong[0] in self.files else "is not listed"
            raise ValueError(f"`files`: {wrong[0][:80]!r} {listed}")
        if self.source_training.cycles - 1 not in self.snapshots:
            raise ValueError("`snapshots` lack the last cycle")
        return self

    @model_validator(mode="after")
    def _fits_of_known_densities(self) -> PackRecord:
        for name, group in self.groups.items():
            if group.fits and set(group.fits) != set(self.priors.densities):
                raise ValueError(f"`groups.{name}.fits` are not those of `priors.densities`")
        return self


def snapshot_entry(network: int, cycle: int) -> str:
    """Name of a network's weights in a pack."""
    return f"networks/{network_key(network)}/{snapshot_name(cycle)}"


def density_entry(group: str, density: str) -> str:
    """Name of a fitted density in a pack."""
    return f"priors/{group}/{density}.safetensors"


def _expected(record: PackRecord) -> Iterator[str]:
    """Names of the weights that a record speaks of."""
    # A number that no pack has would be a loop without an end.
    if record.source_training.networks > len(record.files):
        raise ValueError("`source_training.networks` is larger than the number of files")
    for number in record.networks:
        yield from (snapshot_entry(number, cycle) for cycle in record.snapshots)
    for name, group in record.groups.items():
        yield from (density_entry(name, density) for density in group.fits)

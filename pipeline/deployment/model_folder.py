"""The model folder: weights, posteriors and description, each file with its SHA-256; portable, and verified when read.

    model/
      model.json              what it is and how to use it (`ModelDescription`)
      member-00.safetensors   weights and posterior of each member
      gate.safetensors        tells which scans are unlike those of the training; not of few patients
      gate-image-00.safetensors   an image model of the study that tells it too, if it has any
      SHA256SUMS              checksums of the other files, as `sha256sum --check` reads them

Loading executes no code: safetensors hold only numbers, and pydantic validates the JSON.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from data.errors import ModelError
from data.input_file import is_there, read_json, read_text
from data.option_faults import fault_at
from data.stored_record import refuse_newer
from models.bayesian_network import BayesianNetwork
from pipeline.arms.member_file import read_member
from pipeline.arms.prediction import WeightDraws
from pipeline.deployment.gate import FeatureGate
from pipeline.deployment.image_gate import ImageGate
from pipeline.deployment.judgement import Judgement
from pipeline.deployment.model_description import FORMAT, ModelDescription
from pipeline.storage.atomic import link_or_copy, new_folder, write_json, write_text
from pipeline.storage.digest import file_digest
from pipeline.storage.file_names import GATE

MODEL_FOLDER = "model"
DESCRIPTION = "model.json"
CHECKSUMS = "SHA256SUMS"
_IMAGE_GATE = "gate-image-"
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>[A-Za-z0-9._-]+)")
_AGAIN = "copy it again, or run `graft infer` of its study again"


@dataclass(frozen=True)
class Model:
    """A model that was read.

    Attributes:
        folder: its folder.
        description: the content of `model.json`.
        members: its trained networks, ready to predict.
        digest: SHA-256 of its checksums, and so of all its files.
        gate: tells which scans are unlike those of the training, if it has one.
        image_gates: image models that tell it, too.
    """

    folder: Path
    description: ModelDescription
    members: tuple[BayesianNetwork, ...]
    digest: str
    gate: FeatureGate | None = None
    image_gates: tuple[ImageGate, ...] = ()

    def judgements(self, image: Tensor, content: Tensor, percentile: float) -> list[Judgement]:
        """Asks every gate how unlike the training scans a scan is.

        Args:
            image: `[C, X, Y, Z]`, preprocessed, on the device of the members.
            content: `[X, Y, Z]` bool, where there is something of the patient.
            percentile: share of scans like those of the training of which no gate may say anything; 1 allows all.
        """
        about, count = self.description, len(self.image_gates) + (self.gate is not None)
        # Each of several gates may be wrong; together they must not be more often (Bonferroni).
        each = 1 - (1 - percentile) / max(count, 1)
        features = (
            []
            if self.gate is None
            else [self.gate.judge(self.members[0], image, content, about.patch, about.window, each)]
        )
        return [*features, *(own.judge(image, content, each) for own in self.image_gates)]

    def draws(self, samples: int | None, device: str) -> list[WeightDraws]:
        """Draws of each member's weights, the same as in the study.

        Args:
            samples: draws from each posterior; by default as many as in the study.
            device: of the members.
        """
        number = samples or self.description.draws
        seeds = zip(self.members, self.description.seeds, strict=True)
        return [WeightDraws(member, number, seed, device) for member, seed in seeds]


def member_name(number: int) -> str:
    """File of a member's weights and posterior."""
    return f"member-{number:02d}.safetensors"


def write_model(
    folder: Path,
    description: ModelDescription,
    members: Sequence[Path],
    gate: FeatureGate | None = None,
    image_gates: Sequence[Path] = (),
) -> None:
    """Writes a model into a new folder, whole or not at all, with its members' files as named in the description."""
    with new_folder(folder) as temporary:
        for name, member in zip(description.members, members, strict=True):
            link_or_copy(member, temporary / name)
        if gate is not None:
            gate.save(temporary / GATE)
        for number, path in enumerate(image_gates):
            link_or_copy(path, temporary / f"{_IMAGE_GATE}{number:02d}.safetensors")
        write_json(temporary / DESCRIPTION, description.model_dump(mode="json"))
        files = sorted(path for path in temporary.iterdir())
        write_text(temporary / CHECKSUMS, "".join(f"{file_digest(path)}  {path.name}\n" for path in files))


def find_model(path: Path) -> Path:
    """Returns the folder of a model: the path itself, or `model/` below it, as in the folder of an arm.

    Raises:
        ModelError: there is no model.
    """
    for folder in (path, path / MODEL_FOLDER):
        if is_there(folder / DESCRIPTION):
            return folder
    found = "there is no such folder" if not os.path.exists(path) else "holds no model"
    raise ModelError(
        f"{path}: {found}",
        expected=f"a model folder with {DESCRIPTION}, such as workspaces/STUDY/infer/ARM/n05/repeat-0/model",
        fix="name one; `graft infer` writes them",
    )


def read_description(path: Path) -> tuple[ModelDescription, str]:
    """Reads the description of a model after checking all of its files.

    Returns:
        The description and the SHA-256 of the checksums.

    Raises:
        ModelError: there is no model, it is of another format, or a file is missing or damaged.
    """
    folder = find_model(path)
    file = folder / DESCRIPTION
    raw = read_json(file, ModelError, _AGAIN)
    _require_format(file, raw)
    listed = _verify(folder)
    try:
        description = ModelDescription.model_validate(raw)
    except ValidationError as error:
        raise ModelError(f"{file}: {fault_at(error)}", expected="a valid description", fix=_AGAIN) from error
    if unlisted := set(description.members) - listed:
        raise ModelError(f"{folder / CHECKSUMS}: does not list {', '.join(sorted(unlisted))}", fix=_AGAIN)
    return description, model_digest(folder)


def model_digest(folder: Path) -> str:
    """Returns the SHA-256 of a model folder's checksums: its identity wherever it is copied."""
    return file_digest(folder / CHECKSUMS)


def read_model(path: Path, device: str = "cpu") -> Model:
    """Reads a model.

    Args:
        path: its folder, or the folder of the arm that holds it as `model/`.
        device: for its members.

    Raises:
        ModelError: there is no model, it is of another format, or a file is missing or damaged.
    """
    description, digest = read_description(path)
    folder = find_model(path)
    members = []
    for name in description.members:
        try:
            member = read_member(folder / name, description.arm, description.target_network)
        except (RuntimeError, KeyError, ModelError) as error:
            reason = error.found if isinstance(error, ModelError) else str(error)
            raise ModelError(
                f"{folder / name}: its weights do not fit the network of {DESCRIPTION} ({reason})", fix=_AGAIN
            ) from error
        members.append(member.to(device))
    gate = FeatureGate.read(folder / GATE, members[0]) if (folder / GATE).is_file() else None
    image_gates = tuple(ImageGate.read(path, device) for path in sorted(folder.glob(f"{_IMAGE_GATE}*.safetensors")))
    return Model(folder, description, tuple(members), digest, gate, image_gates)


def _require_format(file: Path, raw: Any) -> None:
    version = raw.get("format") if isinstance(raw, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise ModelError(f"{file}: does not state its `format`", expected=f"format {FORMAT}", fix=_AGAIN)
    writer = raw.get("graft_version", "unknown")
    refuse_newer(raw, file, FORMAT, ModelError, f"install Graft {writer} or later")
    if version < FORMAT:
        raise ModelError(
            f"{file}: the model has the older format {version}",
            expected=f"format {FORMAT}",
            fix=f"run `graft infer` of its study again, or use Graft {writer}",
        )


def _verify(folder: Path) -> set[str]:
    """Compares every file with its checksum and returns the names of the files.

    Raises:
        ModelError: a file is missing, damaged or not listed.
    """
    path = folder / CHECKSUMS
    lines = read_text(path, "checksums of all files", ModelError, fix=_AGAIN).splitlines()
    matches = [_LINE.fullmatch(line) for line in lines]
    listed = {match["name"]: match["digest"] for match in matches if match}
    if len(listed) != len(lines) or DESCRIPTION not in listed:
        raise ModelError(f"{path}: is damaged", expected="a checksum and a name in each line", fix=_AGAIN)
    for name, digest in listed.items():
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name}: is missing", expected=f"the files of {CHECKSUMS}", fix=_AGAIN)
        if file_digest(folder / name) != digest:
            raise ModelError(
                f"{folder / name}: was changed or damaged (its SHA-256 is not the one in {CHECKSUMS})",
                expected="the file as it was written",
                fix=_AGAIN,
            )
    return set(listed)

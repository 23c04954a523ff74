"""`graft export`: a model as a MONAI bundle, which runs where Graft is not installed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from data.case import Case
from data.errors import DataError, WorkspaceError
from models.networks.imported_network import network_code_allowed
from pipeline.config.reading import read_command_options
from pipeline.deployment.bundle_example import write_example
from pipeline.deployment.bundle_facts import BundleFacts, OnnxFacts
from pipeline.deployment.bundle_inference import inference_config, weights_name
from pipeline.deployment.bundle_input import BundleInput
from pipeline.deployment.bundle_metadata import bundle_metadata
from pipeline.deployment.bundle_network import INFERENCE, network_modules
from pipeline.deployment.bundle_text import require_words
from pipeline.deployment.export_options import ExportOptions
from pipeline.deployment.input_cases import collect_cases
from pipeline.deployment.mean_network import mean_networks
from pipeline.deployment.model_card import model_card
from pipeline.deployment.model_description import ModelDescription
from pipeline.deployment.model_folder import Model, read_description, read_model
from pipeline.deployment.network_code import require_network_code
from pipeline.deployment.onnx_network import require_onnx, write_onnx
from pipeline.deployment.study_evidence import OF_ANOTHER, find_evidence
from pipeline.deployment.vendored_source import copy_modules
from pipeline.execution.provenance import graft_version
from pipeline.storage.atomic import remove_temporaries_of, write_json, write_text
from pipeline.storage.file_names import FILES
from pipeline.storage.owned_folder import is_empty, owned_folder, read_manifest, require_ours
from pipeline.storage.tensors import save_tensors

logger = logging.getLogger(__name__)

METADATA, CARD = "configs/metadata.json", "docs/README.md"
"""Lists what Graft wrote into a bundle: nothing else is ever replaced."""
LICENCE = "LICENSE"


@dataclass(frozen=True)
class ExportRequest:
    """What the command was asked for.

    Attributes:
        model: folder of the model.
        output: folder of the bundle.
        options: what the owner says.
        study: workspace of the model's study; by default the one that the model lies in.
        examples: scans that go into the bundle with their masks.
        force: replace the files of a bundle that is there.
        allow_network_code: whether a network that is code outside Graft may be run.
    """

    model: Path
    output: Path
    options: ExportOptions = field(default_factory=ExportOptions)
    study: Path | None = None
    examples: tuple[Path, ...] = ()
    force: bool = False
    allow_network_code: bool = False


@dataclass(frozen=True)
class ExportedBundle:
    """What was written.

    Attributes:
        folder: of the bundle.
        missing_steps: of the model's chain that the bundle cannot carry out; none where it takes raw scans.
        unfilled: what the owner still has to say.
        evaluated: whether the card holds numbers.
        of_another: whether the study's tables are there, but of another training than this model.
        examples: scans that it holds.
    """

    folder: Path
    missing_steps: tuple[str, ...]
    unfilled: tuple[str, ...]
    evaluated: bool
    of_another: bool
    examples: int

    def lines(self) -> list[str]:
        """Says what was written and what is left to do."""
        lines = [f"The bundle is {self.folder}; how to run it, and its model card: {self.folder / CARD}"]
        if self.missing_steps:
            lines.append(
                "It takes preprocessed volumes, not raw scans, because a MONAI bundle cannot run "
                f"{', '.join(self.missing_steps)}"
            )
        if self.examples:
            lines.append(f"It holds {self.examples} scan{'s' * (self.examples > 1)}: give it away only if you may")
        if self.of_another:
            lines.append(f"The card holds no numbers: {OF_ANOTHER}")
        elif not self.evaluated:
            lines.append("The card holds no numbers: the study's results were not found (--study WORKSPACE names it)")
        if self.unfilled:
            lines.append(f"Only you can fill in: {', '.join(self.unfilled)} (--set {self.unfilled[0]}=…)")
        if not (self.folder / LICENCE).exists():
            lines.append(f"The text of the licence goes into a file {self.folder / LICENCE}, which --force keeps")
        return lines


def export_options(overrides: Sequence[str], given: Mapping[str, Any] | None = None) -> ExportOptions:
    """Reads `--set key=value`.

    Raises:
        ConfigError: an option is unknown or not allowed.
    """
    return read_command_options("export", ExportOptions, overrides, given)


def export(request: ExportRequest) -> ExportedBundle:
    """Writes the bundle of a model, whole or not at all.

    Raises:
        GraftError: the model, the study or an example is not usable, a package is missing, or the output folder holds
            something else.
    """
    if request.options.onnx:
        require_onnx()
    _require_free(request.output, request.force)
    require_ours(request.output, FILES)
    with network_code_allowed(request.allow_network_code):
        require_network_code(read_description(request.model)[0].network)
        model = read_model(request.model)
    evidence = find_evidence(model.folder, model.description, model.digest, request.study)
    cases = _example_cases(request.examples, model.description)
    networks = mean_networks(model)
    takes = BundleInput.of(model.description)
    _make_place(request.output)
    with owned_folder(request.output, FILES) as folder:
        onnx = _write_networks(folder / "models", networks, model.description, request.options)
        copies = _write_source(folder, model, takes)
        facts = BundleFacts(model.description, model.digest, takes, copies, onnx, request.options, evidence, len(cases))
        _write_texts(folder, facts)
        for case in cases:
            logger.info("example %s", case.name)
            write_example(folder / "example", case, networks, model.description, takes)
    return ExportedBundle(
        request.output,
        takes.missing,
        tuple(request.options.unfilled()),
        evidence is not None and bool(evidence.scores),
        evidence is not None and not evidence.evaluated,
        len(cases),
    )


def _require_free(output: Path, force: bool) -> None:
    """Keeps what lies at the output from being lost.

    Raises:
        WorkspaceError: something lies there that may not be replaced.
    """
    remove_temporaries_of(output)
    if not output.is_dir() or is_empty(output):
        return
    written = read_manifest(output / FILES)
    if written is None:
        raise WorkspaceError(
            f"{output}: holds files that are not part of a bundle from Graft (there is no {FILES})",
            expected="a new or empty folder, or a bundle that `graft export` wrote",
            fix="name another with --output",
        )
    # One that lists no files is what a killed command left unfinished.
    if "files" in written and not force:
        raise WorkspaceError(
            f"{output}: already holds a bundle",
            expected="a new or empty folder",
            fix="name another, or add --force to replace the files that Graft wrote",
        )


def _make_place(output: Path) -> None:
    """Makes the folder that the bundle is written in: its own if it is there, else that around it.

    Raises:
        WorkspaceError: it cannot be made, or not be written.
    """
    place = output if output.is_dir() else output.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(place, os.W_OK | os.X_OK) else "no permission to write"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise WorkspaceError(
            f"{place}: nothing can be written in it ({reason})",
            expected="a folder that can be written",
            fix="name another with --output",
        )


def _example_cases(inputs: Sequence[Path], about: ModelDescription) -> list[Case]:
    """Finds the scans of the examples.

    Raises:
        DataError: one is not usable.
    """
    found: list[Case] = []
    for entry in collect_cases(inputs, about.channels) if inputs else ():
        if entry.case is None:
            raise DataError(f"example {entry.name}: {entry.fault.rstrip('.')}")
        found.append(entry.case)
    return found


def _write_networks(
    folder: Path, networks: Sequence[nn.Module], about: ModelDescription, options: ExportOptions
) -> OnnxFacts | None:
    """Writes the weights as safetensors and, if asked for, the networks as ONNX."""
    folder.mkdir()
    names, free = [], True
    for number, network in enumerate(networks):
        stem = weights_name(number, len(networks))
        save_tensors(folder / f"{stem}.safetensors", network.state_dict(), {"arm": about.arm_name})
        if options.onnx:
            logger.info("converting network %d of %d to ONNX", number + 1, len(networks))
            names.append(f"models/{stem}.onnx")
            free &= write_onnx(network, len(about.channels), about.patch, folder / f"{stem}.onnx")
    return OnnxFacts(tuple(names), free) if names else None


def _write_source(folder: Path, model: Model, takes: BundleInput) -> bool:
    """Copies the modules of Graft that the bundle runs.

    Returns:
        whether there are any.
    """
    about = model.description
    modules = (*network_modules(about.network), *takes.modules)
    copy_modules(modules, folder, f"Graft {graft_version()}")
    return bool(modules)


def _write_texts(folder: Path, facts: BundleFacts) -> None:
    metadata = bundle_metadata(facts)
    # The inference configuration consists of our expressions and holds no words of anybody.
    require_words(metadata, METADATA)
    write_json(folder / METADATA, metadata)
    write_json(folder / INFERENCE, inference_config(facts.model, facts.takes))
    write_text(folder / CARD, model_card(facts))

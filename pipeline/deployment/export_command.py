"""`graft export`: a model as a MONAI bundle, which runs where Graft is not installed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from data.case import Case
from data.errors import DataError, WorkspaceError
from models.networks.imported_network import network_code_allowed
from pipeline.deployment.bundle_example import write_example
from pipeline.deployment.bundle_facts import BundleFacts, OnnxFacts
from pipeline.deployment.bundle_inference import inference_config, weights_name
from pipeline.deployment.bundle_input import BundleInput
from pipeline.deployment.bundle_metadata import bundle_metadata
from pipeline.deployment.bundle_network import INFERENCE, network_modules
from pipeline.deployment.bundle_text import require_words
from pipeline.deployment.export_options import ExportOptions
from pipeline.deployment.gate import GateRecord
from pipeline.deployment.input_cases import collect_cases
from pipeline.deployment.mean_network import mean_networks
from pipeline.deployment.model_card import model_card
from pipeline.deployment.model_description import ModelDescription
from pipeline.deployment.model_folder import Model, read_description, read_model
from pipeline.deployment.network_code import require_network_code
from pipeline.deployment.onnx_network import require_onnx, write_onnx
from pipeline.deployment.study_evidence import find_evidence
from pipeline.deployment.vendored_source import copy_modules
from pipeline.execution.provenance import graft_version
from pipeline.storage.atomic import remove_temporaries_of, write_json, write_text
from pipeline.storage.file_names import FILES
from pipeline.storage.owned_folder import is_empty, owned_folder, read_manifest, require_ours, require_writable
from pipeline.storage.tensors import save_tensors

logger = logging.getLogger(__name__)

METADATA, CARD, LICENCE = "configs/metadata.json", "docs/README.md", "LICENSE"


@dataclass(frozen=True)
class ExportedBundle:
    """A bundle that was written: its folder and its facts."""

    folder: Path
    facts: BundleFacts

    def lines(self) -> list[str]:
        """Reports what was written and what is left to do."""
        facts, unfilled = self.facts, self.facts.options.unfilled()
        lines = [f"The bundle is {self.folder}; its model card, with instructions to run it: {self.folder / CARD}"]
        if facts.takes.missing:
            lines.append(
                "It takes preprocessed volumes, not raw scans, because a MONAI bundle cannot run "
                f"{', '.join(facts.takes.missing)}"
            )
        if facts.examples:
            lines.append(f"It holds {facts.examples} scan{'s' * (facts.examples > 1)}: share it only if you may")
        if facts.evidence is not None and facts.evidence.no_numbers is not None:
            lines.append(f"The card holds no numbers: {facts.evidence.no_numbers}")
        elif not facts.evaluated:
            lines.append("The card holds no numbers: the study's results were not found (--study WORKSPACE names it)")
        if unfilled:
            lines.append(f"Only you can fill in: {', '.join(unfilled)} (--set {unfilled[0]}=…)")
        if not (self.folder / LICENCE).exists():
            lines.append(f"Put the text of the licence into {self.folder / LICENCE}; --force keeps it")
        return lines


def export(
    model: Path,
    output: Path,
    options: ExportOptions,
    *,
    study: Path | None = None,
    examples: Sequence[Path] = (),
    force: bool = False,
    allow_network_code: bool = False,
) -> ExportedBundle:
    """Writes the bundle of a model, whole or not at all.

    Args:
        model: folder of the model.
        output: folder of the bundle.
        options: statements of the owner.
        study: workspace of the model's study; by default the one that the model lies in.
        examples: scans that go into the bundle with their masks.
        force: replace the files of an existing bundle.
        allow_network_code: whether a network that is code outside Graft may be run.

    Raises:
        GraftError: the model, the study or an example is not usable, a package is missing, or the output folder holds
            something else.
    """
    if options.onnx:
        require_onnx()
    _require_free(output, force)
    require_ours(output, FILES)
    with network_code_allowed(allow_network_code):
        require_network_code(read_description(model)[0].network)
        found = read_model(model)
    about = found.description
    evidence = find_evidence(found.folder, about, found.digest, study)
    cases = _example_cases(examples, about)
    networks = mean_networks(found)
    takes = BundleInput.of(about)
    # A bundle is written inside its folder if that exists, otherwise beside it.
    require_writable(output if output.is_dir() else output.parent)
    with owned_folder(output, FILES) as folder:
        onnx = _write_networks(folder / "models", networks, about, options)
        modules = (*network_modules(about.network), *takes.modules)
        copy_modules(modules, folder, f"Graft {graft_version()}")
        facts = BundleFacts(
            about, found.digest, takes, bool(modules), onnx, options, evidence, len(cases), _gate(found)
        )
        _write_texts(folder, facts)
        for case in cases:
            logger.info("example %s", case.name)
            write_example(folder / "example", case, networks, about, takes)
    return ExportedBundle(output, facts)


def _gate(model: Model) -> GateRecord | None:
    return None if model.gate is None else model.gate.record


def _require_free(output: Path, force: bool) -> None:
    """Refuses an output that holds something that may not be replaced.

    Raises:
        WorkspaceError: says what it holds.
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
    # A manifest that lists no files is what a killed command left.
    if "files" in written and not force:
        raise WorkspaceError(
            f"{output}: already holds a bundle",
            expected="a new or empty folder",
            fix="name another, or add --force to replace the files that Graft wrote",
        )


def _example_cases(inputs: Sequence[Path], about: ModelDescription) -> list[Case]:
    """Finds the scans of the examples; refuses one that is not usable."""
    found: list[Case] = []
    for entry in collect_cases(inputs, about.channels) if inputs else ():
        if entry.case is None:
            raise DataError(f"example {entry.name}: {entry.fault.rstrip('.')}")
        found.append(entry.case)
    return found


def _write_networks(
    folder: Path, networks: Sequence[nn.Module], about: ModelDescription, options: ExportOptions
) -> OnnxFacts | None:
    """Writes the weights as safetensors and, if requested, the networks as ONNX."""
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


def _write_texts(folder: Path, facts: BundleFacts) -> None:
    metadata = bundle_metadata(facts)
    # The inference configuration consists of our own expressions and holds no text from users.
    require_words(metadata, METADATA)
    write_json(folder / METADATA, metadata)
    write_json(folder / INFERENCE, inference_config(facts.model, facts.takes))
    write_text(folder / CARD, model_card(facts))

"""The files that make a folder of predictions a BIDS derivative: description, sidecars, label names, `.bidsignore`.

BIDS 1.10, "Derivatives": common data types and imaging derivatives; "Common principles": BIDS URIs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import combinations, count
from pathlib import Path
from typing import Any

from models.heads import Heads
from pipeline.deployment.case_files import DEFAULT_LINK, CaseFiles
from pipeline.deployment.class_words import file_words
from pipeline.deployment.model_description import ModelDescription
from pipeline.execution.provenance import graft_version
from pipeline.execution.unit import MARKER
from pipeline.storage.atomic import write_json, write_text
from pipeline.storage.file_names import FILE_DIGESTS, PREDICTION, PREDICTION_TABLE
from pipeline.storage.spreadsheet_cell import escaped

DESCRIPTION = "dataset_description.json"
_NIFTI = ".nii.gz"
_IGNORED = (
    PREDICTION_TABLE,
    PREDICTION,
    FILE_DIGESTS,
    f"**/{MARKER}",
    "**/*_dseg.png",
    "**/*_uncertainty.nii.gz",
    "**/*_uncertainty.json",
)
_MOST_COMBINED = 8
"""Overlapping structures whose combinations all get a line in the table of labels."""
_MASK = "Mask; desc-graft_dseg.tsv names the values"
_OWN_MASK = "Mask of the structure that the entity label names"
_PROBABILITY = "Mean probability of the structure that the entity label names"
_UNCERTAINTY = {
    "entropy": "Predictive entropy in nats",
    "mutual-information": "Mutual information of class and weights in nats",
    "unlikeness": "Distance of the network's features from those of the training scans, 1 where it is as usual",
    "standard-deviation": "Standard deviation over draws of the probability of any structure",
}


def dataset_links(output: Path, roots: Iterable[Path]) -> dict[str, str]:
    """Returns name in BIDS URIs → path from the derivative to a source dataset, including those of earlier commands."""
    links: dict[str, str] = {}
    with suppress(OSError, ValueError):
        earlier = json.loads((output / DESCRIPTION).read_text(encoding="utf-8"))["DatasetLinks"]
        links = {str(name): str(path) for name, path in earlier.items()}
    for root in roots:
        path = _relative(output, root)
        if path not in links.values():
            names = (DEFAULT_LINK if number == 1 else f"{DEFAULT_LINK}{number}" for number in count(1))
            links[next(name for name in names if name not in links)] = path
    return links


def link_names(output: Path, roots: Iterable[Path], links: Mapping[str, str]) -> dict[Path, str]:
    """Root of a dataset → its name in BIDS URIs."""
    names = {path: name for name, path in links.items()}
    return {root: names[_relative(output, root)] for root in roots}


def _relative(output: Path, root: Path) -> str:
    return Path(os.path.relpath(root.resolve(), output.resolve())).as_posix()


def write_derivative_files(
    folder: Path, model: ModelDescription, digest: str, links: Mapping[str, str], output: Path
) -> None:
    """Writes `dataset_description.json`, `desc-graft_dseg.tsv` and `.bidsignore`; `links` lead from `output`."""
    description = {
        "Name": f"Segmentations of the study {model.study}",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [_generator(model, digest)],
        "SourceDatasets": [_source_dataset(name, output / path) for name, path in links.items()],
        "DatasetLinks": dict(links),
    }
    write_json(folder / DESCRIPTION, description)
    words = file_words(model.classes, bids=True)
    lines = [
        f"{value}\t{escaped(' and '.join(names))}\t{'+'.join(words[name] for name in names)}\n"
        for value, names in sorted(_shown(model).items())
    ]
    write_text(folder / "desc-graft_dseg.tsv", "index\tname\tabbreviation\n" + "".join(lines))
    write_text(folder / ".bidsignore", "".join(f"{pattern}\n" for pattern in _IGNORED))


def _shown(model: ModelDescription) -> dict[int, list[str]]:
    """Value in the label map → the structures that it stands for: one, or several that overlap."""
    if model.heads is Heads.EXCLUSIVE:
        return {value: [name] for name, value in model.classes.items()}
    # A file that lists millions of combinations helps nobody.
    together = range(1, len(model.classes) + 1 if len(model.classes) <= _MOST_COMBINED else 2)
    return {
        sum(model.classes[name] for name in names): list(names)
        for count_of in together
        for names in combinations(model.classes, count_of)
    }


def write_sidecars(folder: Path, files: CaseFiles, model: ModelDescription, digest: str) -> None:
    """Writes the sidecar of each map of a case, and adds its keys to the file of numbers, which is the mask's sidecar.

    Nothing is written for files that are not BIDS derivatives.
    """
    if not files.bids:
        return
    common = {
        "Sources": list(files.sources),
        "SpatialReference": files.sources[0],
        "GeneratedBy": [_generator(model, digest)],
    }
    own = files.masks(model.classes, model.heads).values()
    described = (
        {files.mask: _MASK}
        | dict.fromkeys(own, _OWN_MASK)
        | {files.uncertainty(kind): text for kind, text in _UNCERTAINTY.items()}
    )
    for path in sorted(folder.glob(f"*{_NIFTI}")):
        sidecar = path.with_name(path.name.removesuffix(_NIFTI) + ".json")
        numbers = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.is_file() else {}
        write_json(sidecar, {"Description": described.get(path.name, _PROBABILITY), **common, **numbers})


def _generator(model: ModelDescription, digest: str) -> dict[str, str]:
    return {
        "Name": "graft",
        "Version": graft_version(),
        "Description": f"arm {model.arm_name} of the study {model.study}, {model.training_patients} training patients; "
        f"SHA-256 of the model {digest}",
    }


def _source_dataset(name: str, root: Path) -> dict[str, Any]:
    """The entry of a source dataset: its DOI if it has one, otherwise its name in BIDS URIs."""
    with suppress(OSError, ValueError):
        about = json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))
        if isinstance(about, dict) and isinstance(about.get("DatasetDOI"), str) and about["DatasetDOI"]:
            doi = about["DatasetDOI"].removeprefix("doi:")
            return {"DOI": f"doi:{doi}", "URL": f"https://doi.org/{doi}"}
    return {"URL": f"bids:{name}:"}

"""Names of the files of a predicted case: plain names, or those of BIDS derivatives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data.errors import DataError
from models.heads import Heads
from pipeline.deployment.class_words import file_words
from pipeline.deployment.input_cases import InputCase, bids_folder_and_prefix

DEFAULT_LINK = "raw"
"""Name of the first BIDS dataset in URIs: `bids:raw:sub-01/anat/sub-01_T1w.nii.gz`."""
_BIDS_FACTS = "_desc-graft_dseg.json"


@dataclass(frozen=True)
class CaseFiles:
    """Where the results of a case go.

    Attributes:
        key: folder of the case below that of the prediction.
        prefix: start of the file names.
        bids: whether they are BIDS derivatives.
        sources: BIDS URIs of the files that derivatives are made from; the results lie on the grid of the first.
    """

    key: str
    prefix: str
    bids: bool = False
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, case: InputCase, links: Mapping[Path, str] | None = None) -> CaseFiles:
        """Names the files of a case; `links` maps the root of a BIDS dataset to its name in BIDS URIs."""
        if case.bids is not None and case.case is not None:
            key, prefix = bids_folder_and_prefix(case.case)
            link = (links or {}).get(case.bids, DEFAULT_LINK)
            sources = (path.relative_to(case.bids).as_posix() for path in case.case.files())
            return cls(key, prefix, True, tuple(f"bids:{link}:{source}" for source in sources))
        return cls(case.name, case.name)

    @classmethod
    def of_facts(cls, key: str, name: str) -> CaseFiles:
        """Names the files of a finished case from its folder and the name of its file of numbers."""
        if name.endswith(_BIDS_FACTS):
            return cls(key, name.removesuffix(_BIDS_FACTS), True)
        return cls(key, name.removesuffix(".json"))

    @property
    def mask(self) -> str:
        """The label map."""
        return f"{self.prefix}_desc-graft_dseg.nii.gz" if self.bids else f"{self.prefix}.nii.gz"

    @property
    def facts(self) -> str:
        """Numbers of the case."""
        return f"{self.prefix}{_BIDS_FACTS}" if self.bids else f"{self.prefix}.json"

    @property
    def picture(self) -> str:
        """Three planes with the mask and its uncertainty."""
        return f"{self.prefix}_desc-graft_dseg.png" if self.bids else f"{self.prefix}.png"

    def probabilities(self, classes: Iterable[str]) -> dict[str, str]:
        """Class → its probability."""
        words = file_words(classes, bids=self.bids)
        if self.bids:
            return {name: f"{self.prefix}_label-{word}_desc-graft_probseg.nii.gz" for name, word in words.items()}
        return {name: f"{self.prefix}_probability-{word}.nii.gz" for name, word in words.items()}

    def masks(self, classes: Iterable[str], heads: Heads) -> dict[str, str]:
        """Class → its mask alone, where structures overlap; few programs can show what a sum of values stands for."""
        if heads is Heads.EXCLUSIVE:
            return {}
        words = file_words(classes, bids=self.bids)
        if self.bids:
            return {name: f"{self.prefix}_label-{word}_desc-graft_mask.nii.gz" for name, word in words.items()}
        return {name: f"{self.prefix}_mask-{word}.nii.gz" for name, word in words.items()}

    def uncertainty(self, kind: str) -> str:
        """A map of uncertainty: `entropy`, `mutual-information`, `standard-deviation` or `unlikeness`."""
        if self.bids:
            words = "".join(word.capitalize() for word in kind.split("-"))
            return f"{self.prefix}_desc-graft{words}_uncertainty.nii.gz"
        return f"{self.prefix}_{kind}.nii.gz"


def require_apart(cases: Iterable[CaseFiles]) -> None:
    """Refuses cases whose folder would lie inside that of another case, which is replaced as a whole.

    Raises:
        DataError: names the two folders.
    """
    keys = {files.key for files in cases}
    for key in sorted(keys):
        for parent in PurePosixPath(key).parents:
            if str(parent) in keys:
                raise DataError(
                    f"the results of {key!r} would lie inside the results of {str(parent)!r}",
                    expected="case names that differ from the folders of a BIDS dataset",
                    fix="predict them into two folders",
                )

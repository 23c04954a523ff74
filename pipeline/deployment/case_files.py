"""How the files of a predicted case are named: plainly, or as BIDS derivatives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.deployment.input_cases import InputCase, bids_folder_and_prefix

DEFAULT_LINK = "raw"
"""Name of the first BIDS dataset in URIs: `bids:raw:sub-01/anat/sub-01_T1w.nii.gz`."""


@dataclass(frozen=True)
class CaseFiles:
    """Where the results of a case go.

    Attributes:
        key: folder of the case below that of the prediction.
        prefix: how the names begin.
        bids: whether they are BIDS derivatives.
        sources: BIDS URIs of the files that BIDS derivatives are made from; they lie on the grid of the first.
    """

    key: str
    prefix: str
    bids: bool = False
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, case: InputCase, links: Mapping[Path, str] | None = None) -> CaseFiles:
        """Names the files of a case.

        Args:
            case: the scan.
            links: root of a BIDS dataset → its name in BIDS URIs.
        """
        if case.bids is not None and case.case is not None:
            key, prefix = bids_folder_and_prefix(case.case)
            link = (links or {}).get(case.bids, DEFAULT_LINK)
            sources = (path.relative_to(case.bids).as_posix() for path in case.case.files())
            return cls(key, prefix, True, tuple(f"bids:{link}:{source}" for source in sources))
        return cls(case.name, case.name)

    @property
    def mask(self) -> str:
        """The label map."""
        return f"{self.prefix}_desc-graft_dseg.nii.gz" if self.bids else f"{self.prefix}.nii.gz"

    @property
    def facts(self) -> str:
        """Numbers of the case."""
        return f"{self.prefix}_desc-graft_dseg.json" if self.bids else f"{self.prefix}.json"

    @property
    def picture(self) -> str:
        """Three planes with the mask and its uncertainty."""
        return f"{self.prefix}_desc-graft_dseg.png" if self.bids else f"{self.prefix}.png"

    def probability(self, name: str) -> str:
        """Probability of a class."""
        if self.bids:
            return f"{self.prefix}_label-{bids_label(name)}_desc-graft_probseg.nii.gz"
        return f"{self.prefix}_probability-{re.sub(r'[^A-Za-z0-9+-]+', '-', name)}.nii.gz"

    def uncertainty(self, kind: str) -> str:
        """A map of uncertainty: `entropy`, `mutual-information` or `standard-deviation`."""
        if self.bids:
            words = "".join(word.capitalize() for word in kind.split("-"))
            return f"{self.prefix}_desc-graft{words}_uncertainty.nii.gz"
        return f"{self.prefix}_{kind}.nii.gz"


def bids_label(name: str) -> str:
    """Returns a class name as a BIDS label: letters and digits alone."""
    return re.sub(r"[^A-Za-z0-9]", "", name) or "structure"

"""How the files of a predicted case are named: plainly, or as BIDS derivatives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.deployment.input_cases import InputCase, bids_folder_and_prefix


@dataclass(frozen=True)
class CaseFiles:
    """Where the results of a case go.

    Attributes:
        key: folder of the case below that of the prediction.
        prefix: how the names begin.
        bids: whether they are BIDS derivatives.
    """

    key: str
    prefix: str
    bids: bool = False

    @classmethod
    def of(cls, case: InputCase) -> CaseFiles:
        """Names the files of a case."""
        if case.bids and case.case is not None:
            key, prefix = bids_folder_and_prefix(case.case)
            return cls(key, prefix, True)
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

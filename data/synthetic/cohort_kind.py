"""The kinds of synthetic cohorts; in a file of their own, because the command line must start fast."""

from __future__ import annotations

from enum import StrEnum


class CohortKind(StrEnum):
    """Which anatomy and disease."""

    MS = "ms"
    """Brains with many small hyperintense lesions, as in multiple sclerosis."""
    TUMOUR = "tumour"
    """Brains with one large mass: core, rim and oedema, as in glioma."""
    ABDOMEN = "abdomen"
    """CT of the upper abdomen, with liver and spleen."""

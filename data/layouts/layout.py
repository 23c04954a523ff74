"""What every layout offers: a name, whether a folder has it, and how to read it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from data.dataset import Dataset


class Layout(Protocol):
    """A way to lay out a dataset in a folder."""

    name: str
    description: str

    def matches(self, root: Path) -> bool:
        """Whether the folder (or file) is laid out this way; looks at names and at `dataset.json`, never at images."""
        ...

    def read(self, root: Path, labels: bool = True) -> Dataset:
        """Reads names and paths. Files that are listed and do not exist stay in the dataset, for the checks to report.

        Args:
            root: the folder, or a CSV manifest.
            labels: whether labels are needed; otherwise faults of labels do not matter.

        Raises:
            DataError: the description of the dataset is missing or contradicts itself.
        """
        ...

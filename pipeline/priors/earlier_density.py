"""A fitted density of an earlier study, to be updated with a new source set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.priors.filter_vae import FilterVAE
from models.priors.vae_options import FilterVAEOptions
from pipeline.storage.tensors import load_tensors


@dataclass(frozen=True)
class EarlierDensity:
    """A fitted BooVAE of an earlier study: the file of its state with its SHA-256, and the new study's options."""

    path: Path
    options: FilterVAEOptions
    digest: str

    def load(self) -> FilterVAE:
        """Reads the state.

        Raises:
            WorkspaceError: the file is damaged.
            ModelError: it does not fit the options.
        """
        prior = FilterVAE(self.options)
        prior.take_state(load_tensors(self.path))
        return prior

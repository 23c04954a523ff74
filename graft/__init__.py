"""Graft as a library: the public interface. Everything else in this project is internal and may change.

Every name is loaded when it is first used, so that `import graft` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.case import Case
    from data.errors import GraftError
    from data.volume import Volume
    from graft import metrics, posteriors, priors
    from graft.model import Model, Prediction, Structure, load_model
    from graft.preprocessing import Preprocessed, preprocess
    from graft.study import Results, Study
    from graft.table import Table

_HOMES = {
    "Case": "data.case",
    "GraftError": "data.errors",
    "Model": "graft.model",
    "Prediction": "graft.model",
    "Preprocessed": "graft.preprocessing",
    "Results": "graft.study",
    "Structure": "graft.model",
    "Study": "graft.study",
    "Table": "graft.table",
    "Volume": "data.volume",
    "load_model": "graft.model",
    "metrics": "",
    "posteriors": "",
    "preprocess": "graft.preprocessing",
    "priors": "",
}
"""Public name → the module that it comes from; nothing for modules of this package."""

__all__ = [
    "Case",
    "GraftError",
    "Model",
    "Prediction",
    "Preprocessed",
    "Results",
    "Structure",
    "Study",
    "Table",
    "Volume",
    "load_model",
    "metrics",
    "posteriors",
    "preprocess",
    "priors",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graft' has no attribute {name!r}; it has {', '.join(__all__)}")
    home = _HOMES[name]
    value = getattr(import_module(home), name) if home else import_module(f"graft.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

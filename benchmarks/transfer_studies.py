"""What benchmarks of arms share: studies from some structures of a dataset to others, on patients of their own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from study_runs import dataset_of, parser_of_studies, write_study

from pipeline.config.merging import merged


def parser_of_transfer(description: str | None, output: str, **defaults: Any) -> argparse.ArgumentParser:
    """Options of the data, the network and the sizes; the caller adds its own, and may have other defaults."""
    found = parser_of_studies(description, output)
    found.add_argument("--source", nargs="+", default=["Anterior"], help="names of labels")
    found.add_argument("--target", nargs="+", default=["Posterior"], help="names of labels")
    found.add_argument("--patients", type=int, default=50, help="of the source")
    found.add_argument("--pool", type=int, default=20)
    found.add_argument("--test", type=int, default=40)
    found.add_argument("--n", type=int, default=5, help="annotated patients of the target that are learned from")
    found.add_argument("--repeats", type=int, default=5)
    found.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128])
    found.add_argument("--blocks", type=int, nargs="+", default=[0, 2, 2, 5])
    found.add_argument("--precision", default="auto")
    found.set_defaults(**defaults)
    return found


def transfer_study(arguments: argparse.Namespace, name: str, sections: dict[str, Any]) -> Path:
    """Writes a study; its sections add to these, or change them."""
    values = {
        "datasets": {
            "source": dataset_of(arguments, arguments.source),
            "target": dataset_of(arguments, arguments.target),
        },
        "source": {"dataset": "source", "patients": arguments.patients},
        "target": {"dataset": "target", "pool": arguments.pool, "test": arguments.test},
        "preprocessing": {"resampling": {"spacing": [arguments.spacing] * 3}},
        "network": {"name": "residual_unet", "channels": arguments.channels, "encoder_blocks": arguments.blocks},
        "patches": {"size": arguments.patch, "batch": arguments.batch},
        "target_training": {"sizes": [arguments.n], "reference_sizes": [], "repeats": arguments.repeats},
        "computing": {"precision": arguments.precision},
    }
    return write_study(arguments, name, merged(values, sections))


def tuning(rates: list[float]) -> dict[str, Any]:
    """Options of a target training whose peak rates are tuned out of fold, if there are any to choose from."""
    return {"tune": "inner_folds", "tuned_rates": rates} if rates else {}

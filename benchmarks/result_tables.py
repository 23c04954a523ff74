"""What benchmarks of arms share: tables of Dice, and of what densities know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.evaluation.case_row import CaseRow
from pipeline.evaluation.comparison import compare_arms
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.tables import StudyRows
from pipeline.priors.held_out_scores import difference, estimate
from pipeline.priors.prior_units import read_values
from pipeline.report.filter_files import group_folders
from pipeline.storage.prior_files import SCORING

ISOTROPIC = "isotropic"


def case_rows(workspace: Path) -> list[CaseRow]:
    """The measured cases of a study."""
    return read_rows(workspace / "results" / "cases.csv", CaseRow)


def dice_table(found: Iterable[CaseRow], n: int, references: Sequence[str], seed: int) -> str:
    """Dice of every arm at n patients, and its paired differences to some arms."""
    rows = StudyRows(list(found))
    draws = rows.draws(seed=seed, resamples=2000)
    means = rows.table("dice", n).means()
    pairs = {(c.arm, r): c for r in references for c in compare_arms(rows, draws, rivals=[r]) if c.n == n}
    lines = ["| arm | Dice | " + " | ".join(f"− {r}" for r in references) + " |", "|---" * (2 + len(references)) + "|"]
    for arm in sorted(means, key=lambda name: means[name]):
        own = (pairs.get((arm, reference)) for reference in references)
        texts = ("" if c is None else f"{c.difference:+.3f} [{c.ci_low:+.3f}, {c.ci_high:+.3f}]" for c in own)
        lines.append(f"| {arm} | {means[arm]:.3f} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def nats_table(workspace: Path, reference: str = ISOTROPIC) -> str:
    """Nats per filter of networks that were left out, minus those of a density, with a standard error."""
    groups = group_folders(workspace, SCORING)
    names = [folder.name for folder in sorted(groups[0].iterdir()) if folder.is_dir()]
    others = [name for name in names if name != reference]
    lines = [f"| group | {reference} | " + " | ".join(others) + " |", "|---" * (2 + len(others)) + "|"]
    for group in groups:
        values = {name: read_values(group / name) for name in names}
        cells = []
        for name in others:
            own = difference(values[name], values[reference])
            error = own.get("standard_error")
            cells.append(f"{own['mean']:+.2f}" + ("" if error is None else f" ± {error:.2f}"))
        lines.append(f"| {group.name} | {estimate(values[reference])['mean']:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)

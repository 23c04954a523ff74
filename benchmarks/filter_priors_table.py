"""The table of filter priors of a finished study, in Markdown: group × density.

Held-out log density in nats per filter with its standard error, the paired difference to the full-covariance Gaussian
(bold where it is above zero by more than two standard errors), free parameters, what `auto` takes, the share of filters
above the norm threshold, and how far filters moved from their initialisation (median, relative to its norm).

Run: python benchmarks/filter_priors_table.py [WORKSPACE]   (the demo's workspace by default; nothing if it is missing)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.stored_record import record_if_there
from pipeline.priors.filter_summary import FilterSummary
from pipeline.priors.scores_record import Estimate, ScoresRecord
from pipeline.report.density_scores import vae_densities
from pipeline.report.filter_files import group_folders
from pipeline.report.study_files import StudyFiles
from pipeline.storage.file_names import SUMMARY_JSON
from pipeline.storage.prior_files import COMPARISON, SCORES
from pipeline.storage.stage_names import Stage

HEAD = ("group", "density", "nats per filter", "− full Gaussian", "parameters", "auto", "share kept", "moved")


def with_error(estimate: Estimate, sign: str = "") -> str:
    """Writes a mean with its standard error, if that is known."""
    text = f"{estimate.mean:{sign}.2f}"
    return text if estimate.standard_error is None else f"{text} ± {estimate.standard_error:.2f}"


def difference_text(difference: Estimate | None) -> str:
    """Writes a difference, bold where it is clearly above zero."""
    if difference is None:
        return ""
    text = with_error(difference, sign="+")
    return f"**{text}**" if difference.clear else text


def group_rows(scores: ScoresRecord, summary: FilterSummary | None) -> list[tuple[str, ...]]:
    """Returns a row for each density of a group; what is true of the whole group stands in the first."""
    of_group = (f"{100 * scores.share_kept:.1f} %", f"{100 * summary.moved_from_initial:.0f} %" if summary else "")
    rows: list[tuple[str, ...]] = []
    for name, own in scores.densities.items():
        nats = ("≥ " if own.bound else "") + with_error(own)
        chosen = "✓" if name == scores.choice else ""
        about = (name, nats, difference_text(own.difference_to_gaussian_full), f"{own.parameters:,}", chosen)
        rows.append(("" if rows else scores.group, *about, *(("", "") if rows else of_group)))
    return [*rows, *(("", name, "not scored", "", "", "", "", "") for name in scores.not_scored)]


def vae_wins(scores: ScoresRecord, vaes: Sequence[str]) -> bool:
    """Whether a VAE beats the full-covariance Gaussian clearly."""
    return any(difference.clear for name in vaes if (difference := scores.difference_of(name)))


def table(workspace: Path) -> str:
    """Builds the table of a workspace, with a line on what was held out and one on the VAE family."""
    densities = StudyFiles(workspace).densities()
    records = [record_if_there(folder / SCORES, ScoresRecord) for folder in group_folders(workspace, COMPARISON)]
    groups = [record for record in records if record is not None]
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for scores in groups:
        summary = record_if_there(workspace / Stage.COLLECT_FILTERS / scores.group / SUMMARY_JSON, FilterSummary)
        lines += [f"| {' | '.join(row)} |" for row in group_rows(scores, summary)]
    held_out = {
        f"{scores.held_out_networks}; standard errors over "
        + ", ".join(sorted({own.standard_error_over for own in scores.densities.values()}))
        for scores in groups
    }
    won = sum(vae_wins(scores, vae_densities(densities, list(scores.densities))) for scores in groups)
    lines += ["", *(f"Held out: {text}." for text in sorted(held_out))]
    lines.append(f"A VAE beats the full Gaussian by more than two standard errors in {won} of {len(groups)}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("workspace", nargs="?", type=Path, default=Path("workspaces/demo"))
    workspace = parser.parse_args().workspace
    if not (workspace / COMPARISON).is_dir():
        print(f"{workspace}: no fitted priors; run `graft fit-priors CONFIG` first")
        return
    print(table(workspace))


if __name__ == "__main__":
    main()

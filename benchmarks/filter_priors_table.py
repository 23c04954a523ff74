"""The table of filter priors of a finished study, in Markdown: group × density.

Held-out log density in nats per filter with its standard error, the paired difference to the full-covariance Gaussian
(bold where it is above zero by more than two standard errors), free parameters, what `auto` takes, the share of filters
above the norm threshold, and how far filters moved from their initialisation (median, relative to its norm).

Run: python benchmarks/filter_priors_table.py [WORKSPACE]   (the demo's workspace by default; nothing if it is missing)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD = ("group", "density", "nats per filter", "− full Gaussian", "parameters", "auto", "share kept", "moved")


def with_error(about: Mapping[str, Any], digits: int = 2, sign: str = "") -> str:
    """Writes a mean with its standard error, if that is known."""
    text = f"{float(about['mean']):{sign}.{digits}f}"
    error = about.get("standard_error")
    return text if error is None else f"{text} ± {float(error):.{digits}f}"


def is_clear(about: Mapping[str, Any]) -> bool:
    """Whether a difference is above zero by more than two standard errors, if these are over networks."""
    error = about.get("standard_error")
    return error is not None and float(about["mean"]) > 2 * float(error)


def group_rows(scores: Mapping[str, Any], summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row for each density of a group; what is true of the whole group stands in the first."""
    chosen = (scores.get("auto") or {}).get("density")
    rows = []
    for name, about in scores["densities"].items():
        to_full = about["difference_to_gaussian_full"]
        text = with_error(to_full, sign="+")
        first = not rows
        moved = summary.get("moved_from_initial")
        rows.append(
            (
                str(scores["group"]) if first else "",
                name,
                ("≥ " if about["bound"] else "") + with_error(about),
                f"**{text}**" if is_clear(to_full) else text,
                f"{int(about['parameters']):,}",
                "✓" if name == chosen else "",
                f"{100 * float(scores['share_kept']):.1f} %" if first else "",
                f"{100 * float(moved):.0f} %" if first and moved is not None else "",
            )
        )
    for name in scores.get("not_scored") or ():
        rows.append(("", name, "not scored", "", "", "", "", ""))
    return rows


def table(workspace: Path) -> str:
    """Builds the table of a workspace, with a line on what was held out and one on the VAE family."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    held_out = set()
    won, groups = 0, 0
    for path in sorted((workspace / "compare-priors").rglob("scores.json")):
        scores = json.loads(path.read_text())
        summary_path = workspace / "collect-filters" / path.parent.name / "summary.json"
        summary = json.loads(summary_path.read_text()) if summary_path.is_file() else {}
        lines += [f"| {' | '.join(row)} |" for row in group_rows(scores, summary)]
        of_vaes = [a["difference_to_gaussian_full"] for n, a in scores["densities"].items() if "vae" in n]
        over = {a["standard_error_over"] for a in scores["densities"].values()}
        held_out.add(f"{scores['held_out_networks']}; standard errors over {', '.join(sorted(over))}")
        won += any(is_clear(about) for about in of_vaes)
        groups += 1
    lines += ["", *(f"Held out: {text}." for text in sorted(held_out))]
    lines.append(f"A VAE (by its name) beats the full Gaussian by more than two standard errors in {won} of {groups}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("workspace", nargs="?", type=Path, default=Path("workspaces/demo"))
    workspace = parser.parse_args().workspace
    if not (workspace / "compare-priors").is_dir():
        print(f"{workspace}: no fitted priors; run `graft fit-priors CONFIG` first")
        return
    print(table(workspace))


if __name__ == "__main__":
    main()

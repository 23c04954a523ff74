"""The head of the page: which study it is, on which data, and who won at every size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.config.study import StudyConfig
from pipeline.evaluation.arm_ranking import arms_with_patients_enough, best_arms
from pipeline.evaluation.case_row import CaseRow
from pipeline.evaluation.statistics import Interval
from pipeline.evaluation.tables import SummaryRow, compared_sizes
from pipeline.report.number_text import interval_text, listing, number
from pipeline.report.section import Section
from pipeline.report.source_pack import pack_title
from pipeline.report.study_files import StudyFiles


def headline(files: StudyFiles, results: Section) -> dict[str, Any]:
    """Gathers what the head of the page says: study, source → target, sizes, arms, and who won at every size."""
    study, config = files.study, files.config
    finished = files.provenance.finished if files.provenance else None
    differences = results.content.get("best_bayesian", {})
    facts: list[tuple[str, str]] = []
    if study is not None:
        facts = [
            ("arms", str(len(study.arms))),
            ("n, target patients", ", ".join(str(n) for n in told_sizes(study.rows))),
            ("repeats", str(len(study.repeats))),
            ("test patients", str(len(study.patients))),
        ]
        # Never to be mistaken for results on patients whom no model of the study has seen.
        facts += [("tested by", files.cross_validation)] if files.cross_validation else []
    facts += [("source patients", str(count))] if (count := files.patients.get("source")) else []
    return {
        "name": files.name,
        "title": files.title,
        "source": source_title(files),
        "target": dataset_title(config, config.target.dataset) if config else None,
        "facts": facts,
        "arms": listing(files.arms()) if study else "",
        "finished": (finished or "").replace("T", " ").replace("+00:00", " UTC"),
        "best": highest_dice(files.summary, differences),
        "compared": bool(differences),
        "no_interval": results.content.get("no_interval", ""),
        "synthetic": synthetic_warning(files),
    }


def told_sizes(rows: Sequence[CaseRow] | Sequence[SummaryRow]) -> tuple[int, ...]:
    """Numbers of target patients that the head names: where arms can be compared, and 0, which few arms have."""
    return tuple(sorted({*compared_sizes(rows), *(row.n for row in rows if row.n == 0)}))


def dataset_title(config: StudyConfig, dataset: str) -> str:
    """Prints a dataset and its structures, e.g. `hippocampus (anterior)`."""
    return f"{dataset} ({', '.join(map(str, config.datasets[dataset].foreground))})"


def source_title(files: StudyFiles) -> str | None:
    """Prints the source's dataset or pack and its structures; None where neither is known."""
    if files.pack is not None:
        return pack_title(files.pack)
    config = files.config
    return dataset_title(config, config.source_dataset) if config and config.source_dataset else None


def synthetic_warning(files: StudyFiles) -> str | None:
    """Says that scans of this study are synthetic, and what its figures are worth then; None where all are real."""
    config = files.config
    if config is None:
        return None
    of_role = {"source": config.source_dataset, "target": config.target.dataset}
    roles = {role: config.datasets[name].synthetic is not None for role, name in of_role.items() if name is not None}
    if files.pack is not None:
        roles = {"source": files.pack.source.synthetic, **roles}
    synthetic = [role for role, made in roles.items() if made]
    if not synthetic:
        return None
    which = "These are synthetic scans" if len(synthetic) == len(roles) else f"The {synthetic[0]} scans are synthetic"
    return f"{which}: the figures show that the software works, not how good the method is."


def highest_dice(summary: list[SummaryRow], differences: dict[int, dict[str, str]]) -> list[dict[str, Any]]:
    """Names the arms with the highest mean Dice at every size, with the paired difference of the best Bayesian arm."""
    best: list[dict[str, Any]] = []
    for n in told_sizes(summary):
        rows = [r for r in summary if r.n == n and r.metric == "dice" and r.mean == r.mean]
        enough = arms_with_patients_enough({r.arm: r.patients or r.cases for r in rows})
        rows = [r for r in rows if r.arm in enough]
        if rows:
            row = max(rows, key=lambda r: r.mean)
            tied = best_arms({r.arm: r.mean for r in rows}, less_is_better=False, digits=3)
            best.append(
                {
                    "n": n,
                    "arm": listing([r.arm for r in rows if r.arm in tied]),
                    "mean": number(row.mean),
                    # Arms that tie in the mean have intervals of their own, in the table below.
                    "interval": interval_text(Interval(row.mean, row.ci_low, row.ci_high)) if len(tied) == 1 else "",
                    "difference": differences.get(n),
                }
            )
    return best

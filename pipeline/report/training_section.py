"""Training: the source networks on their bootstrap samples, and the arms on the target."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from data.stored_record import record_if_there
from pipeline.report.figure_style import arm_styles
from pipeline.report.number_text import NOTHING, number, plain
from pipeline.report.section import Material, Section
from pipeline.report.source_use import source_use
from pipeline.report.study_files import History, folders, read_history
from pipeline.report.training_figures import source_training, target_training
from pipeline.storage.file_names import HISTORY, SAMPLE
from pipeline.storage.stage_names import Stage
from pipeline.training.sample_record import SampleRecord


def source_section(material: Material) -> Section:
    """Builds the section of source training from `train-source/network-NN/`."""
    title, histories, rows = "Source networks", {}, []
    for folder in folders(material.files.root / Stage.TRAIN_SOURCE):
        history = read_history(folder / HISTORY)
        if not history:
            continue
        histories[folder.name] = history
        rows.append(_network(folder.name, history, record_if_there(folder / SAMPLE, SampleRecord)))
    use = source_use(material.files)
    if not histories and not (use.networks or use.priors):
        text = "No arm of this study uses anything of the source, so no networks were trained on it."
        return Section("source", title, missing=(text,))
    if not histories:
        text = "train-source/ holds no histories: the train-source stage writes them, so there are no training curves."
        return Section("source", title, missing=(text,))
    picture = material.pictures.add(
        "source-training", source_training(histories), "Loss, out-of-bag Dice and learning rate of every source network"
    )
    return Section("source", title, {"picture": picture, "rows": rows})


def _network(name: str, history: History, sample: SampleRecord | None) -> dict[str, Any]:
    dice = history.get("out_of_bag_dice", np.empty(0))
    dice = dice[np.isfinite(dice)]
    drawn, out_of_bag = (sample.drawn, sample.out_of_bag) if sample else ((), ())
    counts = Counter(drawn)
    return {
        "name": name,
        "drawn": len(drawn),
        "distinct": len(counts),
        "out_of_bag": len(out_of_bag),
        "last": number(float(dice[-1]) if len(dice) else math.nan),
        "best": number(float(dice.max()) if len(dice) else math.nan),
        "patients": ", ".join(f"{p} ×{c}" if c > 1 else p for p, c in sorted(counts.items())),
    }


def target_section(material: Material) -> Section:
    """Builds the section of target training from `infer/ARM/nNN/repeat-R/`."""
    title, units = "Training on the target", material.files.units
    if not units:
        text = "infer/ holds no finished units: the infer stage writes them, so nothing was learned on the target yet."
        return Section("target", title, missing=(text,))
    arms = material.files.arms()
    styles, plots, missing = arm_styles(arms), [], []
    for n in sorted({u.n for u in units}):
        first = {arm: next((u for u in units if (u.arm, u.n) == (arm, n)), None) for arm in arms}
        histories = {arm: u.history() for arm, u in first.items() if u is not None}
        drawn = {arm: h for arm, h in histories.items() if h}
        missing += [f"train-target/n{n:02d} holds no history.csv of {arm}." for arm in histories if arm not in drawn]
        if drawn:
            alt = f"Data term and KL of every arm on the target at n = {n}"
            plots.append((n, material.pictures.add(f"target-training-n{n:02d}", target_training(drawn, styles), alt)))
    content = {"plots": plots, "objectives": objectives(material, arms), "units": len(units)}
    return Section("target", title, content, tuple(missing))


def objectives(material: Material, arms: list[str]) -> dict[str, Any]:
    """Arranges what `unit.json` says of the objective as arm × setting, so that a tempered posterior is plain."""
    of_arm = {}
    for arm in arms:
        unit = next((u for u in material.files.units if u.arm == arm), None)
        if unit is not None:
            record = unit.record
            choices = _flat(record.choices.model_dump(mode="json"))
            of_arm[arm] = {"objective": record.objective, **choices, "steps": record.steps}
    keys = list(dict.fromkeys(key for settings in of_arm.values() for key in settings))
    printed = {arm: {key: plain(settings.get(key)) for key in keys} for arm, settings in of_arm.items()}
    differ = [key for key in keys if key == "objective" or len({p[key] for p in printed.values()}) > 1]
    first = next(iter(printed.values()), {})
    return {
        "lines": [
            {
                "name": arm,
                "objective": settings.get("objective", NOTHING),
                "settings": [(key, settings[key]) for key in differ if key != "objective"],
            }
            for arm, settings in printed.items()
        ],
        "common": [(key, first[key]) for key in keys if key not in differ],
    }


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    # Of a nested choice, e.g. the posterior, its kind is what names it; the details are in the configuration.
    flat = {k: v.get("kind") if isinstance(v, dict) else v for k, v in settings.items()}
    return {k: v for k, v in flat.items() if not isinstance(v, list)}

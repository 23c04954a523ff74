"""Training: the source networks on their bootstrap samples, and the arms on the target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.stored_record import record_if_there
from pipeline.arms.arm_record import ArmRecord
from pipeline.report.figure_style import arm_styles
from pipeline.report.number_text import number, plain
from pipeline.report.prior_use import prior_lines
from pipeline.report.section import Material, Section
from pipeline.report.source_pack import pack_lines
from pipeline.report.source_trunk import trunk_folder
from pipeline.report.source_use import source_use
from pipeline.report.study_files import History, InferredUnit, folders, read_history
from pipeline.report.training_figures import source_training, target_training
from pipeline.storage.file_names import HISTORY, SAMPLE
from pipeline.storage.stage_names import Stage
from pipeline.training.sample_record import SampleRecord
from pipeline.training.source_network import TRUNK


def source_section(material: Material) -> Section:
    """Builds the section of source training from `train-source/network-NN/`."""
    title, histories, rows = "Source networks", {}, []
    root = material.files.root
    trunk = trunk_folder(root)
    networks = {folder.name: folder for folder in folders(root / Stage.TRAIN_SOURCE)}
    for name, folder in {**({} if trunk is None else {TRUNK: trunk}), **networks}.items():
        history = read_history(folder / HISTORY)
        if not history:
            continue
        histories[name] = history
        rows.append(_network(name, history, record_if_there(folder / SAMPLE, SampleRecord)))
    use, config = source_use(material.files), material.files.config
    if not histories and material.files.pack is not None:
        return Section("source", title, {"taken": pack_lines(material.files.pack)})
    if not histories and config is not None and config.source is None:
        return Section("source", title, missing=("The study has no source: its arms learn from the target alone.",))
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
        untold = [arm for arm, u in first.items() if u is not None and u.record.steps and arm not in drawn]
        missing += [f"train-target/n{n:02d} holds no history.csv of {arm}." for arm in untold]
        if drawn:
            alt = f"Data term and KL of every arm on the target at n = {n}"
            plots.append((n, material.pictures.add(f"target-training-n{n:02d}", target_training(drawn, styles), alt)))
    lines = prior_lines(units)
    content = {
        "plots": plots,
        "objectives": objectives(material.files.first_units()),
        "units": len(units),
        "priors": lines,
        "notes": [line["note"] for line in lines if line["note"]],
    }
    return Section("target", title, content, tuple(missing))


def objectives(units: Mapping[str, InferredUnit]) -> dict[str, Any]:
    """Arranges what the arms minimised, and with which settings: those that differ by arm, then the common ones.

    Args:
        units: arm → a trained unit of it.
    """
    settings = {arm: _settings(unit.record) for arm, unit in units.items()}
    first = next(iter(settings.values()), {})
    common = {key: value for key, value in first.items() if all(own[key] == value for own in settings.values())}
    lines = [
        {
            "name": arm,
            "objective": units[arm].record.objective,
            "settings": [(key, value) for key, value in own.items() if key not in common],
        }
        for arm, own in settings.items()
    ]
    return {"lines": lines, "common": list(common.items())}


def _settings(record: ArmRecord) -> dict[str, str]:
    """Setting → its value in print; posterior and network by what names them."""
    arm = record.choices
    network = None if arm.network is None else arm.network.name
    choices = arm.model_dump(mode="json") | {"posterior": arm.posterior.kind, "network": network}
    return {key: plain(value) for key, value in choices.items()} | {"steps": plain(record.steps)}

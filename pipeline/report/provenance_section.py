"""Where the numbers come from: versions, seed, commit, machine, inputs, time and memory of every stage."""

from __future__ import annotations

from typing import Any

from data.plain_number import plain_duration
from pipeline.report.number_text import number, plain
from pipeline.report.section import Material, Section

_FACTS = {
    "graft_version": "Graft", "git_commit": "commit", "command": "command", "seed": "seed", "started": "started",
    "finished": "finished",
}  # fmt: skip
_MACHINE = {
    "cpu": "processor", "cpu_count": "processor cores", "memory_gb": "memory (GB)", "platform": "platform",
    "device": "device",
}  # fmt: skip


def provenance_section(material: Material) -> Section:
    """Builds the section of provenance from `provenance.json`."""
    record = material.files.provenance
    if not record:
        text = "provenance.json is missing: every command writes it, so versions, inputs and times are not known."
        return Section("provenance", "Provenance", missing=(text,))
    machine = record.get("machine") or {}
    facts = [(name, record[key]) for key, name in _FACTS.items() if record.get(key) not in (None, "")]
    facts += [(name, plain(machine[key])) for key, name in _MACHINE.items() if machine.get(key) not in (None, "")]
    trained_in = {stage["precision"] for stage in (record.get("stages") or {}).values() if stage.get("precision")}
    facts += [("trained in", ", ".join(sorted(trained_in)))] if trained_in else []
    missing = (
        [] if record.get("stages") else ["provenance.json names no stages, so their time and memory are not known."]
    )
    content = {
        "facts": facts,
        "versions": sorted((record.get("versions") or {}).items()),
        "inputs": [{"name": name, **facts} for name, facts in (record.get("inputs") or {}).items()],
        "stages": [_stage(name, facts) for name, facts in (record.get("stages") or {}).items()],
    }
    return Section("provenance", "Provenance", content, tuple(missing))


def _stage(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    memory = facts.get("peak_memory_gb")
    return {
        "name": name,
        "wall": plain_duration(float(facts.get("wall_seconds") or 0.0)),
        "memory": "–" if memory is None else f"{number(float(memory), 2)} GB",
        "done": facts.get("units_done", "–"),
        "reused": facts.get("units_reused", "–"),
        "failed": facts.get("units_failed", 0),
    }

"""Where the numbers come from: versions, seed, commit, machine, inputs, time and memory of every stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.plain_number import plain_duration
from pipeline.execution.provenance_record import Machine, Provenance, StageFacts
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
    if record is None:
        text = "provenance.json is missing: every command writes it, so versions, inputs and times are not known."
        return Section("provenance", "Provenance", missing=(text,))
    facts = [(name, str(value)) for name, value in _told(record, _FACTS)]
    facts += [(name, plain(value)) for name, value in _told(record.machine, _MACHINE)]
    trained_in = {stage.precision for stage in record.stages.values() if stage.precision}
    facts += [("trained in", ", ".join(sorted(trained_in)))] if trained_in else []
    missing = [] if record.stages else ["provenance.json names no stages, so their time and memory are not known."]
    content = {
        "facts": facts,
        "versions": sorted(record.versions.items()),
        "inputs": [{"name": name, **facts.model_dump()} for name, facts in record.inputs.items()],
        "stages": [_stage(name, facts) for name, facts in record.stages.items()],
    }
    return Section("provenance", "Provenance", content, tuple(missing))


def _told(record: Provenance | Machine, names: Mapping[str, str]) -> list[tuple[str, Any]]:
    """What a record says, under the names that it is printed with."""
    return [(name, value) for key, name in names.items() if (value := getattr(record, key)) not in (None, "")]


def _stage(name: str, facts: StageFacts) -> dict[str, Any]:
    memory = facts.peak_memory_gb
    return {
        "name": name,
        "wall": plain_duration(facts.wall_seconds),
        "memory": "–" if memory is None else f"{number(memory, 2)} GB",
        "done": plain(facts.units_done),
        "reused": plain(facts.units_reused),
        "failed": facts.units_failed,
    }

"""The card of a source pack: what is in it, where it comes from, how good it is, and how to use it."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.deployment.card_templates import card_templates
from pipeline.packs.pack_record import PackRecord, Quartiles
from preprocessing.chain import Chain


def pack_card(record: PackRecord) -> str:
    """Returns the text of the card, Markdown."""
    facts = record.source
    return (
        card_templates()
        .get_template("pack_card.md.j2")
        .render(
            pack=record,
            facts=facts,
            title=record.title or "A source pack",
            patch=" × ".join(map(str, record.patches.size)),
            spacing=" × ".join(f"{step:g}" for step in facts.spacing),
            steps=[step.name.replace("_", " ") for step in Chain(record.preprocessing).steps],
            spread=[] if facts.spread is None else _spread(record),
            structures=[own.structure for own in record.groups.values() if own.structure is not None],
            groups=[{"name": name, "scores": _scores(record, name)} for name in record.groups if record.densities],
        )
    )


def _spread(record: PackRecord) -> list[tuple[str, str, str, str]]:
    spread = record.source.spread
    if spread is None:
        return []
    rows: list[tuple[str, Sequence[Quartiles]]] = [
        ("size of a scan (voxels; right, anterior, superior)", spread.scan_shape),
        ("spacing of a scan (mm; right, anterior, superior)", spread.scan_spacing),
        ("volume inside the mask (ml)", [spread.mask_ml]),
        *((f"volume of {name} (ml)", [own]) for name, own in spread.structure_ml.items()),
    ]
    return [(words, _joined(own, "low"), _joined(own, "median"), _joined(own, "high")) for words, own in rows]


def _joined(quartiles: Sequence[Quartiles], which: str) -> str:
    return " × ".join(f"{getattr(own, which):g}" for own in quartiles)


def _scores(record: PackRecord, group: str) -> dict[str, str]:
    """Density → its held-out score as text, the choice of `auto` marked."""
    scores = record.groups[group].scores
    if scores is None:
        return dict.fromkeys(record.densities, "–")
    chosen = scores.auto.density if scores.auto is not None else None
    found = {}
    for name in record.densities:
        own = scores.densities.get(name)
        text = "–" if own is None else f"{'≥ ' if own.bound else ''}{own.mean:.2f}"
        found[name] = f"**{text}**" if name == chosen else text
    return found

"""What the report says of a study whose source is a pack: what it is, on whom it was learned, and its terms."""

from __future__ import annotations

from pipeline.packs.pack_record import PackRecord
from pipeline.report.number_text import counted, listing, number


def pack_title(pack: PackRecord) -> str:
    """Names a pack and its structures, e.g. `source pack (lesion)`."""
    return f"{f'source pack “{pack.title}”' if pack.title else 'source pack'} ({', '.join(pack.classes)})"


def pack_lines(pack: PackRecord) -> list[str]:
    """Says what of the source was taken from the pack, and what it does not hold, in sentences."""
    facts = pack.source
    networks = counted(len(pack.networks), "network")
    densities = f" and the densities {listing(pack.densities)}" if pack.densities else ""
    patients = counted(facts.patients, "patient")
    lines = [f"Taken from the {pack_title(pack)}, which was learned on {patients}: {networks}{densities}."]
    if facts.out_of_bag_dice is not None:
        lines.append(
            f"Their Dice on patients that a network was not trained on was {number(facts.out_of_bag_dice)}, mean over "
            "networks."
        )
    lines.append(f"Licence: {pack.licence or 'not stated'}. To be cited: {pack.citation or 'not stated'}.")
    lines.append(
        "A pack holds neither the course of the trainings nor a list of patients, so there are no curves here."
    )
    return lines


NO_FILTERS = "The source is a pack, which holds densities of filters but no filters, so none are drawn here."
"""In place of the pictures of filters."""

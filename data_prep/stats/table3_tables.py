"""Table 3 as tables, and what is to be said below them."""

from __future__ import annotations

from data_prep.stats.table3 import Rate, Table3JSON
from emo_lightning.core.tables.table import Cell, Spread, Table, columns

_ROWS = {
    "emotion": "Emotion category",
    "description": "Description",
    "triplet": "B-A-S triplet",
    "intensity": "Emotion intensity",
    "box": "Bounding box",
}
_RATES = {
    "full": "Full pipeline acc.",
    "no_cross_verification": "w/o cross-verif. acc.",
    "no_critic": "w/o critic acc.",
    "preserve": "Critic preserve rate",
    "recall": "Critic recall rate",
}
_SEVERITIES = {"recall_1": "1 (slight)", "recall_2": "2 (gross)"}
_NOTE = "Percent of the n cases, with the 95 % interval (Wilson)."


def table3_tables(found: Table3JSON) -> list[Table]:
    """The paper's table, and the recall of its last column by how wrong the annotation was made."""
    return [
        _table("table3", "Table 3: what the pipeline's parts are worth, and what the critic notices", found, _RATES),
        _table("table3-severity", "Critic recall rate by severity of what is wrong", found, _SEVERITIES),
    ]


def table3_notes(found: Table3JSON) -> list[str]:
    """How many images the rates are of, and what was left out of them."""
    published = ", ".join(f"{arm.replace('_', ' ')} {n}" for arm, n in found["published"].items())
    notes = [f"{found['images']} images; published by each arm: {published or 'not known without references'}"]
    for text, counts in (
        ("values of unknown rightness, left out", found["rightness_unknown"]),
        ("left out", found["unanswered"]),
    ):
        if counts:
            notes.append(f"{text}: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    return notes


def _table(key: str, title: str, found: Table3JSON, rates: dict[str, str]) -> Table:
    def cells(rate: Rate) -> list[Cell]:
        return [Spread(rate["percent"], rate["low"], rate["high"]), rate["n"]]

    return Table(
        key,
        title,
        columns(("attribute", "Attribute"), *(column for rate in rates for column in ((rate, "%"), (f"{rate}/n", "n")))),
        [[name, *(cell for rate in rates for cell in cells(found["rows"][row][rate]))] for row, name in _ROWS.items()],
        _NOTE,
        row_keys=list(_ROWS),
        groups=[("", 1), *((name, 2) for name in rates.values())],
    )

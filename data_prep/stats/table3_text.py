"""Table 3 for a terminal and for a file."""

from __future__ import annotations

from data_prep.stats.table3 import TABLE3_COLUMNS, Rate, Table3JSON

_NAMES = {
    "emotion": "Emotion category",
    "description": "Description",
    "triplet": "B-A-S triplet",
    "intensity": "Emotion intensity",
    "box": "Bounding box",
}


def as_text(table: Table3JSON) -> str:
    """The table as Markdown: percent with the 95 % interval (Wilson) and the number of cases."""

    def cell(rate: Rate) -> str:
        return f"{rate['percent']:.2f} [{rate['low']:.1f}, {rate['high']:.1f}] n={rate['n']}" if rate["n"] else "—"

    heads = (
        "Attribute",
        "Full pipeline acc.",
        "w/o cross-verif. acc.",
        "w/o critic acc.",
        "Critic preserve rate",
        "Critic recall rate",
    )
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row, name in _NAMES.items():
        lines.append(f"| {name} | " + " | ".join(cell(table["rows"][row][c]) for c in TABLE3_COLUMNS) + " |")
    lines += ["", "Recall by severity (1 slight, 2 gross):"]
    lines += [
        f"- {name}: " + "; ".join(f"{s}: {cell(table['rows'][r][f'recall_{s}'])}" for s in (1, 2)) for r, name in _NAMES.items()
    ]
    published = ", ".join(f"{arm.replace('_', ' ')} {n}" for arm, n in table["published"].items())
    lines += ["", f"{table['images']} images; published by each arm: {published or 'not known without references'}"]
    for text, counts in (
        ("values of unknown rightness, left out", table["rightness_unknown"]),
        ("left out", table["unanswered"]),
    ):
        if counts:
            lines.append(f"{text}: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    return "\n".join(lines)

"""What stands behind a column of Table 5, in the terminal: paired differences, the breakdown by emotion, the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from emo_lightning.analysis.table5_rows import MODES, ROWS, Mode


def paired_tables(result: Mapping[str, Any], modes: Sequence[Mode] = MODES) -> list[Table]:
    """One table per mode of `result["paired"]`: for each arm difference, interval and p; rows that no arm has are left out."""
    paired = result.get("paired")
    if not paired:
        return []
    tables = []
    for mode in modes:
        title = f"Table 5, {mode} mode: differences on the same {result['references']} images (x100)"
        caption = "Above 0: the first scores higher. p: two-sided, bootstrap over images, not corrected for the number of rows."
        table = Table(title=title, caption=caption)
        table.add_column("Metric")
        for arm in paired["arms"]:
            table.add_column(f"{escape(arm)} − {escape(paired['against'])}", justify="right")
            table.add_column("p", justify="right")
        for row in ROWS[mode]:
            found = [differences[mode][row.key] for differences in paired["arms"].values()]
            if any(found):
                cells = (cell for one in found for cell in _difference(one))
                table.add_row(f"{row.title} {'↓' if row.lower_is_better else '↑'}", *cells)
        tables.append(table)
    return tables


def emotion_tables(result: Mapping[str, Any], modes: Sequence[Mode] = MODES) -> list[Table]:
    """For each arm: every row by the reference's emotion, one table a mode, and the confusion matrix."""
    tables = []
    for arm, column in result["arms"].items():
        for mode in modes:
            table = Table(title=f"{escape(arm)} by emotion, {mode} mode (x100)")
            rows = [row for row in ROWS[mode] if column[mode][row.key] is not None]
            headings = ["Emotion", "images", "precision", "recall", "F1 of emotion", *(row.title for row in rows)]
            for n, heading in enumerate(headings):
                table.add_column(heading, justify="right" if n else "left", no_wrap=not n)
            for emotion, own in column["by_emotion"].items():
                figures = [own["precision"], own["recall"], own["f1"], *(own[mode][row.key] for row in rows)]
                table.add_row(emotion, str(own["images"]), *map(_number, figures))
            tables.append(table)
        confusion = column["confusion"]
        table = Table(title=f"{escape(arm)}: emotion said (columns) for each true emotion (rows), images")
        table.add_column("True")
        for heading in confusion["columns"]:
            table.add_column(heading, justify="right")
        for emotion, counts in zip(confusion["rows"], confusion["counts"], strict=True):
            table.add_row(emotion, *map(str, counts))
        tables.append(table)
    return tables


def _difference(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "–", "–"
    bounds, p = found["interval"], found["p"]
    within = escape(f" [{bounds[0]:+.1f}, {bounds[1]:+.1f}]") if bounds else ""
    return f"{found['difference']:+.2f}{within}", f"{p:.3f}" if p is not None else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"

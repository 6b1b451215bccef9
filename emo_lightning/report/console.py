"""Tables 5 and 6 in the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emo_lightning.analysis.table5_rows import MODES, ROWS, Mode, short_definition
from emo_lightning.analysis.table6 import METRICS, SETS
from emo_lightning.report.page import Page, cell_text
from emo_lightning.report.terminal import fitted

NOT_COMPUTED = "not computed"


def table5_tables(result: Mapping[str, Any], modes: Sequence[Mode] = MODES) -> list[Table]:
    """One table per mode of what `table5` returned: arms as columns with their intervals, baselines after them."""
    tables = []
    columns = {**result["arms"], **result["baselines"]}
    for mode in modes:
        title = f"Table 5, {mode} mode, split {result['split']}, {result['references']} images (x100)"
        about = f"Baselines come from {result['baseline_source']}. Definition {short_definition(result['definition'])}."
        if boot := result.get("bootstrap"):
            about += (
                f" In brackets: {boot['level']:.0%} interval, {boot['resamples']} resamples over images, seed {boot['seed']}."
            )
        omitted = [f"No {name}: {why}." for name, why in result.get("omitted", {}).items()]
        caption = " ".join([about, *omitted, *result.get("remarks", [])])
        table = Table(title=title, caption=caption)
        table.add_column("Metric")
        for name in columns:
            table.add_column(name, justify="right", style="dim" if name in result["baselines"] else "")
        for row in ROWS[mode]:
            cells = [_with_interval(column, mode, row.key) for column in columns.values()]
            table.add_row(f"{row.title} {'↓' if row.lower_is_better else '↑'}", *cells)
        tables.append(table)
    return tables


def table6_tables(result: Mapping[str, Any]) -> list[Table]:
    """One table per set that was measured: arms as rows, mean ± std over seeds."""
    tables = []
    for name in SETS:
        arms = {arm: sets[name] for arm, sets in result["arms"].items() if name in sets}
        if not arms:
            continue
        table = Table(title=f"Table 6, {name} (%), macro-averaged")
        table.add_column("Training setting")
        for title in (*METRICS.values(), "seeds"):
            table.add_column(title, justify="right", no_wrap=True)
        for arm, metrics in arms.items():
            table.add_row(arm, *(mean_std(metrics[key]) for key in METRICS), str(result["seeds"][arm]))
        tables.append(table)
    return tables


def cloud_table(arms: Mapping[str, Mapping[str, Any]]) -> Table:
    """What `mds.json` says of each arm: arms as rows; purity and silhouette in the embedding and in the picture."""
    table = Table(title="Figure 6", caption="Stress 0 is a faithful picture; silhouette and purity: in the embedding / in 2-D.")
    for n, heading in enumerate(("Arm", "images", "stress-1", "silhouette", "kNN purity")):
        table.add_column(heading, justify="right" if n else "left")
    for arm, found in arms.items():
        silhouette = "–" if found["silhouette_des"] is None else f"{found['silhouette_des']:.3f} / {found['silhouette_2d']:.3f}"
        purity = f"{found['knn_purity_des']:.3f} / {found['knn_purity_2d']:.3f}"
        table.add_row(escape(arm), str(found["points"]), f"{found['stress']:.3f}", silhouette, purity)
    return table


def page_tables(page: Page) -> list[Table]:
    """The tables of a `page.json`."""
    tables = []
    for found in page.tables:
        table = Table(title=found.title or page.title, caption=found.note or None)
        for n, column in enumerate(found.columns):
            words = all(isinstance(row[n], str) for row in found.rows)
            table.add_column(column, justify="left" if words or not n else "right")
        for row in found.rows:
            table.add_row(*(escape(cell_text(cell, found.digits)) for cell in row))
        tables.append(table)
    return tables


def show(tables: Sequence[Table], console: Console | None = None) -> None:
    """Print tables one under the other; one that is wider than the terminal goes on in another."""
    console = console or Console()
    for table in tables:
        parts = fitted(table, console.width)
        for part in parts:
            console.print(part)
        if len(parts) > 1 and table.caption:
            console.print(table.caption, style="table.caption", highlight=False)


def show_result(result: Mapping[str, Any], page: Page, *, as_json: bool) -> None:
    """Print what a command found: all of it as JSON, or the page's tables and notes."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False, indent=1, allow_nan=False))
        return
    show(page_tables(page))
    print(*page.notes, sep="\n")


def mean_std(summary: Mapping[str, Any]) -> str:
    """`73.74 ± 0.52`, or the mean alone where there is one seed."""
    std = "" if summary["std"] is None else f" ± {summary['std']:.2f}"
    return f"{summary['mean']:.2f}{std}"


def _with_interval(column: Mapping[str, Any], mode: Mode, row: str) -> str:
    """The figure, its interval on the next line."""
    if row in column.get("inapplicable", ()):
        return "–"
    bounds = column.get("intervals", {}).get(mode, {}).get(row)
    return _number(column[mode][row]) + (f"\n[{bounds[0]:.1f}, {bounds[1]:.1f}]".replace("[", "\\[") if bounds else "")


def _number(value: float | None) -> str:
    return NOT_COMPUTED if value is None else f"{value:.2f}"

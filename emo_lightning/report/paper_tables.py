"""Tables 5 and 6 and the merits of Figure 6 of the paper as the report shows them, with what belongs to them: differences, emotions, confusions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from emo_lightning.analysis.table5_rows import MODES, ROWS, short_definition
from emo_lightning.analysis.table6 import METRICS, SETS
from emo_lightning.report.page import Cell, Spread
from emo_lightning.report.provenance import Provenance
from emo_lightning.report.table import ReportTable, best_of

SET_TITLES = {"test": "combinations seen in training", "heldout": "combinations never trained on"}

_RETRIEVAL = {"precision": "Precision", "recall": "Recall", "f1": "F1"}


def table5_tables(stage: str, found: Mapping[str, Any], source: Provenance) -> list[ReportTable]:
    """One table per mode of what `table5.table5` returned: metrics down, arms across, constant answers after them.

    An arm's `intervals` (mode -> row -> [low, high]) stand behind its figures.
    """
    columns = {**found["arms"], **found["baselines"]}
    arms = list(found["arms"])
    tables = []
    for mode in MODES:
        rows: list[list[Cell]] = []
        best: set[tuple[int, int]] = set()
        for n, row in enumerate(ROWS[mode]):
            values = [_scored(column, mode, row.key) for column in columns.values()]
            rows.append([f"{row.title} {'↓' if row.lower_is_better else '↑'}", *values])
            best |= {(n, 1 + m) for m in best_of(values[: len(arms)], row.lower_is_better)}
        note = f"Times 100. Split {found['split']}, {found['references']} images."
        if any(isinstance(cell, Spread) and cell.low is not None for row in rows for cell in row):
            note += " In brackets: 95 % intervals over images."
        note += f" Definition {short_definition(found['definition'])}."
        grey = f"answers that never look at the image, from {found['baseline_source']}." if found["baselines"] else ""
        tables.append(
            ReportTable(
                f"Table 5, {mode} mode",
                ["Metric", *columns],
                rows,
                note,
                name=f"{stage}-{mode}",
                sources=[source],
                best=best,
                quiet=set(range(1 + len(arms), 1 + len(columns))),
                quiet_note=grey,
                arms_across=True,
            )
        )
    return [*tables, *_paired(stage, found, source), *_details(stage, found, source)]


def table6_tables(stage: str, found: Mapping[str, Any], source: Provenance) -> list[ReportTable]:
    """One table per set that was measured: arms down, metrics across, mean ± standard deviation over seeds."""
    tables = []
    for name in SETS:
        arms = {arm: sets[name] for arm, sets in found["arms"].items() if name in sets}
        if not arms:
            continue
        rows: list[list[Cell]] = [
            [arm, *(_mean(metrics[key]) for key in METRICS), found["seeds"][arm]] for arm, metrics in arms.items()
        ]
        best = {(n, m) for m in range(1, 1 + len(METRICS)) for n in best_of([row[m] for row in rows])}
        note = f"{SET_TITLES[name].capitalize()}. Percent, macro-averaged, mean ± standard deviation over seeds."
        columns = ["Training setting", *METRICS.values(), "Seeds"]
        tables.append(ReportTable(f"Table 6, {name}", columns, rows, note, name=f"{stage}-{name}", sources=[source], best=best))
    return tables


def cloud_tables(stage: str, found: Mapping[str, Any], source: Provenance) -> list[ReportTable]:
    """How faithful Figure 6 is, and how far the emotions keep apart: arms down, as `mds.json` has it."""
    rows: list[list[Cell]] = []
    for arm, cloud in found["arms"].items():
        splits = ", ".join(f"{name} {count}" for name, count in cloud["splits"].items())
        merits = [cloud[key] for key in ("stress", "silhouette_des", "silhouette_2d", "knn_purity_des", "knn_purity_2d")]
        rows.append([arm, f"{cloud['points']} of {cloud['available']}", splits, *merits])
    k = next((cloud["k"] for cloud in found["arms"].values()), "k")
    columns = [
        "Training setting",
        "Images",
        "Splits",
        "Stress-1 ↓",
        "Silhouette, DES ↑",
        "Silhouette, 2-D ↑",
        f"{k}-NN purity, DES ↑",
        f"{k}-NN purity, 2-D ↑",
    ]
    best = {(n, m) for m in range(3, 8) for n in best_of([row[m] for row in rows], m == 3)}
    return [ReportTable("Figure 6 in figures", columns, rows, digits=3, name=f"{stage}-merits", sources=[source], best=best)]


def training_row(name: str, settings: Mapping[str, Any], found: Mapping[str, Any]) -> list[Cell]:
    """One line of `training_table`: a stage's settings and its `training.json`."""
    images, labels = found.get("images", {}), found.get("labels", {}).get("train", {})
    has = ", ".join(f"{label.replace('_', ' ')} {count:,}" for label, count in labels.items()) or None
    size = settings.get("data", {}).get("batch_size")
    each = found["devices"] * (settings.get("trainer", {}).get("accumulate_grad_batches") or 1)
    return [
        name,
        images.get("train"),
        images.get("val"),
        has,
        found["steps"],
        None if size is None else size * each,
        found["trained_parameters"],
        str(found["seed"]),
    ]


def training_table(rows: list[list[Cell]], sources: list[Provenance]) -> ReportTable:
    """What every training saw."""
    columns = ["Stage", "Images", "Validation", "Images with labels for", "Steps", "Batch", "Trained weights", "Seed"]
    note = "Batch: images per optimiser step, over all devices. Each stage is one training from one seed."
    return ReportTable("What was trained", columns, rows, note, name="training", sources=sources)


def _paired(stage: str, found: Mapping[str, Any], source: Provenance) -> Iterator[ReportTable]:
    """Differences to one arm on the same images, where they were measured."""
    paired = found.get("paired")
    if not paired:
        return
    for mode in MODES:
        columns = ["Metric", *(column for arm in paired["arms"] for column in (f"{arm} − {paired['against']}", "p"))]
        rows: list[list[Cell]] = []
        for row in ROWS[mode]:
            cells: list[Cell] = [row.title]
            for arm in paired["arms"].values():
                one = arm[mode][row.key]
                cells += [None, None] if one is None else [_interval(one["difference"], one["interval"]), _p(one["p"])]
            rows.append(cells)
        note = "Times 100, on the same images. In brackets: 95 % intervals over images; p is two-sided, uncorrected."
        yield ReportTable(
            f"Table 5, {mode} mode: differences to {paired['against']}",
            columns,
            rows,
            note,
            name=f"{stage}-{mode}-paired",
            sources=[source],
            arms_across=True,
        )


def _details(stage: str, found: Mapping[str, Any], source: Provenance) -> Iterator[ReportTable]:
    """Per arm: how well each emotion is found, and what is taken for what."""
    for arm, column in found["arms"].items():
        if emotions := column.get("by_emotion"):
            rows: list[list[Cell]] = [
                [name, one["images"], *(one[key] for key in _RETRIEVAL), *(one["strict"][row.key] for row in ROWS["strict"])]
                for name, one in emotions.items()
                if one["images"] or one["precision"] is not None
            ]
            columns = ["Emotion", "Images", *_RETRIEVAL.values(), *(row.title for row in ROWS["strict"])]
            note = (
                "Times 100. An emotion's row holds the images whose reference has it; precision: of the answers that name it."
            )
            yield ReportTable(
                f"Table 5 by emotion, {arm}", columns, rows, note, name=f"{stage}-emotions-{arm}", sources=[source], folded=True
            )
        if confusion := column.get("confusion"):
            yield _confusion(f"{stage}-confusion-{arm}", arm, confusion, source)


def _confusion(name: str, arm: str, confusion: Mapping[str, Any], source: Provenance) -> ReportTable:
    rows: list[list[Cell]] = []
    shade: dict[tuple[int, int], float] = {}
    for label, counts in zip(confusion["rows"], confusion["counts"], strict=True):
        total = sum(counts)
        if total:
            shade |= {(len(rows), 1 + m): count / total for m, count in enumerate(counts) if count}
            rows.append([label, *map(int, counts), int(total)])
    note = "Images. Rows: the reference; columns: the answer. The darker, the larger the share of its row."
    columns = ["Reference", *confusion["columns"], "all"]
    return ReportTable(f"Confusion, {arm}", columns, rows, note, name=name, sources=[source], shade=shade, folded=True)


def _scored(column: Mapping[str, Any], mode: str, key: str) -> Cell:
    value = column[mode][key]
    return _interval(value, ((column.get("intervals") or {}).get(mode) or {}).get(key))


def _interval(value: float | None, interval: Any) -> Cell:
    return Spread(value, *interval) if interval and value is not None and None not in interval else value


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _mean(summary: Mapping[str, Any]) -> Cell:
    return Spread(summary["mean"], std=summary["std"]) if summary["std"] is not None else summary["mean"]

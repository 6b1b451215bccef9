"""Table 5: both modes, the differences to one arm, and behind every arm its emotions and what it takes for what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from emo_lightning.analysis.baselines import TEXT_ONLY, TRIPLET_ONLY, UPPER_READINGS
from emo_lightning.analysis.table5_rows import MODES, ROWS, Mode, Row, short_definition
from emo_lightning.core.replies import REASONS, UNREADABLE_ANSWERS
from emo_lightning.core.tables.table import Cell, Column, Result, Spread, Table, best_of, columns, p_value, spread
from emo_lightning.report.page import Page
from emo_lightning.report.tables.affect import affect_tables

BASELINE_TITLES = {
    TEXT_ONLY: "upper reading, from the reference's words",
    TRIPLET_ONLY: "upper reading, from the reference's triplet",
}
"""Where a baseline is called otherwise than in `table5.json`."""

WITHOUT_LOOKING = "answers given without looking, that is, without the image"

_RETRIEVAL = {"precision": "Precision", "recall": "Recall", "f1": "F1"}


def table5_page(result: Result, modes: Sequence[Mode] = MODES, *, by_emotion: bool = False) -> Page:
    """What `table5.table5` returned, for the terminal.

    Args:
        result: as `table5.json` holds it.
        modes: that are shown.
        by_emotion: whether every arm's emotions, in these modes, and its confusion matrix are shown.
    """
    tables = [*table5_tables(result, modes), *affect_tables(result), *unreadable_tables(result), *paired_tables(result, modes)]
    if by_emotion:
        tables += detail_tables(result, modes)
    notes = [f"Table 5 has no {name}: {why}" for name, why in (result.get("omitted") or {}).items()]
    return Page("Table 5", tables=tables, notes=[*notes, *result.get("remarks", [])])


def table5_tables(result: Result, modes: Sequence[Mode] = MODES) -> list[Table]:
    """One table per mode: metrics down, arms across, answers given without looking after them.

    An arm's `intervals` (mode -> row -> [low, high]) stand behind its numbers.
    """
    given = {**result["arms"], **result["baselines"]}
    arms = list(result["arms"])
    grey = f"{WITHOUT_LOOKING}, from {result['baseline_source']}." if result["baselines"] else ""
    if UPPER_READINGS & set(result["baselines"]):
        grey += " Upper readings are none of them: they read the description, or the triplet, in the reference."
    tables = []
    for mode in modes:
        rows: list[list[Cell]] = []
        best: set[tuple[int, int]] = set()
        shown = scored_rows(given, mode)
        for n, row in enumerate(shown):
            cells = [_scored(column, mode, row.key) for column in given.values()]
            rows.append([f"{row.title} {'↓' if row.lower_is_better else '↑'}", *cells])
            best |= {(n, 1 + m) for m in best_of(cells[: len(arms)], row.lower_is_better)}
        bounded = any(isinstance(cell, Spread) and cell.low is not None for row in rows for cell in row)
        tables.append(
            Table(
                f"table5-{mode}",
                f"Table 5, {mode} mode",
                [
                    Column("metric", "Metric"),
                    *(Column(name, BASELINE_TITLES.get(name, name), quiet=name in result["baselines"]) for name in given),
                ],
                rows,
                " ".join(
                    [
                        f"Times 100. Split {result['split']}, {result['references']} images.",
                        *(["In brackets: 95 % intervals over images."] if bounded else []),
                        f"Definitions of the rows, by version: {short_definition(result['definition'])}.",
                    ]
                ),
                row_keys=[row.key for row in shown],
                best=best,
                lower_is_better={row.key for row in shown if row.lower_is_better},
                quiet_note=grey,
                arms_across=True,
                name=mode,
            )
        )
    return tables


def scored_rows(columns: Mapping[str, Result], mode: Mode) -> list[Row]:
    """The rows that any of the columns has: what an older version scored has fewer."""
    return [row for row in ROWS[mode] if any(row.key in column[mode] for column in columns.values())]


def unreadable_tables(result: Result) -> Iterator[Table]:
    """Why answers could not be read, by arm; nothing where all could."""
    counts = {name: column.get("counts") or {} for name, column in result["arms"].items()}
    reasons = [reason for reason in REASONS if any(f"{UNREADABLE_ANSWERS}{reason}" in found for found in counts.values())]
    if not reasons:
        return
    rows: list[list[Cell]] = [
        [reason, *(int(found.get(f"{UNREADABLE_ANSWERS}{reason}", 0)) for found in counts.values())] for reason in reasons
    ]
    yield Table(
        "table5-unreadable",
        "Table 5: answers that could not be read",
        columns(("reason", "Why"), *((name, name) for name in counts)),
        [
            *rows,
            ["all", *(sum(cell for cell in column if isinstance(cell, int)) for column in list(zip(*rows, strict=True))[1:])],
        ],
        "Answers, not images: an image may be asked about several times. Each counts as wrong in the rows above.",
        row_keys=[*reasons, "all"],
        arms_across=True,
        name="unreadable",
    )


def paired_tables(result: Result, modes: Sequence[Mode] = MODES) -> Iterator[Table]:
    """Differences to one arm on the same images, where they were measured."""
    paired = result.get("paired")
    if not paired:
        return
    pairs = [((arm, f"{arm} − {paired['against']}"), (f"{arm}-p", "p")) for arm in paired["arms"]]
    for mode in modes:
        rows: list[list[Cell]] = []
        shown = scored_rows(paired["arms"], mode)
        for row in shown:
            cells: list[Cell] = [row.title]
            for arm in paired["arms"].values():
                one = arm[mode].get(row.key)
                cells += [None, None] if one is None else [spread(one["difference"], one["interval"]), p_value(one["p"])]
            rows.append(cells)
        yield Table(
            f"table5-{mode}-paired",
            f"Table 5, {mode} mode: differences to {paired['against']}",
            columns(("metric", "Metric"), *(column for pair in pairs for column in pair)),
            rows,
            "Times 100, on the same images. In brackets: 95 % intervals over images; p is two-sided, uncorrected.",
            row_keys=[row.key for row in shown],
            arms_across=True,
            folded=True,
            name=f"{mode}-paired",
        )


def detail_tables(result: Result, modes: Sequence[Mode] = ("strict",)) -> Iterator[Table]:
    """Per arm: how well each emotion is found, and what is taken for what; only where the arm was scored by emotion."""
    for arm, column in result["arms"].items():
        if emotions := column.get("by_emotion"):
            yield from (_by_emotion(arm, emotions, mode) for mode in modes)
        if confusion := column.get("confusion"):
            yield _confusion(arm, confusion)


def _by_emotion(arm: str, emotions: Result, mode: Mode) -> Table:
    shown = scored_rows(emotions, mode)
    rows: list[list[Cell]] = [
        [name, one["images"], *(one[key] for key in _RETRIEVAL), *(one[mode].get(row.key) for row in shown)]
        for name, one in emotions.items()
        if one["images"] or one["precision"] is not None
    ]
    measured = [(f"{mode}-{row.key}", row.title) for row in shown]
    paper = mode == "paper"
    return Table(
        f"table5-{'paper-' if paper else ''}emotions/{arm}",
        f"Table 5 by emotion, {arm}{', paper mode' if paper else ''}",
        columns(("emotion", "Emotion"), ("images", "Images"), *_RETRIEVAL.items(), *measured),
        rows,
        "Times 100. An emotion's row holds the images whose reference has it; precision: of the answers that name it.",
        folded=True,
        name=f"{'paper-' if paper else ''}emotions-{arm}",
    )


def _confusion(arm: str, confusion: Result) -> Table:
    rows: list[list[Cell]] = []
    shade: dict[tuple[int, int], float] = {}
    for label, counts in zip(confusion["rows"], confusion["counts"], strict=True):
        total = sum(counts)
        if total:
            shade |= {(len(rows), 1 + m): count / total for m, count in enumerate(counts) if count}
            rows.append([label, *map(int, counts), int(total)])
    return Table(
        f"table5-confusion/{arm}",
        f"Confusion, {arm}",
        columns(("reference", "Reference"), *confusion["columns"], "all"),
        rows,
        "Images. Rows: the reference; columns: the answer. The darker, the larger the share of its row.",
        shade=shade,
        folded=True,
        name=f"confusion-{arm}",
    )


def _scored(column: Result, mode: Mode, key: str) -> Cell:
    return spread(column[mode].get(key), ((column.get("intervals") or {}).get(mode) or {}).get(key))

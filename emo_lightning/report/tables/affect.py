"""Valence, arousal and dominance against people's ratings: three correlations an arm and dimension."""

from __future__ import annotations

from collections.abc import Iterator

from emo_lightning.core.tables.table import Cell, Result, Table, best_of, columns, spread

_MEASURES = {"srcc": "SRCC", "plcc": "PLCC", "ccc": "CCC"}


def affect_tables(result: Result) -> Iterator[Table]:
    """The table, where the references have ratings.

    Args:
        result: as `table5.json` holds it.
    """
    affect = result.get("affect")
    if not affect:
        return
    arms = affect["arms"]
    dimensions = list(next(iter(arms.values())))
    rows: list[list[Cell]] = []
    best: set[tuple[int, int]] = set()
    for dimension in dimensions:
        for measure, title in _MEASURES.items():
            found = [of[dimension][measure] for of in arms.values()]
            cells = [spread(one["value"], (one["low"], one["high"])) for one in found]
            best |= {(len(rows), 1 + place) for place in best_of(cells)}
            rows.append([f"{dimension.capitalize()} {title} ↑", *cells])
    said = [
        f"{arm}, {dimension}: {of[dimension]['images']} images"
        + (f", {of[dimension]['from_anchors']} of them from anchors" if of[dimension]["from_anchors"] else "")
        + (f", {of[dimension]['missing']} without an answer, which are in no correlation" if of[dimension]["missing"] else "")
        for arm, of in arms.items()
        for dimension in dimensions
    ]
    anchors = f" Anchors of the eight: {affect['anchors']}; norms disagree." if affect["anchors"] else ""
    yield Table(
        "affect",
        "Valence, arousal and dominance",
        columns(("metric", "Metric"), *((arm, arm) for arm in arms)),
        rows,
        "Correlation of ranks (SRCC), of values (PLCC), and Lin's concordance (CCC), with the mean of people's ratings, both from -1 to 1. "
        f"In brackets: 95 % intervals over images. {'; '.join(said)}.{anchors}",
        row_keys=[f"{dimension}_{measure}" for dimension in dimensions for measure in _MEASURES],
        best=best,
        arms_across=True,
        name="affect",
    )

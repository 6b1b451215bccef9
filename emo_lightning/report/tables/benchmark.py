"""What `benchmark` found, as tables and notes for the terminal and the report: every value under the name of its scorer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from emo_lightning.analysis.suites.published import READ_AT_SOURCE, PublishedModel, PublishedTable, published
from emo_lightning.core.suites.item import SUITE_TITLES, SuiteName
from emo_lightning.core.tables.table import Cell, Result, Spread, Table, columns, spread
from emo_lightning.report.page import Page


class _Head(NamedTuple):
    """A column of the first table: what it shows of every model."""

    key: str
    title: str
    lower_is_better: bool = False


LEADERBOARD_HEADS: Mapping[SuiteName, tuple[_Head, ...]] = {
    "vecbench": (
        _Head("id-ver", "emotions, in domain ↑"),
        _Head("id-vsa", "polarity, in domain ↑"),
        _Head("ood-ver", "emotions, out of domain ↑"),
        _Head("collapse", "collapse ↑"),
        _Head("ood-ver-ece", "ECE, out of domain ↓", lower_is_better=True),
        _Head("ood-ver-auroc", "AUROC, out of domain ↑"),
    ),
    "mvei": (
        _Head("total", "all statements ↑"),
        _Head("sentiment-polarity", "polarity ↑"),
        _Head("emotion-interpretation", "interpretation ↑"),
        _Head("scene-context", "context ↑"),
        _Head("perception-subjectivity", "subjectivity ↑"),
        _Head("collapse", "collapse ↑"),
    ),
    "eemo_bench": (
        _Head("single-overall", "one image ↑"),
        _Head("pair-overall", "two images ↑"),
        _Head("overall", "perception ↑"),
        _Head("ranking", "ranking ↑"),
        _Head("collapse", "collapse ↑"),
        _Head("valence-srcc", "valence SRCC ↑"),
        _Head("arousal-srcc", "intensity (arousal) SRCC ↑"),
        _Head("dominance-srcc", "dominance SRCC ↑"),
    ),
}
_TOPICS = {"accuracy": "Accuracy", "calibration": "Calibration", "intensity": "Valence, intensity (arousal), dominance"}


def benchmark_page(result: Result) -> Page:
    """What `benchmark` returned, as tables beside the published values."""
    suite: SuiteName = result["suite"]
    out = ", ".join(result["out_of_domain"]) or "none of its tasks"
    text = (
        f"{SUITE_TITLES[suite]}: {result['questions']:,} questions on {result['images']:,} images or pairs. Out of the domain: {out}. Every row is "
        "by the scorer that it names, and values by two scorers are no more comparable than those of two suites. Intervals: 95 %, "
        "bootstrap over images."
    )
    tables = [models_table(result), *(table for name in result["arms"] for table in arm_tables(result, name))]
    return Page(f"{SUITE_TITLES[suite]} by every scorer", text, tables, notes=list(_notes(result)))


def arm_tables(result: Result, name: str) -> list[Table]:
    """Every metric of one model: a table a topic, and what it gained over its base."""
    arm = result["arms"][name]
    found = [_metrics(name, arm, topic, title) for topic, title in _TOPICS.items()]
    found.append(_gains(name, arm, result["bases"].get(name, "")))
    return [table for table in found if table is not None]


def models_table(result: Result) -> Table:
    """Every model by every scorer, and below them what others have published."""
    suite: SuiteName = result["suite"]
    shown = [head for head in LEADERBOARD_HEADS[suite] if _is_known(result, head.key)]
    rows: list[list[Cell]] = []
    for name, arm in result["arms"].items():
        for scorer, found in arm["scorers"].items():
            cells = [own_cell(found, head.key) for head in shown]
            if any(cell is not None for cell in cells):
                rows.append([name, scorer, *cells, "these replies"])
    for table in published(suite):
        for model in table.models:
            cells = [_published(table, model, head.key) for head in shown]
            if any(cell is not None for cell in cells):
                rows.append(
                    [
                        model.model,
                        table.scorer,
                        *cells,
                        "published" if table.read == READ_AT_SOURCE else f"published ({table.read})",
                    ]
                )
    sources = "; ".join(f"{table.scorer}: {table.source} (replies {table.replies})" for table in published(suite))
    note = (
        "Collapse: accuracy on the tasks out of the domain minus the untuned base's, mean over tasks (positive is good). An empty cell: that "
        f"scorer does not give this value, or nobody has published it. Published values have no intervals. They are from: {sources}."
    )
    head = [(one.key, one.title) for one in shown]
    return Table(
        f"benchmark-models/{suite}",
        f"{SUITE_TITLES[suite]}: models by scorer",
        columns("model", ("scorer", "scored by"), *head, ("origin", "where from")),
        rows,
        note,
        row_keys=[f"{row[0]}/{row[1]}" for row in rows],
    )


def _is_known(result: Result, key: str) -> bool:
    """Whether any row of the first table has this column."""
    if any(own_cell(found, key) is not None for arm in result["arms"].values() for found in arm["scorers"].values()):
        return True
    return any(_published(table, model, key) is not None for table in published(result["suite"]) for model in table.models)


def own_cell(found: Result, key: str) -> Cell:
    """What one scorer says of one model, by the key of a metric, or `collapse`; None where it does not say."""
    if key == "collapse":
        gain = found.get("collapse")
        return None if gain is None else spread(gain["difference"], gain["interval"])
    metric = found["metrics"].get(key)
    return None if metric is None else Spread.of(metric)


def _published(table: PublishedTable, model: PublishedModel, key: str) -> Cell:
    return table.gain(model, "ood-ver") if key == "collapse" else model.values.get(key)


def _metrics(name: str, arm: Result, topic: str, title: str) -> Table | None:
    """All metrics of one model of one topic: a row a metric, a column a scorer."""
    by_scorer = {
        scorer: {one["title"]: (key, one) for key, one in found["metrics"].items() if one["topic"] == topic}
        for scorer, found in arm["scorers"].items()
    }
    by_scorer = {scorer: found for scorer, found in by_scorer.items() if found}
    if not by_scorer:
        return None
    named = {title: key for found in by_scorer.values() for title, (key, _) in found.items()}
    rows: list[list[Cell]] = []
    for one in named:
        items = next(found[one][1]["items"] for found in by_scorer.values() if one in found)
        rows.append([one, items, *(Spread.of(found[one][1]) if one in found else None for found in by_scorer.values())])
    return Table(
        f"benchmark-{topic}/{name}",
        f"{title}: {name}",
        columns("metric", "questions", *by_scorer),
        rows,
        _ABOUT[topic],
        row_keys=list(named.values()),
    )


_ABOUT = {
    "accuracy": "Percent. A question without a reply counts as wrong; so does a reply from which a scorer reads nothing.",
    "calibration": "Percent, over replies with a confidence. EmoCaliber: 10 bins without their upper ends, so that a confidence of 1 is in none; "
    "ours: 15 bins with them. The Brier score is of the confidence that the answer is right.",
    "intensity": "Correlation with the annotated means, from -1 to 1, over replies with a number. Arousal is how intense the feeling is, from "
    "calm to excited.",
}


def _gains(name: str, arm: Result, base: str) -> Table | None:
    by_scorer = {scorer: found["gains"] for scorer, found in arm["scorers"].items() if "gains" in found}
    if not by_scorer:
        return None
    tasks = list(dict.fromkeys(task for gains in by_scorer.values() for task in gains))
    rows: list[list[Cell]] = [
        [task, *(spread(g[task]["difference"], g[task]["interval"]) if task in g else None for g in by_scorer.values())]
        for task in tasks
    ]
    return Table(
        f"benchmark-gain/{name}",
        f"Accuracy over that of {base}: {name}",
        columns("task", *by_scorer),
        rows,
        "Points, on the same questions, with intervals of the paired bootstrap.",
    )


def _notes(result: Result) -> Iterator[str]:
    for name, arm in result["arms"].items():
        if arm["missing"]:
            yield f"{name}: questions without a reply, which count as wrong: {arm['missing']:,} of {result['questions']:,}"
        if arm["unknown"]:
            yield f"{name}: replies to questions that the suite does not have, which are left out: {arm['unknown']:,}"
        for scorer, found in arm["scorers"].items():
            if found["unreadable"]:
                yield f"{name}: replies from which {scorer} reads nothing: {found['unreadable']:,}"
        yield from (f"{name}: {note}" for note in arm["notes"])

"""All statistics of a store or of tars, in one pass over the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

from data_prep.provider.budget import NANO
from data_prep.stats.agreement import Agreement, AgreementJSON
from data_prep.stats.distribution import Distribution, DistributionJSON
from data_prep.stats.table1 import Table1, Table1Row, table1_text
from data_prep.store.provenance import pool_summary
from emo_lightning.core.records import Record

if TYPE_CHECKING:
    from data_prep.store.ledger import Ledger


class Distributions(TypedDict):
    """Balance of the emotions over all images, and by what they are split by."""

    all: DistributionJSON
    source: dict[str, DistributionJSON]
    split: dict[str, DistributionJSON]


class Spending(TypedDict):
    """What a store has cost so far, in nano-dollars."""

    outcomes: dict[str, int]
    calls: dict[str, dict[str, int]]
    """By annotator: `calls`, `nano_dollars`, and calls by state."""
    nano_dollars: int
    nano_dollars_per_valid_record: int | None


class Statistics(TypedDict):
    """All statistics of some records: the keys of `stats.json`."""

    table1: Table1Row
    distribution: Distributions
    agreement: AgreementJSON
    revisions: dict[str, int]
    """Records by number of revisions."""
    contested: dict[str, int]
    """Records by `true` and `false`: whether the pooled votes were contested."""
    human: dict[str, int]
    licence: dict[str, int]
    source: dict[str, int]
    stores: NotRequired[dict[str, Spending]]
    """By the name of the store's folder."""


_SPLIT_BY: tuple[Literal["source", "split"], ...] = ("source", "split")
_COUNTED: tuple[Literal["source", "licence", "revisions", "contested", "human"], ...] = (
    "source",
    "licence",
    "revisions",
    "contested",
    "human",
)


def summarise(records: Iterable[Record]) -> Statistics:
    """Statistics as JSON.

    Returns:
        `table1`, `distribution` (`all`, and by `source` and `split`: see `Distribution`), `agreement`, and counts of records by
        `revisions`, `contested` pools, `human` decisions, `licence` and `source`.
    """
    table, agreement = Table1(), Agreement()
    emotions: dict[str, dict[str, Counter[str]]] = {"source": {}, "split": {}}
    counts: dict[str, Counter[str]] = {key: Counter() for key in ("revisions", "contested", "human", "licence", "source")}
    everything: Counter[str] = Counter()
    for record in records:
        provenance = record.provenance
        table.add(record)
        agreement.add(record)
        if record.emotion is not None:
            everything[record.emotion] += 1
            for key, of in emotions.items():
                of.setdefault(getattr(record, key) or "unassigned", Counter())[record.emotion] += 1
        if "revisions" in provenance:
            counts["revisions"][str(provenance["revisions"])] += 1
        if (pool := pool_summary(record)) is not None:
            counts["contested"][str(bool(pool["contested"])).lower()] += 1
        counts["human"]["reviewed" if provenance.get("human") else "machines alone"] += 1
        counts["licence"][str(provenance.get("licence") or "unknown")] += 1
        counts["source"][record.source] += 1
    split_by = {key: {name: Distribution.of(c).as_json() for name, c in sorted(of.items())} for key, of in emotions.items()}
    ordered = {key: dict(sorted(c.items())) for key, c in counts.items()}
    return {
        "table1": table.row(),
        "distribution": {
            "all": Distribution.of(everything).as_json(),
            "source": split_by["source"],
            "split": split_by["split"],
        },
        "agreement": agreement.as_json(),
        "revisions": ordered["revisions"],
        "contested": ordered["contested"],
        "human": ordered["human"],
        "licence": ordered["licence"],
        "source": ordered["source"],
    }


def spending(ledger: Ledger) -> Spending:
    """Outcomes of a store, calls, and what a valid record costs; integers of nano-dollars.

    Everything that was ever paid is divided by the valid records (as the machines left them): discarded, human and unparsable ones
    are part of the price.
    """
    outcomes, cost = ledger.outcome_counts(), ledger.total_cost()
    valid = outcomes.get("valid", 0)
    calls: dict[str, dict[str, int]] = {}
    for annotator, state, number, nano, _ in ledger.call_totals():
        row = calls.setdefault(annotator, {"calls": 0, "nano_dollars": 0})
        row["calls"] += number
        row["nano_dollars"] += nano
        row[state] = number
    return {
        "outcomes": outcomes,
        "calls": calls,
        "nano_dollars": cost,
        "nano_dollars_per_valid_record": round(cost / valid) if valid else None,
    }


def as_text(name: str, stats: Statistics) -> str:
    """The statistics as Markdown, for a terminal and for a file."""
    parts = ["## Table 1", table1_text(name, stats["table1"]), "## Figure 5: balance of emotions", _distributions(stats)]
    parts += ["## Agreement of the annotators (first round)", _agreement(stats["agreement"])]
    parts += [
        "## Records",
        *(_line(key, stats[key]) for key in _COUNTED if stats[key]),
    ]
    for store, spent in stats.get("stores", {}).items():
        parts += [f"## Cost of {store}", *_spending(spent)]
    return "\n\n".join(parts)


def _distributions(stats: Statistics) -> str:
    rows = figure_rows(stats)
    emotions = list(rows[0][1].counts)
    lines = ["| | " + " | ".join((*emotions, "images", "Δ points", "σ points²")) + " |", "|---" * (len(emotions) + 4) + "|"]
    for label, d in rows:
        cells = [f"{share:.2f} %" for share in d.shares.values()]
        lines.append(f"| {label} | " + " | ".join((*cells, f"{d.total:,}", f"{d.delta:.2f}", f"{d.sigma:.2f}")) + " |")
    return "\n".join(lines)


def figure_rows(stats: Statistics) -> list[tuple[str, Distribution]]:
    """All images first; then by source and by split, where there are several."""
    found = stats["distribution"]
    rows = [("all", found["all"])]
    for key in _SPLIT_BY:
        if len(found[key]) > 1:
            rows += [(f"{key} {name}", row) for name, row in found[key].items()]
    return [(label, Distribution.of(row["counts"])) for label, row in rows]


def _agreement(agreement: AgreementJSON) -> str:
    votes = agreement["all"]
    if not votes["records"]:
        return "no record has the votes of two annotators"
    lines = ["| annotators | n | agree | Cohen's κ |", "|---|---|---|---|"]
    for pair, row in votes["pairs"].items():
        lines.append(f"| {pair} | {row['n']} | {row['agreement']:.1f} % | {_kappa(row['kappa'])} |")
    lines += ["", f"Fleiss' κ over {votes['records']} records: {_kappa(votes['fleiss_kappa'])}"]
    lines.append("as the record ended: " + ", ".join(f"{name} {share:.1f} %" for name, share in votes["with_final"].items()))
    lines.append(
        f"independent of every voter's training: {agreement['independent_share']:.1f} % of {agreement['records']} records "
        f"({agreement['not_independent']} have a vote of EmoViT on EmoSet, which it was trained on)"
    )
    if agreement["not_independent"]:
        lines.append(f"Fleiss' κ over the independent ones: {_kappa(agreement['independent']['fleiss_kappa'])}")
    return "\n".join(lines)


def _kappa(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _line(key: str, counts: dict[str, int]) -> str:
    return f"{key}: " + ", ".join(f"{name} {n}" for name, n in counts.items())


def _spending(spent: Spending) -> list[str]:
    per_valid = spent["nano_dollars_per_valid_record"]
    lines = [
        _line("outcomes", spent["outcomes"]),
        f"paid ${spent['nano_dollars'] / NANO:.6f}"
        + (f", ${per_valid / NANO:.6f} for each valid record" if per_valid is not None else ""),
    ]
    rows = [f"| {name} | {row['calls']} | ${row['nano_dollars'] / NANO:.6f} |" for name, row in spent["calls"].items()]
    return [*lines, "\n".join(["| | calls | cost |", "|---|---|---|", *rows])]

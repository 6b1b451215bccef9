"""All statistics of a store or of tars, in one pass over the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from data_prep.provider.budget import NANO
from data_prep.stats.agreement import Agreement
from data_prep.stats.distribution import Distribution
from data_prep.stats.table1 import Table1, table1_text
from emo_lightning.core.records import Record

if TYPE_CHECKING:
    from data_prep.store.ledger import Ledger


def summarise(records: Iterable[Record]) -> dict[str, Any]:
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
        if "pool" in provenance:
            counts["contested"][str(bool(provenance["pool"]["contested"])).lower()] += 1
        counts["human"]["reviewed" if provenance.get("human") else "machines alone"] += 1
        counts["licence"][str(provenance.get("licence") or "unknown")] += 1
        counts["source"][record.source] += 1
    return {
        "table1": table.row(),
        "distribution": {
            "all": Distribution.of(everything).as_json(),
            **{key: {name: Distribution.of(c).as_json() for name, c in sorted(of.items())} for key, of in emotions.items()},
        },
        "agreement": agreement.as_json(),
        **{key: dict(sorted(c.items())) for key, c in counts.items()},
    }


def spending(ledger: Ledger) -> dict[str, Any]:
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


def as_text(name: str, stats: dict[str, Any]) -> str:
    """The statistics as Markdown, for a terminal and for a file."""
    parts = ["## Table 1", table1_text(name, stats["table1"]), "## Figure 5: balance of emotions", _distributions(stats)]
    parts += ["## Agreement of the annotators (first round)", _agreement(stats["agreement"])]
    parts += [
        "## Records",
        *(_line(key, stats[key]) for key in ("source", "licence", "revisions", "contested", "human") if stats[key]),
    ]
    for store, spent in stats.get("stores", {}).items():
        parts += [f"## Cost of {store}", *_spending(spent)]
    return "\n\n".join(parts)


def _distributions(stats: dict[str, Any]) -> str:
    rows = figure_rows(stats)
    emotions = list(rows[0][1].counts)
    lines = ["| | " + " | ".join((*emotions, "images", "Δ points", "σ points²")) + " |", "|---" * (len(emotions) + 4) + "|"]
    for label, d in rows:
        cells = [f"{share:.2f} %" for share in d.shares.values()]
        lines.append(f"| {label} | " + " | ".join((*cells, f"{d.total:,}", f"{d.delta:.2f}", f"{d.sigma:.2f}")) + " |")
    return "\n".join(lines)


def figure_rows(stats: dict[str, Any]) -> list[tuple[str, Distribution]]:
    """All images first; then by source and by split, where there are several."""
    found = stats["distribution"]
    rows = [("all", found["all"])]
    for key in ("source", "split"):
        if len(found[key]) > 1:
            rows += [(f"{key} {name}", row) for name, row in found[key].items()]
    return [(label, Distribution.of(row["counts"])) for label, row in rows]


def _agreement(agreement: dict[str, Any]) -> str:
    votes = agreement["all"]
    if not votes["records"]:
        return "no record has the votes of two annotators"
    lines = ["| annotators | n | agree | Cohen's κ |", "|---|---|---|---|"]
    for pair, row in votes["pairs"].items():
        lines.append(f"| {pair} | {row['n']} | {row['agreement']:.1f} % | {_figure(row['kappa'])} |")
    lines += ["", f"Fleiss' κ over {votes['records']} records: {_figure(votes['fleiss_kappa'])}"]
    lines.append("as the record ended: " + ", ".join(f"{name} {share:.1f} %" for name, share in votes["with_final"].items()))
    lines.append(
        f"independent of every voter's training: {agreement['independent_share']:.1f} % of {agreement['records']} records "
        f"({agreement['not_independent']} have a vote of EmoViT on EmoSet, which it was trained on)"
    )
    if agreement["not_independent"]:
        lines.append(f"Fleiss' κ over the independent ones: {_figure(agreement['independent']['fleiss_kappa'])}")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _line(key: str, counts: dict[str, int]) -> str:
    return f"{key}: " + ", ".join(f"{name} {n}" for name, n in counts.items())


def _spending(spent: dict[str, Any]) -> list[str]:
    per_valid = spent["nano_dollars_per_valid_record"]
    lines = [
        _line("outcomes", spent["outcomes"]),
        f"paid ${spent['nano_dollars'] / NANO:.6f}"
        + (f", ${per_valid / NANO:.6f} for each valid record" if per_valid is not None else ""),
    ]
    rows = [f"| {name} | {row['calls']} | ${row['nano_dollars'] / NANO:.6f} |" for name, row in spent["calls"].items()]
    return [*lines, "\n".join(["| | calls | cost |", "|---|---|---|", *rows])]

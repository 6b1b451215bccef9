"""All statistics of a store or of tars, in one pass over the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NotRequired, TypedDict

from data_prep.stats.agreement import Agreement, AgreementJSON
from data_prep.stats.distribution import Distribution, DistributionJSON
from data_prep.stats.table1 import Table1, Table1Row
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

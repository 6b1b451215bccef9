"""The statistics of some records as tables: Table 1, what Figure 5 draws, agreement, counts and cost."""

from __future__ import annotations

from typing import Literal

from data_prep.provider.budget import NANO
from data_prep.stats.agreement import AgreementJSON
from data_prep.stats.distribution import Distribution
from data_prep.stats.summary import Spending, Statistics
from data_prep.stats.table1 import table1_table
from emo_lightning.core.records import EMOTIONS
from emo_lightning.core.tables.table import Cell, Table, columns

_SPLIT_BY: tuple[Literal["source", "split"], ...] = ("source", "split")
_COUNTED: tuple[Literal["source", "licence", "revisions", "contested", "human"], ...] = (
    "source",
    "licence",
    "revisions",
    "contested",
    "human",
)


def summary_tables(name: str, stats: Statistics) -> list[Table]:
    """All tables; one that has nothing to say has no rows.

    Args:
        name: of the data set, for Table 1.
        stats: of its records.
    """
    return [
        table1_table(name, stats["table1"]),
        _balance(stats),
        *_agreement(stats["agreement"]),
        _counts(stats),
        _cost(stats.get("stores", {})),
    ]


def summary_notes(stats: Statistics) -> list[str]:
    """What stands below the tables: over how many records the annotators agree, and what each store has cost."""
    agreement = stats["agreement"]
    votes = agreement["all"]
    notes = []
    if votes["records"]:
        notes.append(f"Fleiss' κ over {votes['records']} records: {_kappa(votes['fleiss_kappa'])}")
        notes.append(
            f"independent of every voter's training: {agreement['independent_share']:.1f} % of {agreement['records']} records "
            f"({agreement['not_independent']} have a vote of EmoViT on EmoSet, which it was trained on)"
        )
        if agreement["not_independent"]:
            notes.append(f"Fleiss' κ over the independent ones: {_kappa(agreement['independent']['fleiss_kappa'])}")
    else:
        notes.append("no record has the votes of two annotators")
    return [*notes, *(_paid(store, spent) for store, spent in stats.get("stores", {}).items())]


def figure_rows(stats: Statistics) -> list[tuple[str, Distribution]]:
    """All images first; then by source and by split, where there are several."""
    found = stats["distribution"]
    rows = [("all", found["all"])]
    for key in _SPLIT_BY:
        if len(found[key]) > 1:
            rows += [(f"{key} {name}", row) for name, row in found[key].items()]
    return [(label, Distribution.of(row["counts"])) for label, row in rows]


def _balance(stats: Statistics) -> Table:
    return Table(
        "figure5",
        "Figure 5: balance of the emotions",
        columns(("set", "Images"), *map(str, EMOTIONS), ("images", "n"), ("delta", "Δ points"), ("sigma", "σ points²")),
        [[label, *d.shares.values(), d.total, d.delta, d.sigma] for label, d in figure_rows(stats)],
        "Percent of the n images with an emotion; Δ is the largest share minus the smallest, σ the variance of the shares.",
    )


def _agreement(agreement: AgreementJSON) -> list[Table]:
    votes = agreement["all"]
    pairs: list[list[Cell]] = [
        [pair, row["n"], round(row["agreement"] / 100, 4), row["kappa"]] for pair, row in votes["pairs"].items()
    ]
    final: list[list[Cell]] = [[name, round(share / 100, 4)] for name, share in votes["with_final"].items()]
    return [
        Table(
            "agreement",
            "Agreement of the annotators (first round)",
            columns(("annotators", "Annotators"), "n", ("agree", "Agree"), ("kappa", "Cohen's κ")),
            pairs,
            "On the emotion, as a share of the n records that both voted on.",
            digits=4,
        ),
        Table(
            "agreement-final",
            "Agreement with the record as it ended",
            columns(("annotator", "Annotator"), ("agree", "Agree")),
            final,
            "On the emotion, as a share of the records that the annotator voted on in the first round.",
            digits=4,
        ),
    ]


def _counts(stats: Statistics) -> Table:
    found = [(key, name, n) for key in _COUNTED for name, n in stats[key].items()]
    return Table(
        "records",
        "Records",
        columns(("by", "By"), ("value", "Value"), ("records", "Records")),
        [[key, name, n] for key, name, n in found],
        row_keys=[f"{key}/{name}" for key, name, _ in found],
    )


def _cost(stores: dict[str, Spending]) -> Table:
    found = [(store, name, row) for store, spent in stores.items() for name, row in spent["calls"].items()]
    return Table(
        "cost",
        "Cost",
        columns(("store", "Store"), ("annotator", "Annotator"), ("calls", "Calls"), ("dollars", "Cost, $")),
        [[store, name, row["calls"], row["nano_dollars"] / NANO] for store, name, row in found],
        digits=6,
        row_keys=[f"{store}/{name}" for store, name, _ in found],
    )


def _paid(store: str, spent: Spending) -> str:
    per_valid = spent["nano_dollars_per_valid_record"]
    each = f", ${per_valid / NANO:.6f} for each valid record" if per_valid is not None else ""
    outcomes = ", ".join(f"{name} {n}" for name, n in spent["outcomes"].items())
    return f"{store}: paid ${spent['nano_dollars'] / NANO:.6f}{each}; outcomes: {outcomes}"


def _kappa(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

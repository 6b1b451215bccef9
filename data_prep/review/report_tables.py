"""What reviewers and participants said as tables: Table 4, accuracy and agreement."""

from __future__ import annotations

from collections.abc import Mapping

from data_prep.review.messages import Accuracy, RaterAgreement, ReviewReport, StudyRow
from emo_lightning.core.tables.table import Cell, Spread, Table, columns

_QUESTIONS = {"arousal": "Emotion arousal", "emotion": "CES acc.", "context": "Anno. acc."}


def table4_table(found: Mapping[str, Mapping[str, StudyRow | None]]) -> Table:
    """Table 4: a data set a row, a question a column."""
    return Table(
        "table4",
        "Table 4: user study",
        columns(("dataset", "Dataset"), *_QUESTIONS.items(), ("participants", "Participants")),
        [[group, *(_mean(row[question]) for question in _QUESTIONS), _participants(row)] for group, row in found.items()],
        "Percent, with 95 % intervals over participants (none with one participant).",
    )


def report_tables(found: ReviewReport) -> list[Table]:
    """Accuracy by outcome and field, and how far the reviewers agree; fields that nobody judged are left out."""
    judged = [(state, field, row) for state, rows in found["accuracy"].items() for field, row in rows.items() if row["n"]]
    return [
        Table(
            "accuracy",
            "Accuracy of the records",
            columns(
                ("outcome", "Left by the pass"),
                ("field", "Field"),
                ("right", "Right"),
                ("n", "n"),
                ("accuracy", "Acc., %"),
                ("weighted", "Weighted, %"),
            ),
            [[state, field, *_accuracy(row)] for state, field, row in judged],
            "With 95 % intervals (Wilson); weighted by the sizes of source × emotion in the store.",
            row_keys=[f"{state}/{field}" for state, field, _ in judged],
        ),
        Table(
            "agreement",
            "Agreement of the reviewers",
            columns(("field", "Field"), "n", ("alike", "Alike"), ("kappa", "κ"), ("kind", "Kind")),
            [[field, *_agreement(row)] for field, row in found["agreement"].items() if row["n"]],
            "As a share of the n records that several reviewers judged; κ is not defined where there is one answer throughout.",
            digits=4,
        ),
    ]


def report_notes(found: ReviewReport) -> list[str]:
    """Who has reviewed how much, and what became of the outcomes."""
    if not found["reviewers"]:
        return ["nobody has reviewed yet"]
    notes = [f"{name}: {row['decisions']} decisions on {row['items']} records" for name, row in found["reviewers"].items()]
    for state, after in found["outcomes"].items():
        notes.append(f"{state} → " + ", ".join(f"{name} {n}" for name, n in after.items()))
    if not any(row["n"] for row in found["agreement"].values()):
        notes.append("no record has two reviewers; see --second")
    return notes


def _mean(cell: StudyRow | None) -> Cell:
    return None if cell is None else Spread(cell["mean"], cell["low"], cell["high"])


def _participants(row: Mapping[str, StudyRow | None]) -> int:
    return max(cell["participants"] for cell in row.values() if cell)


def _accuracy(row: Accuracy) -> list[Cell]:
    return [
        row["right"],
        row["n"],
        Spread(_percent(row["accuracy"]), 100 * row["low"], 100 * row["high"]),
        _percent(row["weighted"]),
    ]


def _agreement(row: RaterAgreement) -> list[Cell]:
    return [row["n"], row["observed"], row["kappa"], str(row["kind"]).title()]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share

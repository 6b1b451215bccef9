"""What the provenance of a record says of its annotation: a pass writes it, statistics and exports read it.

`Record.provenance` is open: a record of another tool may lack any of it, or hold something else under a key. What does not look as
a pass writes it counts as missing.
"""

from __future__ import annotations

from typing import TypedDict, cast

from emo_lightning.core.records import Record


class AnnotatorReply(TypedDict, total=False):
    """One entry of `said`: what an annotator was asked in a round, and its reply."""

    annotator: str
    model: str
    party: str
    """Whose `model` it is: a name or an address."""
    answered_model: str
    """The model that the reply names as its own; absent where it names none."""
    round: int
    """0: before anybody was corrected."""
    reply: dict[str, object]
    """As the reply's schema has it; absent where there was none."""


class PoolSummary(TypedDict):
    """`pool`: how far the annotators' votes agreed."""

    margin: float
    agreement: float
    contested: bool


def annotator_replies(record: Record) -> list[AnnotatorReply]:
    """What the annotators said, by round and name; empty for a record without a pass."""
    found = record.provenance.get("said")
    return [cast("AnnotatorReply", row) for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def critic_replies(record: Record) -> list[dict[str, object]]:
    """What the critic said, round by round, with its `verdict`."""
    found = record.provenance.get("critic")
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def pool_summary(record: Record) -> PoolSummary | None:
    """How the votes were pooled; None for a record without votes."""
    found = record.provenance.get("pool")
    return cast("PoolSummary", found) if isinstance(found, dict) else None


def source_labels(record: Record) -> dict[str, object]:
    """What the source says of the image."""
    found = record.provenance.get("source_labels")
    return found if isinstance(found, dict) else {}

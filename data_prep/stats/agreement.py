"""How far the annotators agree on the emotion before anybody was corrected, and how far each is right by the final record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypedDict

from data_prep.review.agreement import cohen_kappa, fleiss_kappa
from data_prep.store.provenance import annotator_replies
from emo_lightning.core.records import Record

TRAINED_ON = {"emovit": ("emoset",)}
"""Annotators (by part of name or model) whose training held the images *and labels* of a source: there they are no witness."""


class PairJSON(TypedDict):
    """Agreement of two annotators."""

    n: int
    agreement: float
    """Percent."""
    kappa: float | None
    """Cohen's κ; null where it is not defined."""


class VotesJSON(TypedDict):
    """Agreement over some records."""

    records: int
    fleiss_kappa: float | None
    pairs: dict[str, PairJSON]
    """By `ANNOTATOR – ANNOTATOR`."""
    with_final: dict[str, float]
    """By annotator: agreement with the record as it ended, percent."""


class AgreementJSON(TypedDict):
    """Agreement over all records, and over those that no vote's training has seen."""

    records: int
    independent_share: float | None
    """Percent."""
    not_independent: int
    all: VotesJSON
    independent: VotesJSON


def first_votes(record: Record) -> dict[str, str]:
    """Emotion by annotator in the first round, from the provenance."""
    return {
        str(row["annotator"]): str(row["reply"]["emotion"])
        for row in annotator_replies(record)
        if row.get("round") == 0 and isinstance(row.get("reply"), dict) and "emotion" in row["reply"]
    }


def not_independent(record: Record) -> bool:
    """Whether an annotator that voted was trained on the record's source."""
    source = record.source.lower()
    for row in annotator_replies(record):
        who = f"{row.get('annotator')} {row.get('model')}".lower()
        if "reply" in row and any(name in who and source.startswith(of) for name, of in TRAINED_ON.items()):
            return True
    return False


@dataclass
class RoundVotes:
    """Votes of the first round over some records; feed it with `add`."""

    records: int = 0
    """With at least two votes."""
    pairs: dict[tuple[str, str], Counter[tuple[str, str]]] = field(default_factory=dict)
    final: dict[str, Counter[bool]] = field(default_factory=dict)
    together: Counter[tuple[tuple[str, int], ...]] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Count the votes of one record."""
        votes = first_votes(record)
        if len(votes) < 2:
            return
        self.records += 1
        for a, b in combinations(sorted(votes), 2):
            self.pairs.setdefault((a, b), Counter())[votes[a], votes[b]] += 1
        for name, emotion in votes.items():
            self.final.setdefault(name, Counter())[emotion == record.emotion] += 1
        self.together[tuple(sorted(Counter(votes.values()).items()))] += 1

    def as_json(self) -> VotesJSON:
        """Cohen's κ by pair, Fleiss' κ over all, and agreement of each annotator with the record as it ended (percent)."""
        pairs: dict[str, PairJSON] = {}
        for (a, b), counts in sorted(self.pairs.items()):
            n = counts.total()
            same = sum(c for (x, y), c in counts.items() if x == y)
            pairs[f"{a} – {b}"] = {"n": n, "agreement": round(100 * same / n, 2), "kappa": _round(cohen_kappa(_expand(counts)))}
        final = {name: round(100 * c[True] / c.total(), 2) for name, c in sorted(self.final.items())}
        items = [dict(counts) for counts, n in self.together.items() for _ in range(n)]
        return {"records": self.records, "fleiss_kappa": _round(fleiss_kappa(items)), "pairs": pairs, "with_final": final}


@dataclass
class Agreement:
    """Votes over all records, and over those where every vote is independent."""

    records: int = 0
    dependent: int = 0
    """Records with a vote of an annotator that was trained on their source."""
    everywhere: RoundVotes = field(default_factory=RoundVotes)
    independent: RoundVotes = field(default_factory=RoundVotes)

    def add(self, record: Record) -> None:
        """Count one record."""
        self.records += 1
        self.everywhere.add(record)
        if not_independent(record):
            self.dependent += 1
        else:
            self.independent.add(record)

    def as_json(self) -> AgreementJSON:
        """Both counts, and the share of records that no vote's training has seen (percent)."""
        share = 100 * (self.records - self.dependent) / self.records if self.records else None
        return {
            "records": self.records,
            "independent_share": _round(share),
            "not_independent": self.dependent,
            "all": self.everywhere.as_json(),
            "independent": self.independent.as_json(),
        }


def _expand(counts: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(counts.elements())


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

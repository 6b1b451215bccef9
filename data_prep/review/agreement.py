"""How well reviewers agree, and how often the records are right (paper section 3.2: the ground-truth check)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from data_prep.review.decisions import (
    REQUIRED_FIELDS,
    REVIEWED_FIELDS,
    WHOLE_RECORD,
    Decision,
    Review,
    decide,
    final_value,
    is_stale,
    reviewed,
    standing,
)
from data_prep.review.log import ReviewLog
from data_prep.review.messages import Accuracy, RaterAgreement, ReviewReport
from data_prep.review.sample import SAMPLED_STATES, Stratum
from emo_lightning.core.intervals import wilson
from emo_lightning.core.records import Record

_Category = TypeVar("_Category", bound=Hashable)

LABELLED_FIELDS = ("emotion", "intensity")
"""Fields whose final labels are few enough to compare as well as the verdicts."""


def cohen_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """Cohen's κ of two raters (Cohen 1960); None where it is not defined (no pair, or both always say one and the same)."""
    if not pairs:
        return None
    n = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    # In whole numbers up to the division, so that perfect agreement gives exactly 1.
    observed = n * sum(a == b for a, b in pairs)
    expected = sum(first[label] * second[label] for label in first)
    return None if expected == n * n else (observed - expected) / (n * n - expected)


def fleiss_kappa(items: Sequence[Mapping[_Category, int]]) -> float | None:
    """Fleiss' κ of many raters (Fleiss 1971); None where it is not defined.

    Args:
        items: per item the number of raters by category. Items may have different numbers of raters (each item then counts alike);
            those with fewer than two do not count.
    """
    rated = [item for item in items if sum(item.values()) > 1]
    if not rated:
        return None
    agreement = 0.0
    shares: dict[_Category, float] = defaultdict(float)
    for item in rated:
        raters = sum(item.values())
        agreement += sum(n * (n - 1) for n in item.values()) / (raters * (raters - 1))
        for category, n in item.items():
            shares[category] += n / raters
    observed = agreement / len(rated)
    expected = math.fsum((share / len(rated)) ** 2 for share in shares.values())
    return None if expected > 1 - 1e-12 else (observed - expected) / (1 - expected)


def agreement(ratings: Mapping[str, Mapping[str, Hashable]]) -> RaterAgreement:
    """Agreement over {item: {reviewer: category}}: Cohen's κ for two reviewers, Fleiss' for more, over items that ≥ 2 rated."""
    shared = {item: given for item, given in ratings.items() if len(given) > 1}
    names = sorted({name for given in shared.values() for name in given})
    if len(names) < 2:
        return {"reviewers": len(names), "n": 0, "observed": None, "kappa": None, "kind": None}
    if len(names) == 2:
        pairs = [(given[names[0]], given[names[1]]) for given in shared.values()]
        observed = sum(a == b for a, b in pairs) / len(pairs)
        return {"reviewers": 2, "n": len(pairs), "observed": observed, "kappa": cohen_kappa(pairs), "kind": "cohen"}
    counts = [Counter(given.values()) for given in shared.values()]
    alike = [sum(n * (n - 1) for n in c.values()) / (c.total() * (c.total() - 1)) for c in counts]
    return {
        "reviewers": len(names),
        "n": len(counts),
        "observed": math.fsum(alike) / len(alike),
        "kappa": fleiss_kappa(counts),
        "kind": "fleiss",
    }


def report(log: ReviewLog) -> ReviewReport:
    """Everything that the reviews of a store say.

    Returns:
        `reviewers`: items and decisions by name; `outcomes`: {state of the pass: {state after review: items}};
        `accuracy`: {state of the pass: {field: row}} with n, right, accuracy, 95 % interval (low, high), and `weighted`: by the
        sizes of the strata (source × emotion) in the store, since the sample gives small ones at least one; the last field,
        `record`, is right if nothing of it was called wrong, mended or discarded (finished records alone);
        `agreement`: {field: row} on right or not, for emotion and intensity on the resulting label too, and for `record` on
        keeping or discarding it.
    """
    rows = standing(log.reviews())
    by_item: dict[str, list[Review]] = {}
    for row in rows:
        by_item.setdefault(row.item_id, []).append(row)
    outcomes: dict[str, Counter[str]] = {}
    decided: list[tuple[Stratum, dict[str, Decision]]] = []
    ratings: dict[str, dict[str, dict[str, Hashable]]] = {}
    for item_id, of_item in by_item.items():
        item, outcome = log.outcome(item_id)
        record = Record.from_json(outcome.record, f"outcome of {item_id}")
        stratum = (item.source, outcome.state, str(record.emotion or ""))
        decided.append((stratum, _with_whole(decide(record, of_item))))
        outcomes.setdefault(outcome.state, Counter())[reviewed(outcome, of_item).state] += 1
        _add_ratings(ratings, record, of_item)
    sizes = (
        Counter((source, state, emotion) for _, source, state, emotion in log.strata(SAMPLED_STATES)) if decided else Counter()
    )
    names = sorted({row.reviewer for row in rows})
    return {
        "reviewers": {
            name: {
                "items": len({row.item_id for row in rows if row.reviewer == name}),
                "decisions": sum(row.reviewer == name for row in rows),
            }
            for name in names
        },
        "outcomes": {state: dict(sorted(after.items())) for state, after in sorted(outcomes.items())},
        "accuracy": {
            state: {
                field: _accuracy(field, [d for d in decided if d[0][1] == state], sizes)
                for field in (*REVIEWED_FIELDS, WHOLE_RECORD)
            }
            for state in sorted(outcomes)
        },
        "agreement": {
            field: agreement(ratings[field])
            for field in (*REVIEWED_FIELDS, *(f"{f} label" for f in LABELLED_FIELDS), WHOLE_RECORD)
            if field in ratings
        },
    }


def _add_ratings(ratings: dict[str, dict[str, dict[str, Hashable]]], record: Record, reviews: Sequence[Review]) -> None:
    """Add what each reviewer said of a record: {field: {item: {reviewer: category}}}."""
    for name in {row.reviewer for row in reviews}:
        own = {row.field: row.verdict for row in reviews if row.reviewer == name}
        if (discards := own.get(WHOLE_RECORD) == "wrong") or set(REQUIRED_FIELDS) <= set(own):
            ratings.setdefault(WHOLE_RECORD, {}).setdefault(record.id, {})[name] = not discards
    for row in reviews:
        if row.field in REVIEWED_FIELDS and not is_stale(record, row):
            ratings.setdefault(row.field, {}).setdefault(record.id, {})[row.reviewer] = row.verdict == "right"
            if row.field in LABELLED_FIELDS:
                label = final_value(row)
                assert label is None or isinstance(label, str)
                ratings.setdefault(f"{row.field} label", {}).setdefault(record.id, {})[row.reviewer] = label


def _with_whole(decisions: dict[str, Decision]) -> dict[str, Decision]:
    """Decisions with one about the whole record, where it is finished: a discarded record has no field to count as wrong."""
    if WHOLE_RECORD not in decisions and not set(REQUIRED_FIELDS) <= set(decisions):
        return decisions
    right = all(decision.verdict == "right" for decision in decisions.values())
    return {**decisions, WHOLE_RECORD: Decision("right" if right else "wrong", None, None, {})}


def _accuracy(field: str, decided: list[tuple[Stratum, dict[str, Decision]]], sizes: Counter[Stratum]) -> Accuracy:
    strata: dict[Stratum, list[bool]] = {}
    for stratum, decisions in decided:
        if field in decisions:
            strata.setdefault(stratum, []).append(decisions[field].verdict == "right")
    n, right = sum(map(len, strata.values())), sum(map(sum, strata.values()))
    covered = sum(sizes[stratum] for stratum in strata)
    low, high = wilson(right, n)
    return {
        "n": n,
        "right": right,
        "accuracy": right / n if n else None,
        "low": low,
        "high": high,
        "weighted": math.fsum(sizes[s] * sum(v) / len(v) for s, v in strata.items()) / covered if covered else None,
    }

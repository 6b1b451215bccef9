"""What reviewers decided, and what it makes of a record. Pure functions of rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Record, SchemaError, describe, intensity_level

if TYPE_CHECKING:
    from data_prep.review.messages import RegionJSON
    from data_prep.store.rows import Outcome

REQUIRED_FIELDS = ("emotion", "description", "background", "attribute", "subject", "intensity")
"""A record that a human made valid has all of these."""
TEXT_FIELDS = ("description", "background", "attribute", "subject")
REVIEWED_FIELDS = (*REQUIRED_FIELDS, "objects")
"""What is judged, each on its own; the intensity by its level alone (as the critic does), the boxes as a set."""
WHOLE_RECORD = "record"
"""Field of a decision about the whole record: `wrong` discards it."""

ReviewVerdict = Literal["right", "wrong", "mended", "undone"]
REVIEW_VERDICTS: tuple[ReviewVerdict, ...] = ("right", "wrong", "mended")
MAX_TEXT_CHARACTERS = 4000
"""Characters of a mended text."""


class ReviewError(InputError):
    """A decision cannot be taken as it is; the message names the item, the field, what was found and what is allowed."""


@dataclass(frozen=True)
class Review:
    """One row: one reviewer's decision about one field."""

    item_id: str
    field: str
    reviewer: str
    verdict: ReviewVerdict
    shown: object
    """The value that was judged, as JSON (see `shown_value`)."""
    value: object = None
    """The value it was mended to: text, an emotion, an intensity 1–10, or a list of `GroundedObject` as JSON."""
    time: float = 0.0
    """Seconds since 1970."""
    undoes: int | None = None
    id: int | None = None
    """Place in the history; None before it is stored."""


@dataclass(frozen=True)
class Decision:
    """What the reviewers together decided about a field."""

    verdict: ReviewVerdict
    value: object
    shown: object
    votes: dict[str, int]
    """Reviewers by verdict."""


def as_verdict(text: object) -> ReviewVerdict | None:
    """The verdict of that name; None where there is none that a reviewer may give."""
    return next((verdict for verdict in REVIEW_VERDICTS if verdict == text), None)


def shown_value(record: Record, field: str) -> object:
    """The value of a field that is judged, as JSON; for the intensity its level, for the boxes all objects."""
    if field == "intensity":
        return intensity_level(record.intensity) if record.intensity is not None else record.intensity_level
    if field == WHOLE_RECORD:
        return None
    if field not in REVIEWED_FIELDS:
        msg = f"{record.id}: unknown field {field!r}; allowed: {', '.join((*REVIEWED_FIELDS, WHOLE_RECORD))}"
        raise ReviewError(msg)
    return field_json(record, field)


def field_json(record: Record, field: str) -> object:
    """A field of a record as JSON."""
    value: object = record.model_dump(mode="json", include={field})[field]
    return value


def regions_of(record: Record) -> list[RegionJSON]:
    """The objects of a record as JSON."""
    regions: list[RegionJSON] = record.model_dump(mode="json", include={"objects"})["objects"]
    return regions


def mended(record: Record, field: str, value: object) -> Record:
    """The record with one field mended.

    A mended emotion takes the machines' distribution and confidence with it: they speak of another emotion (the votes stay in
    `provenance.said`). A mended subject drops boxes that were found for another phrase.

    Raises:
        ReviewError: the value is not allowed for the field.
    """
    if field not in REVIEWED_FIELDS:
        msg = f"{record.id}: field {field!r} cannot be mended; allowed: {', '.join(REVIEWED_FIELDS)}"
        raise ReviewError(msg)
    try:
        return Record.model_validate({**record.model_dump(), **_changes(record, field, value)})
    except ValidationError as error:
        msg = f"{record.id}: {describe(error)}"
        raise ReviewError(msg) from None
    except SchemaError as error:
        msg = f"{record.id}: {field}: {error}"
        raise ReviewError(msg) from None


def _changes(record: Record, field: str, value: object) -> dict[str, object]:
    """What mending a field changes in a record, by field."""
    if field in TEXT_FIELDS:
        if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT_CHARACTERS:
            msg = f"{record.id}: {field} must be text of 1–{MAX_TEXT_CHARACTERS} characters, found {str(value)[:80]!r}"
            raise ReviewError(msg)
        text = value.strip()
        if field == "subject":
            return {field: text, "objects": [o for o in record.objects if o.phrase == text]}
        return {field: text}
    if field == "emotion":
        if not isinstance(value, str):
            msg = f"{record.id}: emotion must be one of the eight, found {value!r}"
            raise ReviewError(msg)
        return {field: value, "emotion_scores": None, "confidence": None}
    if field == "intensity":
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10:
            msg = f"{record.id}: intensity must be a whole number 1–10, found {value!r}"
            raise ReviewError(msg)
        return {field: value, "intensity_level": intensity_level(value)}
    return {field: value}


def standing(reviews: Iterable[Review]) -> list[Review]:
    """The rows that hold: per item, reviewer and field the last one that was not taken back, in the order of the history."""
    rows = sorted(reviews, key=lambda r: r.id or 0)
    gone = {row.undoes for row in rows if row.undoes is not None}
    last: dict[tuple[str, str, str], Review] = {}
    for row in rows:
        if row.undoes is None and row.id not in gone:
            key = (row.item_id, row.reviewer, row.field)
            last.pop(key, None)
            last[key] = row
    return list(last.values())


def final_value(review: Review) -> object:
    """What the field should say by this reviewer, in the terms of `shown_value`; None where it is only wrong."""
    if review.verdict == "right":
        return review.shown
    if review.verdict == "mended" and review.field == "intensity":
        # `mended` has let nothing else pass.
        assert isinstance(review.value, int)
        return intensity_level(review.value)
    return review.value


def is_stale(record: Record, review: Review) -> bool:
    """Whether right or wrong was said of another value than the record's own (another pass has decided since)."""
    return review.verdict in ("right", "wrong") and review.shown != shown_value(record, review.field)


def decide(record: Record, reviews: Iterable[Review]) -> dict[str, Decision]:
    """Decisions by field (and `record`, where it is discarded): the majority of reviewers; a tie goes to who decided first.

    Right and mended to the same value are one opinion. Rows of another item, rows that were taken back and stale rows do not count.
    """
    rows = [r for r in standing(reviews) if r.item_id == record.id]
    found = {}
    for field in REVIEWED_FIELDS:
        of_field = [r for r in rows if r.field == field and not is_stale(record, r)]
        if of_field:
            found[field] = _majority(of_field)
    reviewers = {r.reviewer: r for r in reversed(rows)}
    discards = {r.reviewer: r for r in rows if r.field == WHOLE_RECORD and r.verdict == "wrong"}
    if discards:
        keep = [
            replace(r, field=WHOLE_RECORD, verdict="right", shown=None, value=None)
            for n, r in reviewers.items()
            if n not in discards
        ]
        decision = _majority([*discards.values(), *keep])
        if decision.verdict == "wrong":
            found[WHOLE_RECORD] = decision
    return found


def _majority(rows: Sequence[Review]) -> Decision:
    def opinion(row: Review) -> str:
        return "wrong" if row.verdict == "wrong" else json.dumps(final_value(row), sort_keys=True)

    counts = Counter(map(opinion, rows))
    first = min(rows, key=lambda r: (-counts[opinion(r)], r.id or 0))
    votes = dict(sorted(Counter(r.verdict for r in rows).items()))
    return Decision(first.verdict, first.value, first.shown, {str(k): n for k, n in votes.items()})


def decided_state(state: str, record: Record, decisions: dict[str, Decision]) -> str:
    """valid, discarded or human, given the state that the pass left and the (already mended) record.

    A human called the record or one of its required fields wrong and nobody mended it: discarded, since an export never carries
    what a human called wrong. All required fields right or mended: valid. Otherwise the state stays. Wrong boxes discard nothing:
    they are taken out.
    """
    if WHOLE_RECORD in decisions or any(decisions[f].verdict == "wrong" for f in REQUIRED_FIELDS if f in decisions):
        return "discarded"
    if all(f in decisions for f in REQUIRED_FIELDS) and all(shown_value(record, f) is not None for f in REQUIRED_FIELDS):
        return "valid"
    return state


def apply_reviews(record: Record, reviews: Iterable[Review]) -> Record:
    """The record as the reviewers left it: mended values, `provenance.outcome` (see `decided_state`) and `provenance.human`.

    Reviewers are counted there, not named. Without decisions the very same record comes back; applying twice changes nothing more.
    """
    rows = list(reviews)
    decisions = decide(record, rows)
    if not decisions:
        return record
    result = record
    # The subject first: boxes that were judged or drawn afterwards belong to it.
    for field in sorted(decisions, key=lambda f: f != "subject"):
        decision = decisions[field]
        if decision.verdict == "mended":
            result = mended(result, field, decision.value)
        elif field == "objects":
            result = result.model_copy(update={"objects": [] if decision.verdict == "wrong" else record.objects})
    state = decided_state(str(record.provenance.get("outcome", "valid")), result, decisions)
    reviewers = {r.reviewer for r in standing(rows) if r.item_id == record.id}
    fields: dict[str, dict[str, object]] = {}
    for field, decision in decisions.items():
        row: dict[str, object] = {"verdict": decision.verdict, "votes": decision.votes}
        if decision.verdict == "mended" and field != "objects":
            row["was"] = decision.shown
        fields[field] = row
    human = {"outcome": state, "reviewers": len(reviewers), "fields": fields}
    return result.model_copy(update={"provenance": {**record.provenance, "outcome": state, "human": human}})


def reviewed(outcome: Outcome, reviews: Sequence[Review]) -> Outcome:
    """An outcome after its reviews: state and record; the same object where there are none."""
    if not reviews:
        return outcome
    record = Record.from_json(outcome.record, f"outcome of {outcome.item_id}")
    # The state column decides; the provenance of a record that other code made may not name it.
    based = record.model_copy(update={"provenance": {**record.provenance, "outcome": outcome.state}})
    after = apply_reviews(based, reviews)
    if after is based:
        return outcome
    return replace(outcome, state=str(after.provenance["outcome"]), record=after.to_json().decode())

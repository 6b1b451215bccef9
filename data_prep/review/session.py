"""The inspection of records on the review page, as JSON objects in and out; no HTTP here. One session: one reviewer, one sample."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Sequence
from typing import cast

from data_prep.review.decisions import (
    REQUIRED_FIELDS,
    REVIEW_VERDICTS,
    REVIEWED_FIELDS,
    WHOLE_RECORD,
    Review,
    ReviewError,
    field_json,
    is_stale,
    mended,
    regions_of,
    shown_value,
    standing,
)
from data_prep.review.log import ReviewLog, StaleError
from data_prep.review.messages import (
    RegionJSON,
    RequestBody,
    ReviewOverview,
    RouteHandler,
    ShownDecision,
    ShownItem,
    ShownRecord,
    Undone,
)
from data_prep.review.sample import SAMPLED_STATES, stratified_sample
from data_prep.store.rows import Item
from data_prep.store.store import Store
from emo_lightning.core.foreign import integer_of
from emo_lightning.core.records import EMOTIONS, Record


def check_name(name: object, what: str) -> str:
    """A reviewer's or participant's name.

    Raises:
        ReviewError: empty, too long, or with characters that would be lost in a table.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w@.+ -]{1,60}", name) or name != name.strip():
        msg = f"{what} {name!r}: allowed are 1–60 letters, digits, blanks and _ - . @ + (no outer blanks)"
        raise ReviewError(msg)
    return name


class ReviewSession:
    """The inspection of a sample by one reviewer, who never sees what another one said.

    Args:
        store: for images; opened for reading.
        log: opened for writing.
        reviewer: whose decisions these are.
        states: outcomes to look at.
        sample: how many records; None takes all.
        seed: of the sample.
        second: look only at what another reviewer has finished (whatever its state), to measure agreement.

    Raises:
        ReviewError: there is nothing to look at.
    """

    mode = "review"

    def __init__(
        self,
        store: Store,
        log: ReviewLog,
        reviewer: str,
        *,
        states: Sequence[str] = ("human", "valid"),
        sample: int | None = None,
        seed: int = 0,
        second: bool = False,
    ) -> None:
        self.store, self.log, self.reviewer = store, log, check_name(reviewer, "--reviewer")
        rows = log.strata(SAMPLED_STATES if second else states)
        if second:
            theirs = {row.item_id for row in _finished(log) if row.reviewer != reviewer}
            rows = [row for row in rows if row[0] in theirs]
        self.states = {row[0]: row[2] for row in rows}
        self.queue = stratified_sample(rows, sample, seed)
        if not self.queue:
            wanted = "finished by another reviewer" if second else f"in state {' or '.join(states)}"
            msg = f"{store.root}: no record is {wanted}; `emo prep status` shows what there is"
            raise ReviewError(msg)
        self._known = set(self.queue)
        self._write = threading.Lock()
        self.routes: dict[str, RouteHandler] = {
            "session": self.overview,
            "item": self.item,
            "decide": self.decide,
            "undo": self.undo,
        }

    def overview(self, _: RequestBody) -> ReviewOverview:
        """The queue, and which of it this reviewer has finished."""
        rows: dict[str, list[Review]] = {}
        for row in standing(self.log.reviews(reviewer=self.reviewer)):
            rows.setdefault(row.item_id, []).append(row)
        done = [i for i in self.queue if i in rows and self._done(self.record(i)[1], rows[i])]
        return {
            "mode": self.mode,
            "reviewer": self.reviewer,
            "emotions": list(EMOTIONS),
            "fields": list(REVIEWED_FIELDS),
            "queue": [{"id": i, "state": self.states[i]} for i in self.queue],
            "done": done,
        }

    def item(self, request: RequestBody) -> ShownItem:
        """One record as the pass left it, what grounding found in its image, and this reviewer's own decisions."""
        item, record = self.record(request.get("id"))
        own = standing(self.log.reviews(item_id=item.id, reviewer=self.reviewer))
        hidden = {"des", "id", "source", "split", "sha256"}
        value = cast("ShownRecord", record.model_dump(mode="json", exclude=hidden))
        decisions: dict[str, ShownDecision] = {
            row.field: {"verdict": row.verdict, "value": row.value}
            for row in own
            if row.field in REVIEWED_FIELDS and not is_stale(record, row)
        }
        return {
            "id": item.id,
            "state": self.states[item.id],
            "record": value,
            "digest": f"{_digest(record)}-{self.log.version(self.reviewer, item.id)}",
            "version": self.log.version(self.reviewer),
            "candidates": self._candidates(item, record),
            "decisions": decisions,
            "discarded": _discarded(own),
            "done": self._done(record, own),
        }

    def decide(self, request: RequestBody) -> ShownItem:
        """Save decisions of one moment about one record (all or none), then as `item`.

        Nothing is saved where the same reviewer has decided about the record elsewhere since the page has shown it: the answer then
        has `conflict`, and everything as it stands.
        """
        item, record = self.record(request.get("id"))
        digest, _, seen = str(request.get("digest")).partition("-")
        if digest != _digest(record):
            msg = f"{item.id}: the record has changed since it was shown; load it again"
            raise ReviewError(msg)
        if not re.fullmatch(r"[0-9]{1,18}", seen):
            msg = f"{item.id}: digest {request.get('digest')!r}; send the one that came with the record"
            raise ReviewError(msg)
        given = request.get("decisions")
        if not isinstance(given, list) or not given:
            msg = f"{item.id}: decisions must be a list, found {given!r}"
            raise ReviewError(msg)
        now = time.time()
        with self._write:
            try:
                self.log.add([self._checked(record, one, now) for one in given], seen=int(seen))
            except StaleError:
                newer = [row for row in self.log.reviews(item_id=item.id, reviewer=self.reviewer) if (row.id or 0) > int(seen)]
                return {**self.item(request), "conflict": list(dict.fromkeys(row.field for row in newer))}
        return self.item(request)

    def undo(self, request: RequestBody) -> Undone:
        """Take back the last thing that this reviewer did in this sample; null if there is nothing left."""
        version = request.get("version")
        seen = None if version is None else integer_of(version, "version", ReviewError, low=0)
        with self._write:
            try:
                taken = self.log.undo(self.reviewer, seen)
            except StaleError:
                return {"undone": None, "conflict": True}
        if not taken:
            return {"undone": None}
        return {"undone": taken[0].item_id, "fields": [row.field for row in taken]}

    def image(self, key: str) -> tuple[bytes, str]:
        """Bytes and extension of an image of the sample."""
        item, _ = self.record(key)
        return self.store.image(item.sha256, item.extension), item.extension

    def record(self, item_id: object) -> tuple[Item, Record]:
        """An item of the sample and its record as the pass left it.

        Raises:
            ReviewError: it is not in the sample.
        """
        if not isinstance(item_id, str) or item_id not in self._known:
            msg = f"{item_id!r} is not in this sample"
            raise ReviewError(msg)
        item, outcome = self.log.outcome(item_id)
        return item, Record.from_json(outcome.record, f"outcome of {item_id}")

    def _checked(self, record: Record, given: object, now: float) -> Review:
        field, verdict, value = (
            (given.get(key) for key in ("field", "verdict", "value")) if isinstance(given, dict) else (None,) * 3
        )
        if field not in (*REVIEWED_FIELDS, WHOLE_RECORD) or verdict not in REVIEW_VERDICTS:
            fields, verdicts = ", ".join((*REVIEWED_FIELDS, WHOLE_RECORD)), ", ".join(REVIEW_VERDICTS)
            msg = f"{record.id}: decision {given!r}; allowed fields: {fields}, verdicts: {verdicts}"
            raise ReviewError(msg)
        shown = shown_value(record, field)
        if field == WHOLE_RECORD:
            if verdict == "mended":
                msg = f"{record.id}: a whole record is right or wrong, found 'mended'"
                raise ReviewError(msg)
        elif verdict == "mended":
            value = field_json(mended(record, field, value), field)
        elif shown is None:
            msg = f"{record.id}: {field} has no value that could be {verdict}; mend it"
            raise ReviewError(msg)
        return Review(record.id, field, self.reviewer, verdict, shown, value if verdict == "mended" else None, now)

    @staticmethod
    def _done(record: Record, own: list[Review]) -> bool:
        decided = {row.field for row in own if not is_stale(record, row)}
        # Where nothing was grounded there are no boxes to judge (they may still be drawn).
        wanted = set(REQUIRED_FIELDS) | ({"objects"} if record.objects else set())
        return _discarded(own) or wanted <= decided

    def _candidates(self, item: Item, record: Record) -> list[RegionJSON]:
        # The ledger keeps what a source ships as JSON of the same shape.
        shipped = cast("list[RegionJSON]", item.regions)
        found: dict[str, RegionJSON] = {}
        for candidate in [*regions_of(record), *self.log.candidates(item.sha256), *shipped]:
            found.setdefault(json.dumps(candidate["bbox"]), candidate)
        return list(found.values())


def _discarded(own: list[Review]) -> bool:
    return any(row.field == WHOLE_RECORD and row.verdict == "wrong" for row in own)


def _digest(record: Record) -> str:
    return hashlib.sha256(record.to_json()).hexdigest()[:16]


def _finished(log: ReviewLog) -> list[Review]:
    """One row per (item, reviewer) that decided all required fields, or discarded the record."""
    rows: dict[tuple[str, str], list[Review]] = {}
    for row in standing(log.reviews()):
        rows.setdefault((row.item_id, row.reviewer), []).append(row)
    return [own[0] for own in rows.values() if _discarded(own) or set(REQUIRED_FIELDS) <= {row.field for row in own}]

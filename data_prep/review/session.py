"""What the review page asks for and says, as JSON values; no HTTP here. One session: one reviewer, one sample."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from data_prep.review import decisions as rules
from data_prep.review.decisions import FIELDS, RECORD, REQUIRED, Review, ReviewError, shown_value, standing
from data_prep.review.log import ReviewLog
from data_prep.review.sample import STATES, stratified_sample
from data_prep.store.rows import Item
from data_prep.store.store import Store
from emo_lightning.core.records import EMOTIONS, Record

Route = Callable[[dict[str, Any]], dict[str, Any]]


def check_name(name: Any, what: str) -> str:
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
        rows = log.strata(STATES if second else states)
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
        self.routes: dict[str, Route] = {"session": self.overview, "item": self.item, "decide": self.decide, "undo": self.undo}

    def overview(self, _: dict[str, Any]) -> dict[str, Any]:
        """The queue, and which of it this reviewer has finished."""
        rows: dict[str, list[Review]] = {}
        for row in standing(self.log.reviews(reviewer=self.reviewer)):
            rows.setdefault(row.item_id, []).append(row)
        done = [i for i in self.queue if i in rows and self._done(self.record(i)[1], rows[i])]
        return {
            "mode": self.mode,
            "reviewer": self.reviewer,
            "emotions": list(EMOTIONS),
            "fields": list(FIELDS),
            "queue": [{"id": i, "state": self.states[i]} for i in self.queue],
            "done": done,
        }

    def item(self, request: dict[str, Any]) -> dict[str, Any]:
        """One record as the pass left it, what grounding found in its image, and this reviewer's own decisions."""
        item, record = self.record(request.get("id"))
        own = standing(self.log.reviews(item_id=item.id, reviewer=self.reviewer))
        value = record.model_dump(mode="json", exclude={"des", "id", "source", "split", "sha256"})
        decisions = {
            row.field: {"verdict": row.verdict, "value": row.value}
            for row in own
            if row.field in FIELDS and not rules.is_stale(record, row)
        }
        return {
            "id": item.id,
            "state": self.states[item.id],
            "record": value,
            "digest": _digest(record),
            "candidates": self._candidates(item, record),
            "decisions": decisions,
            "discarded": _discarded(own),
            "done": self._done(record, own),
        }

    def decide(self, request: dict[str, Any]) -> dict[str, Any]:
        """Save decisions of one moment about one record (all or none), then as `item`."""
        item, record = self.record(request.get("id"))
        if request.get("digest") != _digest(record):
            msg = f"{item.id}: the record has changed since it was shown; load it again"
            raise ReviewError(msg)
        given = request.get("decisions")
        if not isinstance(given, list) or not given:
            msg = f"{item.id}: decisions must be a list, found {given!r}"
            raise ReviewError(msg)
        now = time.time()
        with self._write:
            self.log.add([self._checked(record, one, now) for one in given])
        return self.item(request)

    def undo(self, _: dict[str, Any]) -> dict[str, Any]:
        """Take back the last thing that this reviewer did in this sample; null if there is nothing left."""
        with self._write:
            taken = self.log.undo(self.reviewer)
        if not taken:
            return {"undone": None}
        return {"undone": taken[0].item_id, "fields": [row.field for row in taken]}

    def image(self, key: str) -> tuple[bytes, str]:
        """Bytes and extension of an image of the sample."""
        item, _ = self.record(key)
        return self.store.image(item.sha256, item.extension), item.extension

    def record(self, item_id: Any) -> tuple[Item, Record]:
        """An item of the sample and its record as the pass left it.

        Raises:
            ReviewError: it is not in the sample.
        """
        if not isinstance(item_id, str) or item_id not in self._known:
            msg = f"{item_id!r} is not in this sample"
            raise ReviewError(msg)
        item, outcome = self.log.outcome(item_id)
        return item, Record.from_json(outcome.record, f"outcome of {item_id}")

    def _checked(self, record: Record, one: Any, now: float) -> Review:
        field, verdict, value = (
            (one.get(key) for key in ("field", "verdict", "value")) if isinstance(one, dict) else (None,) * 3
        )
        if field not in (*FIELDS, RECORD) or verdict not in rules.VERDICTS:
            msg = f"{record.id}: decision {one!r}; allowed fields: {', '.join((*FIELDS, RECORD))}, verdicts: {', '.join(rules.VERDICTS)}"
            raise ReviewError(msg)
        shown = shown_value(record, field)
        if field == RECORD:
            if verdict == "mended":
                msg = f"{record.id}: a whole record is right or wrong, found 'mended'"
                raise ReviewError(msg)
        elif verdict == "mended":
            value = rules.mended(record, field, value).model_dump(mode="json", include={field})[field]
        elif shown is None:
            msg = f"{record.id}: {field} has no value that could be {verdict}; mend it"
            raise ReviewError(msg)
        return Review(record.id, field, self.reviewer, verdict, shown, value if verdict == "mended" else None, now)

    @staticmethod
    def _done(record: Record, own: list[Review]) -> bool:
        decided = {row.field for row in own if not rules.is_stale(record, row)}
        # Where nothing was grounded there are no boxes to judge (they may still be drawn).
        wanted = set(REQUIRED) | ({"objects"} if record.objects else set())
        return _discarded(own) or wanted <= decided

    def _candidates(self, item: Item, record: Record) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for candidate in [*shown_value(record, "objects"), *self.log.candidates(item.sha256), *item.regions]:
            found.setdefault(json.dumps(candidate["bbox"]), candidate)
        return list(found.values())


def _discarded(own: list[Review]) -> bool:
    return any(row.field == RECORD and row.verdict == "wrong" for row in own)


def _digest(record: Record) -> str:
    return hashlib.sha256(record.to_json()).hexdigest()[:16]


def _finished(log: ReviewLog) -> list[Review]:
    """One row per (item, reviewer) that decided all required fields, or discarded the record."""
    rows: dict[tuple[str, str], list[Review]] = {}
    for row in standing(log.reviews()):
        rows.setdefault((row.item_id, row.reviewer), []).append(row)
    return [own[0] for own in rows.values() if _discarded(own) or set(REQUIRED) <= {row.field for row in own}]


class StudySession:
    """The user study: one participant at a time says who they are (or `participant` does) and answers in an order of their own."""

    mode = "study"

    def __init__(self, store: Store, log: ReviewLog, config: Any, participant: str | None = None) -> None:
        from data_prep.review import study

        self.store, self.log, self.config, self._study = store, log, config, study
        self.participant = check_name(participant, "--reviewer") if participant is not None else None
        self.items = study.open_study(log, config)
        self._keys = {self._key(item.item_id): item.item_id for item in self.items}
        self._sizes = {item_id: size for item_id, *size in log.query("SELECT id, width, height FROM items")}
        self._write = threading.Lock()
        self.routes: dict[str, Route] = {
            "session": self.overview,
            "order": self.order,
            "answer": self.answer,
            "undo": self.undo,
        }

    def overview(self, _: dict[str, Any]) -> dict[str, Any]:
        """What the start page needs; datasets are not named, so that nobody answers for a name."""
        return {
            "mode": self.mode,
            "participant": self.participant,
            "points": self.config.points,
            "questions": self._study.QUESTIONS,
            "count": len(self.items),
        }

    def order(self, request: dict[str, Any]) -> dict[str, Any]:
        """Everything that one participant is asked, in their order, with what they answered so far."""
        who, order = self._order(request)
        given = self._study.answers(self.log, self.config.name, who)
        rows = []
        for item in order:
            keys = {question: (who, item.group, item.item_id, question) for question in item.questions}
            rows.append(
                {
                    "image": self._key(item.item_id),
                    "size": self._sizes.get(item.item_id, [4, 3]),
                    "emotion": item.emotion,
                    "context": item.context,
                    "questions": list(item.questions),
                    "answers": {question: given[key][1] for question, key in keys.items() if key in given},
                }
            )
        return {"participant": who, "items": rows}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Save one answer to the image at `position` of the participant's order."""
        who, order = self._order(request)
        position = request.get("position")
        if not isinstance(position, int) or not 0 <= position < len(order):
            msg = f"position {position!r}; allowed: 0–{len(order) - 1}"
            raise ReviewError(msg)
        with self._write:
            self._study.add_answer(self.log, self.config, who, order[position], request.get("question"), request.get("answer"))
        return {"saved": True}

    def undo(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take back the participant's last answer; its position, or null."""
        who, order = self._order(request)
        with self._write:
            taken = self._study.undo_answer(self.log, self.config, who)
        positions = [i for i, item in enumerate(order) if (item.group, item.item_id) == taken]
        return {"undone": positions[0] if positions else None}

    def image(self, key: str) -> tuple[bytes, str]:
        """Bytes and extension of an image of the study."""
        if key not in self._keys:
            msg = f"{key!r} is not in this study"
            raise ReviewError(msg)
        for sha256, extension in self.log.query("SELECT sha256, extension FROM items WHERE id = ?", (self._keys[key],)):
            return self.store.image(sha256, extension), extension
        msg = f"{key!r} is no longer in the store"
        raise ReviewError(msg)

    def _order(self, request: dict[str, Any]) -> tuple[str, list[Any]]:
        who = self.participant or check_name(request.get("participant"), "participant")
        return who, self._study.study_order(self.config, self.items, who)

    @staticmethod
    def _key(item_id: str) -> str:
        # An id often begins with the name of its dataset.
        return hashlib.sha256(item_id.encode()).hexdigest()[:24]

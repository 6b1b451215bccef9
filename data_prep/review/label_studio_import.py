"""Annotations of Label Studio become the same rows as decisions on our own page (see `label_studio` for the tasks)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from data_prep.review.decisions import (
    REVIEW_VERDICTS,
    REVIEWED_FIELDS,
    TEXT_FIELDS,
    WHOLE_RECORD,
    Review,
    ReviewError,
    ReviewVerdict,
    as_verdict,
    field_json,
    mended,
    standing,
)
from data_prep.review.label_studio_parts import begun_of, boxes_of, moment_of, parts_by_field, text_or_choice, whole_intensity
from data_prep.review.log import ReviewLog
from data_prep.review.messages import RegionJSON
from data_prep.review.session import check_name
from emo_lightning.core.foreign import MAX_JSON_BYTES, decode_json, list_of, object_of, read_capped, text_of
from emo_lightning.core.records import GroundedObject, Record, describe


def read_annotations(log: ReviewLog, path: str | Path, reviewer: str | None = None) -> dict[str, int]:
    """Take over the annotations of a Label Studio export (JSON); all of them or, if anything is wrong, none.

    Args:
        log: opened for writing.
        path: of the file.
        reviewer: whose decisions these are; None takes `completed_by` of each annotation.

    Returns:
        Counts: tasks, annotations, cancelled (skipped annotations of Label Studio), added (decisions), known (standing already); and,
        where there are any, decisions older than what stands, which are left out, decisions taken back by a later annotation that does
        not say them any more, and parts of no field of ours.

    Raises:
        ReviewError: names the file, the task, the field, what was found and what is allowed.
    """
    data = read_capped(path, MAX_JSON_BYTES, ReviewError)
    tasks = decode_json(data, path, ReviewError)
    if not isinstance(tasks, list):
        msg = f"{path}: expected a list of tasks (Label Studio's JSON export), found {type(tasks).__name__}"
        raise ReviewError(msg)
    found = _Annotations(log, reviewer)
    annotations: list[tuple[float, int, _Task, dict[str, object]]] = []
    number = 0
    try:
        for number, entry in enumerate(tasks, 1):
            task = _Task.read(entry, log)
            found.counts["tasks"] += 1
            annotations += [(moment_of(one), number, task, one) for one in task.annotations]
        # Also where two tasks are of one item: the oldest first.
        for moment, place, task, annotation in sorted(annotations, key=lambda row: row[0]):
            number = place
            found.take(task, annotation, moment)
    except ReviewError as error:
        msg = f"{path}: task {number}: {error}"
        raise ReviewError(msg) from None
    people = found.people
    if reviewer is not None and len(people) > 1:
        msg = f"{path}: annotations of {len(people)} people ({', '.join(sorted(people))[:200]}); leave out --reviewer: each keeps a name"
        raise ReviewError(msg)
    log.add(found.new)
    return {**found.counts, "added": sum(row.undoes is None for row in found.new)}


class _Annotations:
    """What the tasks of a file say, one after the other.

    Args:
        log: for what was decided before.
        reviewer: see `read_annotations`.
    """

    def __init__(self, log: ReviewLog, reviewer: str | None) -> None:
        self._log, self._reviewer = log, reviewer
        self.counts = Counter(dict.fromkeys(("tasks", "annotations", "cancelled", "added", "known"), 0))
        self.new: list[Review] = []
        self.people: set[str] = set()
        self._history: dict[tuple[str, str], list[Review]] = {}
        """Of each item and annotator: the rows of the ledger, and those of this file after them."""

        self._since: dict[tuple[str, str], float] = {}
        """When the first annotation of this file that each annotator made of an item was begun."""

    def take(self, task: _Task, annotation: Mapping[str, object], moment: float) -> None:
        """Take an annotation; the older ones of its annotator must be taken before.

        Args:
            task: that it is of.
            annotation: as it comes back.
            moment: when it was made, or changed last.

        Raises:
            ReviewError: it is not by the labelling config.
        """
        self.counts["annotations"] += 1
        if annotation.get("was_cancelled"):
            self.counts["cancelled"] += 1
            return
        who = check_name(self._reviewer or _annotator(annotation), "reviewer")
        self.people.add(str(annotation.get("completed_by")))
        rows, unknown = _rows(task, annotation, who, moment)
        if unknown:
            self.counts["parts of no field of ours"] += unknown
        key = task.record.id, who
        if key not in self._history:
            self._history[key] = self._log.reviews(item_id=task.record.id, reviewer=who)
        self._since[key] = min(self._since.get(key, moment), begun_of(annotation, moment))
        self._take_back(key, {row.field for row in rows}, moment)
        newer = _newer(rows, self._history[key], self.counts)
        self._history[key] += newer
        self.new += newer

    def _take_back(self, key: tuple[str, str], fields: set[str], moment: float) -> None:
        """A later annotation holds as a whole: what an earlier form of it said, and it does not say any more, does not stand.

        What its annotator decided before it was begun, on our own page for example, is not a form of it and stands.
        """
        history = self._history[key]
        undone = {row.undoes for row in history if row.undoes is not None}
        gone = [
            row
            for row in history
            if row.undoes is None
            and (row.id is None or row.id not in undone)
            and row.field not in fields
            and self._since[key] <= row.time < moment
        ]
        for row in gone:
            if row.id is None:
                # Of this file, and written nowhere yet.
                self.new = [one for one in self.new if one is not row]
                self._history[key] = [one for one in self._history[key] if one is not row]
            else:
                back = Review(row.item_id, row.field, row.reviewer, "undone", row.shown, None, moment, row.id)
                self.new.append(back)
                self._history[key].append(back)
                self.counts["taken back"] += 1


def _newer(rows: list[Review], history: list[Review], counts: Counter[str]) -> list[Review]:
    """What of an annotation is new; an older one never takes the place of what was decided, or taken back, since."""
    # Rows of this file have no place in the history yet: they come after all others.
    numbered = [replace(row, id=row.id or (1 << 62) + number) for number, row in enumerate(history)]
    there = {row.field: row for row in standing(numbered)}
    undone = {row.field: row.time for row in numbered if row.undoes is not None}
    found = []
    for row in rows:
        old = there.get(row.field)
        if old is not None and _what(old) == _what(row):
            counts["known"] += 1
        elif max(undone.get(row.field, row.time), row.time if old is None else old.time) > row.time:
            counts["older than what stands, left out"] += 1
        else:
            found.append(row)
    return found


@dataclass(frozen=True)
class _Task:
    """One task as it comes back, its types checked."""

    record: Record
    shown: dict[str, object]
    intensity: object
    boxes: list[RegionJSON]
    annotations: list[dict[str, object]]

    @classmethod
    def read(cls, entry: object, log: ReviewLog) -> _Task:
        """The task of an export of ours.

        Raises:
            ReviewError: it is none, or its item has no outcome.
        """
        task = object_of(entry, "a task", ReviewError)
        missing = "expected a task that `emo prep review` exported"
        data = task.get("data")
        if not isinstance(data, dict):
            msg = f"key 'data' is missing; {missing}"
            raise ReviewError(msg)
        for key in ("item", "shown", "boxes"):
            if key not in data:
                msg = f"key {key!r} is missing; {missing}"
                raise ReviewError(msg)
        shown = object_of(data["shown"], "'shown'", ReviewError)
        for field in REVIEWED_FIELDS:
            if field not in shown:
                msg = f"key {field!r} is missing; {missing}"
                raise ReviewError(msg)
            value = shown[field]
            if field == "objects":
                list_of(value, f"'shown': {field}", ReviewError)
            elif value is not None:
                text_of(value, f"'shown': {field}", ReviewError)
        item_id = text_of(data["item"], "'item'", ReviewError)
        record = Record.from_json(log.outcome(item_id)[1].record, f"outcome of {item_id}")
        given = task.get("annotations")
        annotations = [] if given is None else list_of(given, "'annotations'", ReviewError)
        return cls(
            record,
            {field: shown[field] for field in REVIEWED_FIELDS},
            data.get("intensity"),
            [_region(record, box) for box in list_of(data["boxes"], "'boxes'", ReviewError)],
            [object_of(one, "an annotation", ReviewError) for one in annotations],
        )


def _region(record: Record, box: object) -> RegionJSON:
    try:
        region = GroundedObject.model_validate(object_of(box, f"{record.id}: a box", ReviewError))
    except ValidationError as error:
        msg = f"{record.id}: 'boxes': {describe(error)}"
        raise ReviewError(msg) from None
    return cast("RegionJSON", region.model_dump(mode="json"))


def _annotator(annotation: Mapping[str, object]) -> str:
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    if isinstance(who, str):
        return who
    if not isinstance(who, int) or isinstance(who, bool):
        msg = f"an annotation does not say who made it (completed_by: {str(who)[:60]!r}); give --reviewer NAME"
        raise ReviewError(msg)
    return f"label-studio-{who}"


def _what(row: Review) -> tuple[str, ...]:
    return row.field, row.verdict, json.dumps(row.shown, sort_keys=True), json.dumps(row.value, sort_keys=True)


def _rows(task: _Task, annotation: Mapping[str, object], who: str, moment: float) -> tuple[list[Review], int]:
    """The decisions of an annotation, and how many of its parts are of no field of ours."""
    record = task.record
    parts, unknown = parts_by_field(record, annotation)
    subject = text_or_choice(record, parts, "subject", "text") or record.subject or ""
    # A submitted prediction brings all values along; somebody who started from nothing has judged, and taken nothing out.
    filled = any(field in parts for field in REVIEWED_FIELDS)
    rows = []
    for field in REVIEWED_FIELDS:
        before = task.intensity if field == "intensity" else task.shown[field]
        value: object
        if field == "objects":
            value = boxes_of(record, parts.get(field, []), task.boxes, subject) if filled else before
        else:
            value = text_or_choice(record, parts, field, "text" if field in TEXT_FIELDS else "choices")
            if field == "intensity" and value is not None:
                value = whole_intensity(record, value)
        said = text_or_choice(record, parts, f"{field}_verdict", "choices")
        verdict = _verdict(record, field, said, before, value, filled=filled)
        if verdict is None:
            continue
        if verdict == "mended":
            value = field_json(mended(record, field, value), field)
        rows.append(Review(record.id, field, who, verdict, task.shown[field], value if verdict == "mended" else None, moment))
    if text_or_choice(record, parts, WHOLE_RECORD, "choices") is not None:
        rows.append(Review(record.id, WHOLE_RECORD, who, "wrong", None, None, moment))
    return rows, unknown


def _verdict(
    record: Record, field: str, said: str | None, before: object, value: object, *, filled: bool
) -> ReviewVerdict | None:
    """What the annotator said of a field, by word and by deed; None: nothing.

    A changed value says more than any word beside it: `right` and another text is a text that is right now.
    """
    if said is not None and as_verdict(said) is None:
        msg = f"{record.id}: {field}: verdict {said!r}; allowed: {', '.join(REVIEW_VERDICTS)}"
        raise ReviewError(msg)
    if field == "objects":
        # No boxes at all are an answer too.
        return "mended" if value != before else as_verdict(said)
    if value is not None and value != before:
        return "mended"
    if said is None and value is None and before is not None and filled:
        # What was shown was taken out, and nothing came in its place.
        return "wrong"
    return as_verdict(said)

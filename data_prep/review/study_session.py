"""The user study on the review page, as JSON objects in and out; no HTTP here."""

from __future__ import annotations

import hashlib
import threading

from data_prep.review.decisions import ReviewError
from data_prep.review.log import ReviewLog, StaleError
from data_prep.review.messages import RequestBody, RouteHandler, Saved, StudyImage, StudyOrder, StudyOverview, StudyUndone
from data_prep.review.session import check_name
from data_prep.review.study import (
    STUDY_QUESTIONS,
    StudyConfig,
    StudyItem,
    add_answer,
    answers,
    open_study,
    study_order,
    study_version,
    undo_answer,
)
from data_prep.store.store import Store
from emo_lightning.core.foreign import integer_of, object_of


class StudySession:
    """The user study: one participant at a time says who they are (or `participant` does) and answers in an order of their own."""

    mode = "study"

    def __init__(self, store: Store, log: ReviewLog, config: StudyConfig, participant: str | None = None) -> None:
        self.store, self.log, self.config = store, log, config
        self.participant = check_name(participant, "--reviewer") if participant is not None else None
        self.items = open_study(log, config)
        self._keys = {self._key(item.item_id): item.item_id for item in self.items}
        self._sizes: dict[str, list[int]] = {
            item_id: size for item_id, *size in log.query("SELECT id, width, height FROM items")
        }
        self._write = threading.Lock()
        self.routes: dict[str, RouteHandler] = {
            "session": self.overview,
            "order": self.order,
            "answer": self.answer,
            "undo": self.undo,
        }

    def overview(self, _: RequestBody) -> StudyOverview:
        """What the start page needs; datasets are not named, so that nobody answers for a name."""
        return {
            "mode": self.mode,
            "participant": self.participant,
            "points": self.config.points,
            "questions": STUDY_QUESTIONS,
            "count": len(self.items),
        }

    def order(self, request: RequestBody) -> StudyOrder:
        """Everything that one participant is asked, in their order, with what they answered so far."""
        who, order = self._order(request)
        version = study_version(self.log, self.config.name, who)
        given = answers(self.log, self.config.name, who)
        rows: list[StudyImage] = []
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
        return {"participant": who, "items": rows, "version": version}

    def answer(self, request: RequestBody) -> Saved:
        """Save one answer to the image at `position` of the participant's order, unless it was given elsewhere since."""
        who, order = self._order(request)
        position = request.get("position")
        if not isinstance(position, int) or isinstance(position, bool) or not 0 <= position < len(order):
            msg = f"position {str(position)[:60]!r}; allowed: 0–{len(order) - 1}"
            raise ReviewError(msg)
        item, shown, saved = order[position], request.get("shown"), True
        seen = None if shown is None else object_of(shown, "shown", ReviewError)
        with self._write:
            try:
                add_answer(self.log, self.config, who, item, request.get("question"), request.get("answer"), seen)
            except StaleError:
                saved = False
            # Before the answers are read: of one that comes between, the page knows too little and not too much.
            version = study_version(self.log, self.config.name, who)
            given = answers(self.log, self.config.name, who)
        keys = {question: (who, item.group, item.item_id, question) for question in item.questions}
        stand = {question: given[key][1] for question, key in keys.items() if key in given}
        return {"saved": saved, "answers": stand, "version": version}

    def undo(self, request: RequestBody) -> StudyUndone:
        """Take back the participant's last answer, unless one was given elsewhere since; its position, or null."""
        who, order = self._order(request)
        version = request.get("version")
        seen = None if version is None else integer_of(version, "version", ReviewError, low=0)
        with self._write:
            try:
                taken = undo_answer(self.log, self.config, who, seen)
            except StaleError:
                return {"undone": None, "conflict": True}
        positions = [i for i, item in enumerate(order) if (item.group, item.item_id) == taken]
        return {"undone": positions[0] if positions else None}

    def image(self, key: str) -> tuple[bytes, str]:
        """Bytes and extension of an image of the study."""
        if key not in self._keys:
            msg = f"{key!r} is not in this study"
            raise ReviewError(msg)
        for sha256, extension in self.log.query("SELECT sha256, extension FROM items WHERE id = ?", (self._keys[key],)):
            return self.store.image(sha256, extension), str(extension)
        msg = f"{key!r} is no longer in the store"
        raise ReviewError(msg)

    def _order(self, request: RequestBody) -> tuple[str, list[StudyItem]]:
        who = self.participant or check_name(request.get("participant"), "participant")
        return who, study_order(self.config, self.items, who)

    @staticmethod
    def _key(item_id: str) -> str:
        # An id often begins with the name of its dataset.
        return hashlib.sha256(item_id.encode()).hexdigest()[:24]

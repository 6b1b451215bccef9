"""The user study of Table 4 (paper section 4.2.2): groups of images from several datasets, three questions, many participants."""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_prep.review.decisions import Review, reviewed
from data_prep.review.log import ReviewLog, StaleError
from data_prep.review.messages import StudyRow
from data_prep.settings import shipped
from data_prep.store.rows import stored_json
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import read_yaml
from emo_lightning.core.intervals import student_margin
from emo_lightning.core.records import Record, describe

STUDY_QUESTIONS = {
    "arousal": "Does this image evoke an emotion in you?",
    "emotion": "Is the emotion label accurate for this image?",
    "context": "Is the background annotation accurate for this image?",
}
"""By name, in the order asked; `context` only in groups that have such an annotation."""


class StudyError(InputError):
    """A study cannot be run as configured; the message names the file or study, the key, what was found and what is allowed."""


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupConfig(_Config):
    """Images of one dataset, and which of its annotations the participants judge."""

    name: str = Field(min_length=1)
    """Row of the table; participants never see it."""
    source: str | None = None
    """Source name of the images in the store; null takes all of them."""
    images: int = Field(default=50, ge=1)
    """How many are shown."""
    annotations: Literal["source", "record"] = "source"
    """source: what the dataset itself says (labels kept at import); record: what the pass made of it (valid records alone)."""
    emotion: str = "emotion"
    """Key of the emotion label."""
    context: str | None = None
    """Key of the background annotation; null: the dataset has none, and the third question is not asked."""


class StudyConfig(_Config):
    """A whole study."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Of the study in the ledger: letters, digits, _ and -."""
    seed: int = 0
    """Decides which images are chosen, and the order in which each participant sees them."""
    points: int = Field(default=2, ge=2, le=7)
    """2: no or yes; more: a scale from 1 (not at all) to `points` (entirely)."""
    groups: list[GroupConfig] = Field(min_length=1)
    """Rows of the table, each with another name."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            msg = f"groups need different names, found {names}"
            raise ValueError(msg)
        return self

    @classmethod
    def load(cls, path: str | Path) -> StudyConfig:
        """Read a YAML file.

        Raises:
            StudyError: no such file, not YAML, unknown or wrong key.
        """
        try:
            return cls.model_validate(read_yaml(shipped(path), StudyError))
        except ValidationError as error:
            msg = f"{path}: {describe(error)}"
            raise StudyError(msg) from None


@dataclass(frozen=True)
class StudyItem:
    """One image of a study, with what participants are shown; fixed when the study starts."""

    item_id: str
    group: str
    emotion: str
    context: str | None

    @property
    def questions(self) -> tuple[str, ...]:
        """Names of the questions that are asked of it."""
        return tuple(name for name in STUDY_QUESTIONS if name != "context" or self.context is not None)


def open_study(log: ReviewLog, config: StudyConfig) -> list[StudyItem]:
    """The images of a study: chosen by the seed and written down when it starts, the same for every participant ever after.

    Raises:
        StudyError: a group has too few images with the annotations that it names, or the store holds a study of the same name that
            was configured otherwise.
    """
    text = config.model_dump_json()
    for stored, items in log.query("SELECT config, items FROM studies WHERE name = ?", (config.name,)):
        if stored != text:
            msg = f"study {config.name!r}: it was started with another configuration ({stored}); give this one a new name"
            raise StudyError(msg)
        return [StudyItem(**item) for item in stored_json(items, f"study {config.name!r}", list)]
    chosen = [item for group in config.groups for item in _choose(log, config, group)]
    items = json.dumps([vars(item) for item in chosen], ensure_ascii=False)
    log.write([("INSERT INTO studies VALUES (?, ?, ?, ?)", (config.name, text, items, time.time()))])
    return chosen


def _choose(log: ReviewLog, config: StudyConfig, group: GroupConfig) -> list[StudyItem]:
    found = list(_annotated(log, group))
    if len(found) < group.images:
        key = f"emotion key {group.emotion!r}" + (f", context key {group.context!r}" if group.context else "")
        msg = (
            f"study {config.name!r}, group {group.name!r}: {group.images} images wanted, the store has {len(found)} of source "
            f"{group.source or 'any'!r} with {group.annotations} annotations ({key})"
        )
        raise StudyError(msg)
    # By rank, not by position: images that are imported later change little of the choice. By a rank of the group's own: otherwise a
    # group that takes images of every source would choose those that the others chose, and everybody would see them twice.
    found.sort(key=lambda item: hashlib.sha256(f"{config.seed}\0{group.name}\0{item.item_id}".encode()).digest())
    return found[: group.images]


def _annotated(log: ReviewLog, group: GroupConfig) -> list[StudyItem]:
    if group.annotations == "source":
        found = [(i.id, i.labels.get(group.emotion), i.labels.get(group.context or "")) for i in log.items(group.source)]
    else:
        found = []
        reviews: dict[str, list[Review]] = {}
        for row in log.reviews():
            reviews.setdefault(row.item_id, []).append(row)
        for item, outcome in log.outcomes(group.source):
            after = reviewed(outcome, reviews.get(item.id, []))
            if after.state == "valid":
                record = Record.from_json(after.record, f"outcome of {item.id}").model_dump(mode="json")
                found.append((item.id, record.get(group.emotion), record.get(group.context or "")))
    return [
        StudyItem(item_id, group.name, str(emotion), str(context) if group.context else None)
        for item_id, emotion, context in found
        if emotion and (context or not group.context)
    ]


def study_order(config: StudyConfig, items: list[StudyItem], participant: str) -> list[StudyItem]:
    """All groups mixed, in an order of the participant's own, the same whenever the page is opened again."""
    seed = hashlib.sha256(f"{config.seed}\0{config.name}\0{participant}".encode()).digest()
    order = sorted(items, key=lambda item: (item.group, item.item_id))
    random.Random(seed).shuffle(order)
    return order


AnswerKey = tuple[str, str, str, str]
"""(participant, group, item, question): one image may stand in two groups, e.g. with its own label and with ours."""


def answers(log: ReviewLog, study: str, participant: str | None = None) -> dict[AnswerKey, tuple[int, int]]:
    """Standing answers as (row, answer): the last one counts, those taken back do not."""
    sql = "SELECT id, participant, grp, item_id, question, answer, undoes FROM study_answers WHERE study = ?"
    values = [study]
    if participant is not None:
        sql, values = f"{sql} AND participant = ?", [study, participant]
    rows = log.query(f"{sql} ORDER BY id", values)
    gone = {undoes for *_, undoes in rows if undoes is not None}
    found: dict[AnswerKey, tuple[int, int]] = {}
    for place, who, group, item_id, question, answer, undoes in rows:
        if undoes is None and place not in gone:
            found.pop((who, group, item_id, question), None)
            found[who, group, item_id, question] = (place, answer)
    return found


def add_answer(
    log: ReviewLog,
    config: StudyConfig,
    participant: str,
    item: StudyItem,
    question: object,
    answer: object,
    seen: Mapping[str, object] | None = None,
) -> None:
    """Add one answer, 1–`points`.

    Args:
        log: opened for writing.
        config: of the study.
        participant: who answers.
        item: about what.
        question: which of its questions.
        answer: 1–`points`.
        seen: the answers to the image that the page shows; None where there is no page.

    Raises:
        StaleError: the answer that stands is not the one that was seen; nothing was added.
        StudyError: the question is not asked of this image, or the answer is not on the scale.
    """
    if not isinstance(question, str) or question not in item.questions:
        msg = f"{item.item_id}: question {question!r}; allowed: {', '.join(item.questions)}"
        raise StudyError(msg)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 1 <= answer <= config.points:
        msg = f"{item.item_id}: answer {answer!r} to {question!r}; allowed: 1–{config.points}"
        raise StudyError(msg)
    key = (participant, item.group, item.item_id, question)

    def check() -> None:
        if seen is not None and answers(log, config.name, participant).get(key, (0, None))[1] != seen.get(question):
            raise StaleError

    _insert(log, config.name, key, answer, None, check)


def study_version(log: ReviewLog, study: str, participant: str) -> int:
    """The place of a participant's last row, 0 where there is none; it only grows."""
    sql = "SELECT coalesce(max(id), 0) FROM study_answers WHERE study = ? AND participant = ?"
    return int(log.query(sql, (study, participant))[0][0])


def undo_answer(log: ReviewLog, config: StudyConfig, participant: str, seen: int | None = None) -> tuple[str, str] | None:
    """Take back the participant's last answer; the (group, item) that it was about, None if there is none.

    Args:
        log: opened for writing.
        config: of the study.
        participant: whose.
        seen: the `study_version` that the page knows; None where there is no page.

    Raises:
        StaleError: there is an answer that the page does not know; nothing was taken back.
    """
    version = study_version(log, config.name, participant)
    if seen is not None and seen != version:
        raise StaleError
    given = answers(log, config.name, participant)
    if not given:
        return None
    key, (place, _) = max(given.items(), key=lambda entry: entry[1][0])

    def check() -> None:
        if study_version(log, config.name, participant) != version:
            raise StaleError

    _insert(log, config.name, key, None, place, check)
    return key[1], key[2]


def _insert(
    log: ReviewLog, study: str, key: AnswerKey, answer: int | None, undoes: int | None, check: Callable[[], None] | None = None
) -> None:
    sql = (
        "INSERT INTO study_answers (study, participant, grp, item_id, question, answer, time, undoes) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    )
    log.write([(sql, (study, *key, answer, time.time(), undoes))], check)


def table4(log: ReviewLog, config: StudyConfig) -> dict[str, dict[str, StudyRow | None]]:
    """Table 4: {group: {question: row}}, null where the question is not asked.

    A row has `mean` in percent (yes = 100; on a longer scale 1 = 0 and `points` = 100), `low` and `high` (95 % interval), and the
    numbers of answers, participants and images. Answers of one person are not independent, so the interval is Student's t over the
    participants' own means; with one participant there is none.
    """
    items = open_study(log, config)
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    images: dict[tuple[str, str], set[str]] = {}
    for (who, group_name, item_id, question), (_, answer) in answers(log, config.name).items():
        key = (group_name, question)
        values.setdefault(key, {}).setdefault(who, []).append(100 * (answer - 1) / (config.points - 1))
        images.setdefault(key, set()).add(item_id)
    asked = Counter((item.group, question) for item in items for question in item.questions)
    return {
        group.name: {
            question: _row(values.get((group.name, question), {}), len(images.get((group.name, question), ())))
            if asked[group.name, question]
            else None
            for question in STUDY_QUESTIONS
        }
        for group in config.groups
    }


def _row(by_participant: dict[str, list[float]], images: int) -> StudyRow:
    given = [value for values in by_participant.values() for value in values]
    mean = math.fsum(given) / len(given) if given else None
    low = high = None
    if mean is not None and len(by_participant) > 1:
        means = [math.fsum(values) / len(values) for values in by_participant.values()]
        centre = math.fsum(means) / len(means)
        deviation = math.sqrt(math.fsum((m - centre) ** 2 for m in means) / (len(means) - 1) / len(means))
        half = student_margin(deviation, len(means))
        low, high = max(0.0, mean - half), min(100.0, mean + half)
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "answers": len(given),
        "participants": len(by_participant),
        "images": images,
    }

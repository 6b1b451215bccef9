"""The JSON that the review page, Label Studio and the reports exchange: a type for every object, whose keys are its fields.

What comes from outside is a `RequestBody`: nothing of it is believed before it was checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NotRequired, TypedDict

RequestBody = Mapping[str, object]
"""A JSON object that somebody sent."""

RouteHandler = Callable[[RequestBody], Mapping[str, object]]
"""Answers `POST api/NAME`: a JSON object in, a JSON object out."""


class MaskJSON(TypedDict):
    """`records.Mask`."""

    size: list[int]
    counts: str


class RegionJSON(TypedDict):
    """`records.GroundedObject`."""

    phrase: str
    bbox: list[float]
    score: float
    mask: MaskJSON | None
    primary: bool


class QueueEntry(TypedDict):
    """One record of a sample."""

    id: str
    state: str


class ReviewOverview(TypedDict):
    """Answer of `api/session` in a review."""

    mode: str
    reviewer: str
    emotions: list[str]
    fields: list[str]
    queue: list[QueueEntry]
    done: list[str]
    """Ids of the records that this reviewer has finished."""


class ShownDecision(TypedDict):
    """What this reviewer has said of a field."""

    verdict: str
    value: object


class ShownRecord(TypedDict):
    """A record as the page shows it: `records.Record` without what would tell where the image is from."""

    width: int
    height: int
    description: str | None
    background: str | None
    attribute: str | None
    subject: str | None
    emotion: str | None
    emotion_scores: dict[str, float] | None
    confidence: float | None
    intensity: int | None
    intensity_level: str | None
    objects: list[RegionJSON]
    provenance: dict[str, object]


class ShownItem(TypedDict):
    """Answer of `api/item` and `api/decide`."""

    id: str
    state: str
    record: ShownRecord
    digest: str
    """Of the record and of this reviewer's decisions, as shown; a decision names it, so that no page decides on what it has not seen."""
    candidates: list[RegionJSON]
    """Boxes that grounding or the source ever gave for the image."""
    decisions: dict[str, ShownDecision]
    discarded: bool
    done: bool
    version: int
    """The reviewer's last row about any record; an undo names it."""
    conflict: NotRequired[list[str]]
    """Answer of `api/decide`: nothing was saved, since these fields were decided elsewhere (another tab, or somebody of the same name)
    after this page had shown the record."""


class Undone(TypedDict):
    """Answer of `api/undo` in a review."""

    undone: str | None
    """The item; null where nothing was left."""
    fields: NotRequired[list[str]]
    conflict: NotRequired[bool]
    """Nothing was taken back: something was decided elsewhere that this page does not show."""


class StudyOverview(TypedDict):
    """Answer of `api/session` in a user study; it does not name the data sets."""

    mode: str
    participant: str | None
    points: int
    questions: dict[str, str]
    count: int


class StudyImage(TypedDict):
    """One image of a participant's order."""

    image: str
    size: list[int]
    """Width and height."""
    emotion: str
    context: str | None
    questions: list[str]
    answers: dict[str, int]
    """By question, as far as they were given."""


class StudyOrder(TypedDict):
    """Answer of `api/order`."""

    participant: str
    items: list[StudyImage]
    version: int
    """The participant's last row; an undo names it."""


class Saved(TypedDict):
    """Answer of `api/answer`."""

    saved: bool
    """False: the answer was given elsewhere since, and stays as it is."""
    answers: dict[str, int]
    """To this image, as they stand."""
    version: int
    """As in `StudyOrder`."""


class StudyUndone(TypedDict):
    """Answer of `api/undo` in a user study."""

    undone: int | None
    """Position in the order; null where nothing was left."""
    conflict: NotRequired[bool]
    """Nothing was taken back: something was answered elsewhere that this page does not show."""


class StudyRow(TypedDict):
    """One cell of Table 4."""

    mean: float | None
    """Percent."""
    low: float | None
    high: float | None
    """The 95 % interval, percent; null with fewer than two participants."""
    answers: int
    participants: int
    images: int


class RaterAgreement(TypedDict):
    """How far reviewers agree about a field."""

    reviewers: int
    n: int
    """Items that at least two of them rated."""
    observed: float | None
    kappa: float | None
    kind: Literal["cohen", "fleiss"] | None


class Accuracy(TypedDict):
    """How often a field of the records is right, by the reviewers' word."""

    n: int
    right: int
    accuracy: float | None
    low: float
    high: float
    """The 95 % interval."""
    weighted: float | None
    """By the sizes of the strata (source × emotion) in the store."""


class ReviewerCounts(TypedDict):
    """What one reviewer has done."""

    items: int
    decisions: int


class ReviewReport(TypedDict):
    """Everything that the reviews of a store say; see `agreement.report`."""

    reviewers: dict[str, ReviewerCounts]
    outcomes: dict[str, dict[str, int]]
    accuracy: dict[str, dict[str, Accuracy]]
    agreement: dict[str, RaterAgreement]

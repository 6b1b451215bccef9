"""What a source says of its images: the keys of `SourceItem.labels`, and the maps from each source's words to the eight.

Labels are mapped by name, never by index. A word that a source does not document is refused; a documented word without an
equal among the eight leaves the image without a label, so that it is annotated anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from data_prep.sources.base import RefusedError
from data_prep.store.items import is_labelled
from emo_lightning.core.records import EMOTIONS, Emotion, GroundedObject, IntensityLevel, Rating, Record, SchemaError, Votes

if TYPE_CHECKING:
    from data_prep.store.rows import Item


class SourceLabels(TypedDict, total=False):
    """Keys of `SourceItem.labels`; a key that a source does not know is absent. Everything is JSON."""

    emotion: str
    """The category, one of the eight."""
    emotion_scores: dict[str, float]
    """Distribution over the eight, from people's votes; all eight keys, sum 1."""
    emotion_raw: str
    """The source's own word, lower case."""
    emotion_scores_raw: dict[str, float]
    """Distribution over the source's own categories, sum 1 (whatever the source calls neutral or other included)."""
    votes: int
    """People behind the distribution."""
    valence: float
    """Mean of what people said, on the source's own scale (`SCALES`)."""
    arousal: float
    """The same."""
    dominance: float
    """The same."""
    valence_std: float
    """Standard deviation over the people, on the same scale, where it is published."""
    arousal_std: float
    """The same."""
    dominance_std: float
    """The same."""
    choices: list[list[str]]
    """What each person chose, in the source's words (ArtEmis)."""
    chosen: dict[str, int]
    """How many chose each word, where what each person chose is not published (MultiEmo-Bench)."""
    raters: int
    """How many people, where it is published."""
    questions: list[dict[str, object]]
    """What a suite asks of the image: id, task, question or prompt, candidates and the right answer."""
    valence_level: str
    """negative | positive (EmoArt, VECBench's tasks with two answers)."""
    arousal_level: str
    """low | high (EmoArt)."""
    intensity_level: IntensityLevel
    """low | medium | high (FindingEmo: the leaf of Plutchik's wheel)."""
    captions: list[str]
    """Sentences of people about the image (Flickr30k captions, ArtEmis utterances)."""
    description: str
    """The source's own description (EmoArt, EmoVerse)."""
    background: str
    attribute: str
    subject: str
    """With the two before: the triplet (EmoVerse)."""
    confidence_raw: float
    """EmoVerse's field of 1–10, which serves confidence in some records and intensity in others: taken as neither."""
    des: list[float]
    """The published emotion embedding (EmoVerse), shape (1024,)."""
    attributes: dict[str, object]
    """What else the source says, by its own names."""


SCALES: dict[str, dict[str, tuple[float, float]]] = {
    "emotion6": {"valence": (1, 9), "arousal": (1, 9)},
    "findingemo": {"valence": (-3, 3), "arousal": (0, 6)},
    "eemo_bench": {"valence": (1, 9), "arousal": (1, 9), "dominance": (1, 9)},
}
"""Source -> where the scale of each rating begins and ends."""

EMOART: dict[str, Emotion | None] = {
    "alarmed": Emotion.FEAR,
    "annoyed": Emotion.ANGER,
    "aroused": None,
    "bored": None,
    "calm": Emotion.CONTENTMENT,
    "content": Emotion.CONTENTMENT,
    "contentment": Emotion.CONTENTMENT,
    "excited": Emotion.EXCITEMENT,
    "frustrated": None,
    "glad": None,
    "happy": None,
    "sad": Emotion.SADNESS,
    "tired": None,
}
"""EmoArt's twelve (and a spelling of one). Strict and partial: None has no equal among the eight. There is no official map."""

EKMAN: dict[str, Emotion | None] = {
    "anger": Emotion.ANGER,
    "disgust": Emotion.DISGUST,
    "fear": Emotion.FEAR,
    "joy": None,
    "sadness": Emotion.SADNESS,
    "surprise": None,
}
"""Emotion6's six. Joy could be any of four of the eight and surprise is none of them, so neither has a label here."""

UNBIASED: dict[str, Emotion | None] = {
    "anger": Emotion.ANGER,
    "fear": Emotion.FEAR,
    "joy": None,
    "love": None,
    "sadness": Emotion.SADNESS,
    "surprise": None,
}
"""UnbiasedEmo's six."""

MIKELS: dict[str, Emotion | None] = {**{str(e): e for e in EMOTIONS}, "content": Emotion.CONTENTMENT, "sad": Emotion.SADNESS}
"""The eight, and two as Artphoto and Abstract spell them."""

SOMETHING_ELSE = "something else"
"""ArtEmis' ninth choice."""

_PLUTCHIK_FAMILIES = {
    "joy": ("ecstasy", "joy", "serenity"),
    "trust": ("admiration", "trust", "acceptance"),
    "fear": ("terror", "fear", "apprehension"),
    "surprise": ("amazement", "surprise", "distraction"),
    "sadness": ("grief", "sadness", "pensiveness"),
    "disgust": ("loathing", "disgust", "boredom"),
    "anger": ("rage", "anger", "annoyance"),
    "anticipation": ("vigilance", "anticipation", "interest"),
}
_LEVELS: tuple[IntensityLevel, ...] = ("high", "medium", "low")

PLUTCHIK: dict[str, tuple[str, IntensityLevel]] = {
    leaf: (family, level) for family, leaves in _PLUTCHIK_FAMILIES.items() for leaf, level in zip(leaves, _LEVELS, strict=True)
}
"""FindingEmo's 24 leaves: (family, intensity level). They say what the people in the picture express, not what it evokes:
there is no map to the eight."""


def category(word: str) -> str:
    """One of the eight by its name.

    Raises:
        RefusedError: it is none of them.
    """
    try:
        return str(Emotion.parse(word))
    except SchemaError as error:
        raise RefusedError(str(error)) from None


def translate(word: str, table: Mapping[str, Emotion | None]) -> str | None:
    """The equal of a source's word among the eight, None where it has none.

    Raises:
        RefusedError: the word is not in the table.
    """
    key = word.strip().lower()
    if key not in table:
        msg = f"unknown emotion {word!r}; allowed: {', '.join(table)}"
        raise RefusedError(msg)
    found = table[key]
    return None if found is None else str(found)


def top(votes: Mapping[str, float]) -> str | None:
    """The most voted key; None on a tie or without votes."""
    best = max(votes.values(), default=0)
    winners = [key for key, count in votes.items() if count == best]
    return winners[0] if best > 0 and len(winners) == 1 else None


def shares(votes: Mapping[str, float]) -> dict[str, float]:
    """Votes as a distribution, rounded to six digits; there must be some."""
    total = sum(votes.values())
    return {key: round(count / total, 6) for key, count in votes.items()}


def over_the_eight(votes: Mapping[str, float]) -> dict[str, float]:
    """Votes on some of the eight as a distribution over all of them, in the order of `EMOTIONS`."""
    return shares({str(emotion): votes.get(str(emotion), 0.0) for emotion in EMOTIONS})


def said_by_people(item: Item) -> dict[str, Rating | Votes]:
    """Ratings and votes of a record, as the source has them; without what it has not."""
    labels = item.labels
    found: dict[str, Rating | Votes] = {
        dimension: Rating.model_validate(
            {"mean": labels[dimension], "std": labels.get(f"{dimension}_std"), "low": low, "high": high}
        )
        for dimension, (low, high) in SCALES.get(item.source, {}).items()
        if dimension in labels
    }
    choices, counts = labels.get("choices"), labels.get("chosen")
    if isinstance(choices, list) and choices:
        found["votes"] = Votes.of_choices(choices)
    elif counts:
        found["votes"] = Votes.model_validate({"counts": counts, "raters": labels.get("raters")})
    return found


_OTHER_LABELS = ("emotion_scores_raw", "intensity_level", "valence_level", "arousal_level", "questions")
"""Labels with which an image may be compared in another space than the eight, or asked about."""


def _says_something(item: Item) -> bool:
    """Whether people, or a suite, say something of what an image evokes."""
    labels = item.labels
    # FI's word is the one that people were asked about: where they did not agree nobody has said it.
    own_word = labels.get("emotion_raw") if item.source != "fi" else None
    return bool(is_labelled(labels) or own_word or any(labels.get(key) for key in _OTHER_LABELS) or said_by_people(item))


def source_record(item: Item) -> Record | None:
    """An item as its source labels it, for evaluation against the source; nothing of an annotation is in it.

    Args:
        item: of the ledger; `labels` as in `SourceLabels`.

    Returns:
        A record with emotion, emotion_scores, intensity_level and, where the source has them, description, triplet, DES and
        regions; with people's ratings and votes; its split is the source's, or "" where it has none. None where neither people nor a suite
        say anything of the emotion: no word, level, rating or vote, and no question with its answer. What is none of the eight may be
        compared in a label space of its own (`emo_lightning.analysis.label_spaces`).
    """
    labels = item.labels
    if not _says_something(item):
        return None
    keys = ("description", "background", "attribute", "subject", "emotion", "emotion_scores", "intensity_level", "des")
    provenance = {
        "licence": item.licence,
        "origin": item.origin,
        "labels_from": "source",
        "source_labels": {key: value for key, value in labels.items() if key != "des"},
    }
    return Record.model_validate(
        {
            "id": item.id,
            "source": item.source,
            "width": item.width,
            "height": item.height,
            "sha256": item.sha256,
            "split": item.split or "",
            "objects": [GroundedObject.model_validate(region) for region in item.regions],
            "provenance": provenance,
            **{key: labels[key] for key in keys if key in labels},
            **said_by_people(item),
        }
    )

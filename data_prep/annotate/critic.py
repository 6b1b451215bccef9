"""What the critic is shown, and what its reply means for an annotation (paper section 3.2). Pure functions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from data_prep.annotate.prompts import CRITIC_PROMPT
from data_prep.annotate.replies import CriticReply, FullAnnotation
from data_prep.annotate.voting import Pool
from emo_lightning.core.records import Emotion, intensity_level

Verdict = Literal["valid", "revisable", "discarded"]


@dataclass(frozen=True)
class Draft:
    """An annotation as it stands between two rounds."""

    description: str
    background: str
    attribute: str
    subject: str
    intensity: int
    pool: Pool
    contested: bool
    """The votes were closer than the margin: the critic decides the emotion."""


@dataclass(frozen=True)
class Judgement:
    """The critic's reply, read."""

    verdict: Verdict
    flagged: tuple[str, ...]
    """Fields to revise: description, triplet, emotion, intensity."""
    instructions: str
    emotion: Emotion
    """The emotion to keep: the pooled one, or the critic's where the pool left it open."""


def critic_prompt(draft: Draft, revision: int) -> str:
    """The prompt for one draft after `revision` revisions; the intensity is shown as a level alone."""
    shown = {
        "description": draft.description,
        "background": draft.background,
        "attribute": draft.attribute,
        "subject": draft.subject,
        "emotion": str(draft.pool.emotion),
        "intensity_level": intensity_level(draft.intensity),
    }
    # Two decimals are enough to judge by, and keep the prompt (hence the cache key) free of the last bits of floats.
    scores = sorted(((round(p, 2), str(e)) for e, p in draft.pool.scores.items()), key=lambda s: (-s[0], s[1]))
    votes = {e: p for p, e in scores[:3]} | {"contested": draft.contested}
    note = "; the annotators have looked again since the last one" if revision else ""
    return CRITIC_PROMPT.format(
        annotation=json.dumps(shown, ensure_ascii=False), votes=json.dumps(votes), inspection=revision + 1, note=note
    )


def judge(draft: Draft, reply: CriticReply) -> Judgement:
    """The verdict for a draft.

    The fields decide between valid and revisable; only `overall` can discard. In a contested pool the critic's own emotion is
    taken if it is one of the two that lead; another one is a reason to revise.
    """
    flagged = reply.flagged()
    emotion = draft.pool.emotion
    if draft.contested:
        second = max((e for e in draft.pool.scores if e is not emotion), key=draft.pool.scores.__getitem__)
        if reply.emotion in (emotion, second):
            emotion = reply.emotion
            flagged = tuple(field for field in flagged if field != "emotion")
        elif "emotion" not in flagged:
            flagged = (*flagged, "emotion")
    verdict: Verdict = "discarded" if reply.overall == "discarded" else "revisable" if flagged else "valid"
    return Judgement(verdict, flagged, reply.instructions, emotion)


def merge(previous: FullAnnotation, new: FullAnnotation, flagged: tuple[str, ...]) -> FullAnnotation:
    """Only what was criticised changes: a second look must not spoil what was right."""
    update: dict[str, object] = {}
    if "description" in flagged:
        update["description"] = new.description
    if "triplet" in flagged:
        update |= {"background": new.background, "attribute": new.attribute, "subject": new.subject}
    if "emotion" in flagged:
        update |= {"emotion": new.emotion, "confidence": new.confidence}
    if "intensity" in flagged:
        update["intensity"] = new.intensity
    return previous.model_copy(update=update)

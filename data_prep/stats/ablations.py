"""What the pass would have made of an image with a component switched off, from the replies that it has (Table 3, left half)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_prep.annotate.critic import Draft, Judgement, judge
from data_prep.annotate.replies import CriticReply, EmotionVote, FullAnnotation
from data_prep.annotate.voting import Pool, Vote, pool, pooled_intensity
from data_prep.config import PrepConfig
from data_prep.emovit.vote import DistributionVote
from data_prep.grounding import backend_key, cut, missing_regions, store_regions
from data_prep.store.provenance import annotator_replies, critic_replies, pool_summary
from data_prep.store.rows import Item, stored_json
from data_prep.store.store import Store
from emo_lightning.core.records import Box, Emotion, GroundedObject, Record


def first_draft(record: Record, config: PrepConfig) -> Draft | None:
    """The cross-verified annotation before the critic saw it ("w/o critic"); None if no annotator gave a whole one."""
    full: dict[str, FullAnnotation] = {}
    votes: dict[str, Vote] = {}
    for row in annotator_replies(record):
        reply = row.get("reply")
        if row["round"] == 0 and isinstance(reply, dict):
            name = row["annotator"]
            if "description" in reply:
                votes[name] = full[name] = FullAnnotation.model_validate(reply)
            elif isinstance(scores := reply.get("scores"), dict):
                votes[name] = DistributionVote({Emotion(e): p for e, p in scores.items()})
            else:
                votes[name] = EmotionVote.model_validate(reply)
    if not full:
        return None
    weights = {a.name: a.weight for a in config.annotators} | {a.name: a.weight for a in config.local}
    preferred = config.preferred if config.preferred in full else next(a.name for a in config.annotators if a.name in full)
    text, pooled = full[preferred], pool(votes, weights)
    return Draft(
        text.description,
        text.background,
        text.attribute,
        text.subject,
        pooled_intensity(full, weights),
        pooled,
        pooled.margin < config.margin,
    )


def first_judgement(record: Record, draft: Draft) -> Judgement | None:
    """What the critic said of the first draft; None if it gave no valid reply."""
    rounds = critic_replies(record)
    if not rounds:
        return None
    return judge(draft, CriticReply.model_validate({key: value for key, value in rounds[0].items() if key != "verdict"}))


def final_draft(record: Record, margin: float) -> Draft | None:
    """A record as a draft, so that the critic can be asked about it anew; None where something is missing."""
    if record.emotion is None or record.triplet is None or record.description is None or record.intensity is None:
        return None
    shares = record.emotion_distribution() or []
    scores = dict(zip(type(record.emotion), shares, strict=True))
    first, second = sorted(shares, reverse=True)[:2]
    summary = pool_summary(record)
    agreement = 1.0 if summary is None else float(summary.get("agreement", 1.0))
    pooled = Pool(scores, record.emotion, scores[record.emotion], first - second, {record.emotion: agreement})
    return Draft(
        record.description,
        record.background or "",
        record.attribute or "",
        record.subject or "",
        record.intensity,
        pooled,
        pooled.margin < margin,
    )


def flags(judgement: Judgement, draft: Draft, field: str) -> bool:
    """Whether the critic objects to a field: it flags it, discards the whole, or decides for another emotion."""
    if judgement.verdict == "discarded" or field in judgement.flagged:
        return True
    return field == "emotion" and judgement.emotion is not draft.pool.emotion


def single_annotator(config: PrepConfig) -> PrepConfig:
    """The pass without cross-verification: the preferred annotator alone; the critic stays."""
    return config.model_copy(update={"annotators": [a for a in config.annotators if a.name == config.preferred]})


def boxes(store: Store, config: PrepConfig, wanted: Sequence[tuple[Item, str]]) -> Mapping[tuple[str, str], Box | None]:
    """The best box for (item, phrase), found before or found now and kept; None where there is no candidate from the cut on.

    Args:
        store: opened for writing.
        config: its `grounding` part; with the backend `none` the result is empty.
        wanted: pairs; an empty phrase has no box.
    """
    grounding = config.grounding
    if grounding.backend == "none":
        return {}
    key_of = backend_key(grounding)
    for _ in store_regions(store, grounding, missing_regions(store, wanted, key_of)):
        pass
    best: dict[tuple[str, str], Box | None] = {}
    for item, phrase in wanted:
        stored = store.ledger.grounding(item.sha256, phrase, key_of(item)) if phrase else None
        objects = cut(
            [GroundedObject.model_validate(o) for o in stored_json(stored or "[]", f"regions of {item.id!r}", list)],
            grounding.cut,
        )
        best[item.id, phrase] = objects[0].bbox if objects else None
    return best

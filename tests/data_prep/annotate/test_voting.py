from __future__ import annotations

import math

import numpy as np
import pytest

from data_prep.annotate.critic import Draft, critic_prompt, judge, merge
from data_prep.annotate.replies import CriticReply, EmotionVote, FullAnnotation
from data_prep.annotate.voting import decided, pool, pooled_intensity, vote_distribution
from emo_lightning.core.records import EMOTIONS, Emotion

WEIGHTS = {"emovit": 0.4, "gemini": 0.3, "gpt": 0.3}


def vote(emotion: str, confidence: float) -> EmotionVote:
    return EmotionVote(emotion=Emotion(emotion), confidence=confidence)


def full(emotion: str = "awe", intensity: int = 5, **text: str) -> FullAnnotation:
    fields = {"description": "d", "background": "b", "attribute": "a", "subject": "s"} | text
    return FullAnnotation(emotion=Emotion(emotion), confidence=0.8, intensity=intensity, **fields)


def test_pool_equals_the_formula() -> None:
    votes = {"emovit": vote("fear", 0.7), "gemini": vote("awe", 0.6), "gpt": vote("fear", 0.5)}
    table = np.array([[v.confidence if e is v.emotion else (1 - v.confidence) / 7 for e in EMOTIONS] for v in votes.values()])
    weighted = np.exp((np.array([0.4, 0.3, 0.3])[:, None] * np.log(table)).sum(0))
    expected = weighted / weighted.sum()
    pooled = pool(votes, WEIGHTS)
    assert [pooled.scores[e] for e in EMOTIONS] == pytest.approx(expected.tolist(), abs=1e-12)
    assert pooled.emotion is Emotion.FEAR
    assert pooled.confidence == pytest.approx(expected.max())
    assert pooled.margin == pytest.approx(np.sort(expected)[-1] - np.sort(expected)[-2])
    assert pooled.agreement == pytest.approx(0.7)


def test_a_missing_voter_leaves_the_weights_of_the_others() -> None:
    votes = {"gemini": vote("awe", 0.6), "gpt": vote("awe", 0.6)}
    assert pool(votes, WEIGHTS).scores == pytest.approx(vote_distribution(votes["gpt"]))


def test_certainty_is_no_veto_and_doubt_no_vote_against() -> None:
    assert min(pool({"gpt": vote("awe", 1.0), "gemini": vote("fear", 1.0)}, WEIGHTS).scores.values()) > 0
    assert set(vote_distribution(vote("awe", 0.0)).values()) == {1 / 8}


def test_a_tie_goes_to_a_named_emotion_not_to_the_first_of_the_eight() -> None:
    pooled = pool({"gpt": vote("sadness", 0.125), "gemini": vote("sadness", 0.125)}, WEIGHTS)
    assert pooled.emotion is Emotion.SADNESS
    with pytest.raises(ValueError, match="no votes"):
        pool({}, WEIGHTS)


def test_the_heaviest_voter_wins_among_equals() -> None:
    votes = {"emovit": vote("anger", 0.6), "gemini": vote("awe", 0.6), "gpt": vote("fear", 0.6)}
    assert pool(votes, WEIGHTS).emotion is Emotion.ANGER


def test_intensity_is_rounded_half_up() -> None:
    assert pooled_intensity({"gpt": full(intensity=5), "gemini": full(intensity=6)}, WEIGHTS) == 6
    # 0.1 + 0.3 + 1.0 over 0.4 is 3.4999999999999996 in floats.
    three = {name: full(intensity=i) for name, i in (("a", 1), ("b", 3), ("c", 5))}
    assert pooled_intensity(three, {"a": 0.1, "b": 0.1, "c": 0.2}) == 4
    assert pooled_intensity({"gpt": full(intensity=10), "gemini": full(intensity=10)}, WEIGHTS) == 10


def test_the_critic_always_decides_a_contested_pool() -> None:
    rng = np.random.default_rng(0)
    seen = 0
    while seen < 300:
        votes = {name: vote(str(rng.choice(EMOTIONS)), float(rng.uniform(0.1, 1))) for name in WEIGHTS}
        pooled = pool(votes, WEIGHTS)
        if pooled.margin >= 0.5:
            continue
        seen += 1
        for emotion in sorted(pooled.scores, key=lambda e: -pooled.scores[e])[:2]:
            after = decided(pooled, emotion)
            assert max(after.scores, key=after.scores.__getitem__) is emotion
            assert math.isclose(sum(after.scores.values()), 1)
            assert after.margin == pooled.margin, "how close the votes were stays known"
            named = sum(WEIGHTS[name] for name, v in votes.items() if v.emotion is emotion)
            assert after.agreement == pytest.approx(named), "the weight behind the emotion that was chosen"


def draft(contested: bool = False) -> Draft:
    pooled = pool({"gpt": vote("fear", 0.6), "emovit": vote("awe", 0.6)}, WEIGHTS)
    return Draft("d", "b", "a", "s", 9, pooled, contested)


def reply(own: str = "awe", overall: str = "valid", **verdicts: str) -> CriticReply:
    fields = {f"{f}_verdict": verdicts.get(f, "valid") for f in ("description", "triplet", "emotion", "intensity")}
    steps = dict.fromkeys(("scene", "description_check", "triplet_check", "emotion_check", "instructions"), "")
    return CriticReply.model_validate({**steps, **fields, "emotion": own, "intensity_level": "high", "overall": overall})


def test_fields_decide_and_only_overall_discards() -> None:
    assert judge(draft(), reply()).verdict == "valid"
    assert judge(draft(), reply(overall="revisable")).verdict == "valid"
    assert judge(draft(), reply(triplet="revisable")).flagged == ("triplet",)
    assert judge(draft(), reply(triplet="revisable")).verdict == "revisable"
    assert judge(draft(), reply(overall="discarded")).verdict == "discarded"


def test_contested_emotions_are_the_critics_to_decide() -> None:
    assert judge(draft(True), reply("fear", emotion="revisable")).emotion is Emotion.FEAR
    assert judge(draft(True), reply("fear", emotion="revisable")).verdict == "valid"
    outside = judge(draft(True), reply("anger"))
    assert (outside.verdict, outside.flagged) == ("revisable", ("emotion",))
    assert judge(draft(False), reply("fear")).emotion is Emotion.AWE, "an accepted pool stands"


def test_the_critic_sees_a_level_never_the_number() -> None:
    prompt = critic_prompt(draft(), 0)
    assert '"intensity_level": "high"' in prompt
    assert '"intensity": 9' not in prompt


def test_only_flagged_fields_are_taken_over() -> None:
    old, new = full("awe", 5, subject="dog"), full("fear", 9, subject="cat", description="new")
    assert merge(old, new, ("description",)) == old.model_copy(update={"description": "new"})
    assert merge(old, new, ("triplet",)).subject == "cat"
    assert merge(old, new, ("emotion",)).emotion is Emotion.FEAR
    assert merge(old, new, ("intensity",)).intensity == 9

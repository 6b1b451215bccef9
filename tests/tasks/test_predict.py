"""What a prediction holds beside its words."""

from __future__ import annotations

import pytest

from emo_lightning.core.records import EMOTIONS, Emotion, Prediction
from emo_lightning.tasks.predict import add_emotion_scores


@pytest.mark.parametrize(("emotion", "confidence"), [("sadness", 0.2), (" Awe ", 0.6), ("joy", None), (None, None)])
def test_a_confidence_is_that_of_the_emotion_beside_it(emotion: str | None, confidence: float | None) -> None:
    """The words say sadness, the distribution awe: 0.6 is not the confidence of sadness."""
    scores = [0.6 if e is Emotion.AWE else 0.2 if e is Emotion.SADNESS else 0.2 / 6 for e in EMOTIONS]
    found = add_emotion_scores(Prediction(id="a", emotion=emotion), scores, 0.9)
    assert (found.confidence, found.emotion) == (confidence, emotion)
    assert found.emotion_scores == {str(e): score for e, score in zip(EMOTIONS, scores, strict=True)}

from __future__ import annotations

from emo_lightning.core.colours import EMOTION_COLOURS, EMOTION_MARKERS
from emo_lightning.core.records import EMOTIONS

VOID = {"meta", "br", "img", "link", "input", "hr"}


def test_every_emotion_has_its_own_colour_and_marker() -> None:
    assert len(set(EMOTION_COLOURS.values())) == len(set(EMOTION_MARKERS.values())) == len(EMOTIONS)

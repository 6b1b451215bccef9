"""Colours and markers of the eight emotions, the same in every picture."""

from __future__ import annotations

from emo_lightning.core.records import EMOTIONS

EMOTION_COLOURS: dict[str, str] = dict(
    zip(EMOTIONS, ("#E69F00", "#56B4E9", "#009E73", "#F0C808", "#D55E00", "#8C6D31", "#5B5BD6", "#CC79A7"), strict=True)
)
"""Okabe and Ito's colour-blind-safe set, its black (lost on a dark page) replaced by brown and its blue lightened."""

EMOTION_MARKERS: dict[str, str] = dict(zip(EMOTIONS, "os^DvpX*", strict=True))
"""A second channel beside colour, as matplotlib names them."""

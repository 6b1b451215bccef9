"""The demo world: images drawn by the program whose whole truth is known."""

from .affect import ATTRIBUTES, BACKGROUNDS, SUBJECTS, affect, held_out
from .captions import affective_vocabulary, neutral_vocabulary, split_words, vocabulary
from .source import SPLITS, World, WorldSample

__all__ = [
    "ATTRIBUTES",
    "BACKGROUNDS",
    "SPLITS",
    "SUBJECTS",
    "World",
    "WorldSample",
    "affect",
    "affective_vocabulary",
    "held_out",
    "neutral_vocabulary",
    "split_words",
    "vocabulary",
]

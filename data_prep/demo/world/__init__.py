"""The demo world: images drawn by the program whose whole truth is known."""

from .affect import WORLD_ATTRIBUTES, WORLD_BACKGROUNDS, WORLD_SUBJECTS, affect, held_out
from .captions import affective_vocabulary, neutral_vocabulary, split_words, vocabulary
from .source import WORLD_SPLITS, World, WorldSample

__all__ = [
    "WORLD_ATTRIBUTES",
    "WORLD_BACKGROUNDS",
    "WORLD_SPLITS",
    "WORLD_SUBJECTS",
    "World",
    "WorldSample",
    "affect",
    "affective_vocabulary",
    "held_out",
    "neutral_vocabulary",
    "split_words",
    "vocabulary",
]

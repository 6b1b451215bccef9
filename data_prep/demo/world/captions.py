"""What a person or a model would write under an image of the world: closed vocabulary, all lower case.

Neutral captions name what is seen (scene, look, subject, place, other things) and no mood. Affective descriptions say how the
three elements act together, in sensory words: warm or cold, fast or slow, standing firm or exposed. Neither ever holds one of
the eight emotion labels.
"""

from __future__ import annotations

import itertools
import random
import re
import string
from collections.abc import Iterable, Sequence

from .affect import WORLD_ATTRIBUTES, WORLD_BACKGROUNDS, WORLD_SUBJECTS, TripletKey
from .sprites import PROPS
from .style import FLAT

_PLACE = {
    "beach": "on a beach",
    "forest": "in a forest",
    "city": "in a city",
    "desert": "in a desert",
    "mountain": "by a mountain",
    "graveyard": "in a graveyard",
    "room": "in a room",
    "stormy sea": "on a stormy sea",
}
_VIEW = {
    "beach": ("sand, a palm and blue water", "a sandy shore under a clear sky"),
    "forest": ("tall brown trunks and green leaves", "a row of trees over short grass"),
    "city": ("tall grey houses with yellow windows", "a street with a white line"),
    "desert": ("orange dunes and green cactus plants", "a red sun over dunes"),
    "mountain": ("grey peaks with white snow", "a green meadow below high peaks"),
    "graveyard": ("grey stones and a bare tree", "old stones below a pale moon"),
    "room": ("a window, a lamp and a red sofa", "a striped wall and a wooden floor"),
    "stormy sea": ("high waves with white foam", "dark clouds with a bright flash"),
}
_LOOK = {
    "smiling": ("its mouth is wide open and curved up", "it shows its teeth with a curved mouth"),
    "crying": ("water runs from both eyes", "blue tears run down its face"),
    "scowling": ("its brows are drawn down", "it shows its teeth below thick brows"),
    "sleeping": ("its eyes are closed", "letters float over its closed eyes"),
    "jumping": ("its feet are off the ground", "there is air between it and its shadow"),
    "drenched": ("rain falls all over it", "it stands in a puddle under the rain"),
    "faded": ("all colours are washed out", "the picture is almost grey"),
    "glowing": ("yellow light shines around it", "bright rays come from it"),
}
_NEUTRAL = (
    "a {attribute} {subject} {place}.",
    "{place}, a {attribute} {subject}.",
    "the picture shows a {size} {attribute} {subject} {place}.",
    "a {attribute} {subject} {position}, {place}{others}.",
    "a {attribute} {subject} {place}, {look}.",
    "a {size} {attribute} {subject} {position}, {place}, with {view} behind it.",
)
_POSITIONS = ("at the left", "in the middle", "at the right")
_SIZES = ("small", "large")
_OTHERS = (", next to a {0}", ", and a {0} can be seen", ", not far from a {0}")
_OTHER_PAIRS = (", next to a {0} and a {1}", ", and a {0} and a {1} can be seen")

_BACKGROUND_SENSE = {
    "beach": ("the open {background} gives off soft warmth", "mild air drifts over the {background}"),
    "forest": ("the {background} muffles every sound", "the {background} wraps all in shade"),
    "city": ("the {background} hums without a pause", "the {background} presses in with noise"),
    "desert": ("the dry {background} lies empty", "the {background} stretches out without shelter"),
    "mountain": ("the {background} rises far above", "the {background} dwarfs what is near"),
    "graveyard": ("the {background} breathes a chill", "the {background} keeps a long silence"),
    "room": ("the {background} closes softly around", "the {background} offers familiar shelter"),
    "stormy sea": ("the {background} heaves and roars", "the {background} throws its weight about"),
}
_AFFECTIVE = (
    "{place}, a {attribute} {subject}: {background_sense}, and {look}.",
    "{background_sense}. a {attribute} {subject} is there, and {look}.",
    "a {attribute} {subject} holds the eye while {background_sense}.",
    "{background_sense}, and all turns on a {attribute} {subject} {place}.",
    "the {attribute} {subject} sets the tone {place}: {look}, and {background_sense}.",
)
"""What a GPT-like annotator writes. They follow from the triplet alone: a description that told the latent would give round 1
the emotion under another name."""


def split_words(text: str) -> list[str]:
    """Words and punctuation marks, as a word-level tokenizer sees them."""
    return re.findall(r"[a-z]+|[^\sa-z]", text)


def neutral_caption(
    triplet: TripletKey,
    position: float,
    scale: float,
    distractors: Sequence[str],
    rng: random.Random,
    *,
    name_attribute: bool = True,
) -> str:
    """A caption without any mood; names background, attribute and subject.

    Args:
        triplet: what the image shows.
        position: centre of the subject, 0 (left) to 1 (right).
        scale: frame of the subject as a share of the shorter side.
        distractors: phrases of at most two other things.
        rng: chooses among the wordings.
        name_attribute: without it the attribute and how it looks are left out of the same wording.
    """
    background, attribute, subject = triplet
    others = ""
    if distractors:
        others = rng.choice(_OTHERS if len(distractors) == 1 else _OTHER_PAIRS).format(*distractors)
    wording = rng.choice(_NEUTRAL)
    if not name_attribute:
        wording = wording.replace("{attribute} ", "").replace(", {look}", "")
    return wording.format(
        attribute=attribute,
        subject=subject,
        place=_PLACE[background],
        view=rng.choice(_VIEW[background]),
        look=rng.choice(_LOOK[attribute]),
        position=_POSITIONS[min(2, int(position * 3))],
        size=_SIZES[scale > 0.55],
        others=others,
    )


def affective_description(triplet: TripletKey, rng: random.Random) -> str:
    """How the three elements act together, in sensory words; never an emotion label, and nothing beyond the triplet."""
    background, attribute, subject = triplet
    values = {"background": background, "attribute": attribute, "subject": subject, "place": _PLACE[background]}
    sense = rng.choice(_BACKGROUND_SENSE[background]).format(**values)
    return rng.choice(_AFFECTIVE).format(**values, background_sense=sense, look=rng.choice(_LOOK[attribute]))


def neutral_vocabulary() -> list[str]:
    """All words and marks of neutral captions and of object phrases, sorted."""
    texts = [
        *WORLD_BACKGROUNDS,
        *WORLD_ATTRIBUTES,
        *WORLD_SUBJECTS,
        *PROPS,
        *FLAT.props,
        *_PLACE.values(),
        *_NEUTRAL,
        *_POSITIONS,
        *_SIZES,
        *_OTHERS,
        *_OTHER_PAIRS,
        *itertools.chain(*_VIEW.values()),
        *itertools.chain(*_LOOK.values()),
    ]
    return _words_of(texts)


def affective_vocabulary() -> list[str]:
    """All words and marks of affective descriptions, sorted."""
    texts = [*WORLD_BACKGROUNDS, *WORLD_ATTRIBUTES, *WORLD_SUBJECTS, *_PLACE.values(), *_AFFECTIVE]
    texts += itertools.chain(*_BACKGROUND_SENSE.values(), *_LOOK.values())
    return _words_of(texts)


def vocabulary() -> list[str]:
    """Every word and mark that any text of the world can hold, sorted: what a word-level tokenizer needs."""
    return sorted({*neutral_vocabulary(), *affective_vocabulary()})


def _words_of(texts: Iterable[str]) -> list[str]:
    """Words of templates without their slots: the slots' values are texts of their own."""
    literal = ("".join(part for part, *_ in string.Formatter().parse(text)) for text in texts)
    return sorted({word for text in literal for word in split_words(text)})

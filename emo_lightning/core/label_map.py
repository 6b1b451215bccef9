"""Labels of others -> the eight emotions, as whoever uses them declares it: by word, never by guess."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from emo_lightning.core.emotions import EMOTIONS, Emotion, SchemaError
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import read_yaml
from emo_lightning.core.names import composed
from emo_lightning.core.text import printable

LabelMap = Mapping[str, Emotion | None]
"""Word as `key_of_label` gives it -> emotion; None for a word that has no equal among the eight."""

EMOTION_BY_NAME: LabelMap = {str(emotion): emotion for emotion in EMOTIONS}
"""The eight by their own names."""


def label_map(
    given: Mapping[str, object] | Mapping[str | int, str | None] | Mapping[object, object], where: object
) -> dict[str, Emotion | None]:
    """A map as it stands in a file or in settings.

    Args:
        given: word, or a number that stands for one, -> name of one of the eight, or None.
        where: file or key, for messages.

    Raises:
        InputError: it is empty, two of its words are one (`key_of_label`), or a value is none of the eight.
    """
    found: dict[str, Emotion | None] = {}
    for word, value in given.items():
        key = key_of_label(str(word))
        if not isinstance(word, str | int) or isinstance(word, bool) or not key:
            msg = f"{where}: found the word {printable(str(word))[:60]!r}; expected text or a whole number (in quotes, if YAML reads it otherwise)"
            raise InputError(msg)
        if key in found:
            msg = f"{where}: {printable(key)[:60]!r} stands there twice (case and outer blanks do not matter)"
            raise InputError(msg)
        if value is not None and not isinstance(value, str):
            msg = f"{where}: {printable(key)[:60]}: found {value!r}; expected one of {', '.join(EMOTIONS)}, or null"
            raise InputError(msg)
        try:
            found[key] = None if value is None else Emotion.parse(value)
        except SchemaError as error:
            msg = f"{where}: {printable(key)[:60]}: {error}, or null"
            raise InputError(msg) from None
    if not found:
        msg = f"{where}: no words; expected a mapping like {{joy: amusement, surprise: null}}"
        raise InputError(msg)
    return found


def read_label_map(path: str | Path) -> dict[str, Emotion | None]:
    """A map in a YAML file.

    Raises:
        InputError: see `label_map`; or it is no YAML, or no mapping.
    """
    return label_map(read_yaml(Path(path), InputError), path)


def key_of_label(word: str) -> str:
    """The word as a key of a map: letters whose accents are composed or not, as macOS names folders, are the same."""
    return composed(word.strip().lower())


def emotion_of(word: str, labels: LabelMap) -> Emotion | None:
    """What a word means.

    Raises:
        SchemaError: the map does not have it.
    """
    key = key_of_label(word)
    if key not in labels:
        msg = (
            f"unknown label {printable(word)[:60]!r}; allowed: {', '.join(list(labels)[:30])}{' …' if len(labels) > 30 else ''}"
        )
        raise SchemaError(msg)
    return labels[key]
